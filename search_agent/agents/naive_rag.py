"""Naive RAG: the best passages for the question itself. The baseline of s3's reward."""

from __future__ import annotations

from dataclasses import dataclass

from search_agent.episode import Episode
from search_agent.types import Retrieval, StopReason, Turn


@dataclass(frozen=True)
class NaiveRagParams(Retrieval):
    """The generator reads every passage that the search returns."""


async def search(episode: Episode, params: NaiveRagParams) -> StopReason:
    """Searches once and keeps every passage."""
    passages = await episode.retrieve(episode.question.text, params)
    episode.record(Turn(episode.question.text, passages, passages))
    return StopReason.COMPLETE
