"""Naive RAG: the best passages for the question itself. What s3's reward measures the gain beyond."""

from __future__ import annotations

from dataclasses import dataclass, field

from search_agent.episode import Episode
from search_agent.types import Mode, StopReason, Turn


@dataclass(frozen=True)
class NaiveRagParams:
    top_k: int = field(default=3, metadata={"minimum": 1, "maximum": 100, "help": "passages given to the generator"})
    index: str = field(default="", metadata={"help": "index to search; empty is the default one"})
    mode: Mode = field(default=Mode.DENSE, metadata={"help": "dense, bm25 or hybrid"})
    rerank: int = field(
        default=0, metadata={"minimum": 0, "maximum": 100, "help": "passages that a cross-encoder ranks anew; 0: none"}
    )


async def search(episode: Episode, params: NaiveRagParams) -> StopReason:
    """One retrieval, all of it kept."""
    passages = await episode.retrieve(episode.question, params.top_k, params.index, params.mode, params.rerank)
    episode.record(Turn(episode.question, passages, passages))
    return StopReason.COMPLETE
