"""Shared by the methods with a searcher: its parameters, its sampling, and the token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from search_agent import prompts, tags
from search_agent.episode import Episode
from search_agent.parameters import number, option
from search_agent.types import Completion, Retrieval, Sampling, Turn

_CHARS_PER_TOKEN = 3  # a cautious guess for the budget; English text has about four


@dataclass(frozen=True)
class SearcherParams(Retrieval):
    """Parameters of a searcher and its searches."""

    constrained: bool = option(True, "hold the searcher to the protocol's grammar")
    # Grammars cost an engine time at every token, and a trained searcher rarely needs them.
    free_first: bool = option(
        False, "let it write each turn freely, and hold to the grammar only the second try of one that is malformed"
    )
    temperature: float = number(0.0, 0, 2, "temperature of the searcher's sampling; 0: greedy")
    turn_tokens: int = number(500, 16, 32_768, "tokens that the searcher may write in a turn")

    def sampling(self, grammar: str, stops: Sequence[str]) -> Sampling:
        """Returns the sampling of a turn: held to the grammar, or free until one of `stops`."""
        return Sampling(
            max_tokens=self.turn_tokens,
            temperature=self.temperature,
            stop=() if self.constrained else tuple(stops),
            grammar=grammar if self.constrained else "",
        )


async def write(
    episode: Episode, params: SearcherParams, grammar: str, stops: Sequence[str], well_formed: Callable[[str], bool]
) -> Completion:
    """Lets the searcher write a turn: under the grammar, freely until one of `stops`, or freely first.

    With `free_first`, a text that is not `well_formed` is taken back and written again under the grammar.
    """
    if params.constrained and params.free_first:
        completion = await episode.complete(replace(params, constrained=False).sampling(grammar, stops))
        if well_formed(episode.spans[-1].text):
            return completion
        episode.take_back()
    return await episode.complete(params.sampling(grammar, stops))


@dataclass(frozen=True)
class DialogueParams(SearcherParams):
    """Parameters of a searcher that reads its results and continues."""

    observation_chars: int = number(2000, 100, 1_000_000, "characters of a block, shared by its passages")
    context_tokens: int = number(4096, 512, 1_000_000, "tokens of the whole dialogue")

    def fits(self, tokens: int, calls: int = 1) -> bool:
        """Returns whether a dialogue of `tokens` has room for another block and the texts of `calls` calls."""
        return tokens + calls * self.turn_tokens + self.observation_chars // _CHARS_PER_TOKEN <= self.context_tokens


def turns(default: int, help: str) -> Any:
    """Declares `max_turns`, which counts something else in each method."""
    return number(default, 1, 20, help)


async def look_up(
    episode: Episode, params: DialogueParams, query: str, error: str, example: str
) -> Callable[[int], str]:
    """Ends a turn of a method that keeps everything it finds.

    Returns the environment's reply, for `Episode.show`: the block that the query found, or without a query a nudge that
    shows `example`.
    """
    block = await episode.retrieve(query, params) if query else ()
    episode.record(Turn(query, block, block, error))

    def said(chars: int) -> str:
        information = tags.render_information(block, chars) if query else prompts.render("nudge", example=example)
        return f"\n\n{information}\n\n"

    return said
