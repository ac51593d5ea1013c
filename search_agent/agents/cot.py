"""CoT: the generator reasons step by step, then answers (Wei et al., arXiv 2201.11903). Nothing is searched."""

from __future__ import annotations

from dataclasses import dataclass

from search_agent.episode import Episode
from search_agent.parameters import number
from search_agent.types import StopReason


@dataclass(frozen=True)
class CotParams:
    reasoning_tokens: int = number(256, 16, 32_768, "tokens that the generator may reason in before its answer")


async def search(episode: Episode, params: CotParams) -> StopReason:
    """Leaves the generator room to reason; its answer line is the answer."""
    episode.reasoning_tokens = params.reasoning_tokens
    return StopReason.COMPLETE
