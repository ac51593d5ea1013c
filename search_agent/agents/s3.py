"""s3: search and select in turns (Jiang et al., arXiv 2505.14146)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from search_agent import prompts, tags
from search_agent.agents.dialogue import DialogueParams, turns, write
from search_agent.episode import Episode
from search_agent.parameters import number, option, redefault
from search_agent.types import FinishReason, Passage, StopReason, Turn

_EXAMPLE_COMPLETE = tags.render_move(tags.Move((1,), complete=True))
_EXAMPLE_SEARCH = tags.render_move(tags.Move((2, 5), "a short search for what is still missing"))


@dataclass(frozen=True)
class S3Params(DialogueParams):
    """The paper's setting "8-3-3" is `top_k` 8, `max_selected` 3 a turn, `max_turns` 3.

    The initial search belongs to the first turn, so that 3 turns keep at most 9 passages, as published.
    """

    top_k: int = redefault(DialogueParams, "top_k", 8)
    max_selected: int = number(3, 1, 100, "passages that a turn may keep")
    max_turns: int = turns(3, "information blocks")
    # The published code keeps the whole block without a selection, which a policy can exploit.
    unselected_block: Literal["none", "all"] = option("none", "what a block without a selection contributes")
    # A small model then finds the number beside the text it has just read.
    numbered_twice: bool = option(False, "write a passage's number behind it too, as the searcher has learned it")

    def information(self, block: Sequence[Passage], chars: int) -> str:
        return tags.render_information(block, chars, self.numbered_twice)


async def search(episode: Episode, params: S3Params) -> StopReason:
    """Searches with the question, then lets the policy select and search until it completes."""
    query, block = episode.question.text, await episode.retrieve(episode.question.text, params)
    first = block
    episode.show(
        lambda chars: prompts.render(
            "s3",
            question=episode.asked,
            max_selected=params.max_selected,
            example_complete=_EXAMPLE_COMPLETE,
            example_search=_EXAMPLE_SEARCH,
            information=params.information(first, chars),
        ),
        params.observation_chars,
    )
    for turn in range(1, params.max_turns + 1):
        last = turn == params.max_turns
        move, tokens = await _move(episode, params, block, may_search=not last)
        episode.record(Turn(query, block, _selection(move, block, params), move.error))
        if move.complete:
            return StopReason.COMPLETE
        if last:
            return StopReason.MAX_TURNS if move.valid else StopReason.INVALID
        if not params.fits(tokens):
            return StopReason.BUDGET
        if move.valid:
            query = move.query
            block = await episode.retrieve(query, params)
            episode.show(partial(_result, params, block), params.observation_chars)
        else:
            query, block = "", ()
            episode.observe(f"\n\n{prompts.render('s3_nudge', example_search=_EXAMPLE_SEARCH)}\n\n")
    raise AssertionError("the last turn returns")


def _result(params: S3Params, block: Sequence[Passage], chars: int) -> str:
    return f"\n\n{params.information(block, chars)}\n\n"


async def _move(
    episode: Episode, params: S3Params, block: tuple[Passage, ...], may_search: bool
) -> tuple[tags.Move, int]:
    """Returns a move, and the tokens of the dialogue after it. Without a grammar it may take two completions."""
    grammar = tags.move_grammar(len(block), params.max_selected, may_search)
    stops = tags.ENDS if params.constrained else tags.STOPS

    def well_formed(text: str) -> bool:
        move = tags.parse_move(text, len(block), params.max_selected)
        return not move.error and move.selected is not None and (may_search or move.complete)

    text, left = "", params.turn_tokens
    while True:
        completion = await write(episode, replace(params, turn_tokens=left), grammar, stops, well_formed)
        text += episode.spans[-1].text
        left -= max(1, completion.completion_tokens)
        stopped_early = completion.finish_reason is FinishReason.STOP and tags.wants_more(text)
        if not (stopped_early and may_search and left > 0 and completion.text):
            return tags.parse_move(text, len(block), params.max_selected), completion.tokens


def _selection(move: tags.Move, block: tuple[Passage, ...], params: S3Params) -> tuple[Passage, ...]:
    if move.selected is None:
        return block if params.unselected_block == "all" else ()
    return tuple(block[number - 1] for number in move.selected)
