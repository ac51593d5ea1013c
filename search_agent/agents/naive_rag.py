"""Naive RAG: the best passages for the question itself. What s3's reward measures the gain beyond."""

from __future__ import annotations

from dataclasses import dataclass

from search_agent.episode import Episode
from search_agent.types import Retrieval, StopReason, Turn


@dataclass(frozen=True)
class NaiveRagParams(Retrieval):
    """The generator gets all that the search returns."""


async def search(episode: Episode, params: NaiveRagParams) -> StopReason:
    """One retrieval, all of it kept."""
    passages = await episode.retrieve(episode.question.text, params)
    episode.record(Turn(episode.question.text, passages, passages))
    return StopReason.COMPLETE
