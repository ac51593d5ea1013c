"""What the methods with a searcher have in common: parameters, how it is asked, and the token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search_agent import prompts, tags
from search_agent.episode import Episode
from search_agent.parameters import number, option
from search_agent.types import Retrieval, Sampling, Turn

_CHARS_PER_TOKEN = 3  # a cautious guess for the budget; English text has about four


@dataclass(frozen=True)
class SearcherParams(Retrieval):
    """A searcher and what it searches."""

    constrained: bool = option(True, "hold the searcher to the protocol's grammar")
    temperature: float = number(0.0, 0, 2, "temperature of the searcher's sampling; 0: greedy")
    turn_tokens: int = number(500, 16, 32_768, "tokens that the searcher may write in a turn")

    def sampling(self, grammar: str, stops: Sequence[str]) -> Sampling:
        """How a turn is asked for: held to the grammar, or free to write until one of `stops`."""
        return Sampling(
            max_tokens=self.turn_tokens,
            temperature=self.temperature,
            stop=() if self.constrained else tuple(stops),
            grammar=grammar if self.constrained else "",
        )


@dataclass(frozen=True)
class DialogueParams(SearcherParams):
    """A searcher that reads what it found and goes on."""

    observation_chars: int = number(2000, 100, 1_000_000, "characters of a block, shared by its passages")
    context_tokens: int = number(4096, 512, 1_000_000, "tokens of the whole dialogue")

    def fits(self, tokens: int, calls: int = 1) -> bool:
        """Whether after `tokens` the dialogue has room for another block and what `calls` calls may write."""
        return tokens + calls * self.turn_tokens + self.observation_chars // _CHARS_PER_TOKEN <= self.context_tokens


def turns(default: int, help: str) -> Any:
    """The parameter `max_turns`, which counts something else in each method."""
    return number(default, 1, 20, help)


async def look_up(episode: Episode, params: DialogueParams, query: str, error: str, example: str) -> str:
    """Ends a turn of a method that keeps all it finds, and returns what the environment says to it: the block
    that the query found, or without a query a nudge that shows `example`."""
    if query:
        block = await episode.retrieve(query, params)
        said = tags.render_information(block, params.observation_chars)
    else:
        block, said = (), prompts.render("nudge", example=example)
    episode.record(Turn(query, block, block, error))
    return said
