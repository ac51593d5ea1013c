"""CoT: the generator reasons step by step, then answers (Wei et al., arXiv 2201.11903). Nothing is searched."""

from __future__ import annotations

from dataclasses import dataclass, field

from search_agent.episode import Episode
from search_agent.types import StopReason


@dataclass(frozen=True)
class CotParams:
    reasoning_tokens: int = field(
        default=256, metadata={"minimum": 16, "help": "tokens the generator may reason in before its answer"}
    )


async def search(episode: Episode, params: CotParams) -> StopReason:
    """Leaves the generator room to reason; the answer is what its answer line says."""
    episode.reasoning_tokens = params.reasoning_tokens
    return StopReason.COMPLETE
