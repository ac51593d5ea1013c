"""Direct: the generator answers from what it knows."""

from __future__ import annotations

from dataclasses import dataclass

from search_agent.episode import Episode
from search_agent.types import StopReason


@dataclass(frozen=True)
class DirectParams:
    pass


async def search(episode: Episode, params: DirectParams) -> StopReason:
    """Searches nothing."""
    return StopReason.COMPLETE
