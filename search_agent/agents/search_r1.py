"""Search-R1: think, search or answer (Jin et al., arXiv 2503.09516), with the tags of its public checkpoints.

Results stand between information tags in the same assistant message, which the model then continues.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from search_agent import gbnf, prompts, tags
from search_agent.agents.dialogue import DialogueParams, look_up, turns, write
from search_agent.episode import Episode
from search_agent.parameters import option
from search_agent.types import StopReason

SEARCH, ANSWER = "search", "answer"
STOPS = (tags.closing(SEARCH), tags.closing(ANSWER))


@dataclass(frozen=True)
class SearchR1Params(DialogueParams):
    max_turns: int = turns(4, "searches")
    # The generator's answer from the passages is the s3 paper's "Search-R1 (Ret)".
    answerer: Literal["generator", "searcher"] = option(
        "generator", "who answers: the generator from the passages, or the searcher"
    )


@dataclass(frozen=True, slots=True)
class Move:
    """A search or an answer. `error` says why the text was neither."""

    query: str = ""
    answer: str = ""
    error: str = ""


def render_move(thought: str, move: Move) -> str:
    """Returns the canonical text of a move."""
    tag, said = (ANSWER, move.answer) if move.answer else (SEARCH, move.query)
    thinking = f"{tags.opening(tags.THINK)}{thought}{tags.closing(tags.THINK)}"
    return f"{thinking}\n{tags.opening(tag)}{said}{tags.closing(tag)}"


def move_grammar(may_search: bool) -> str:
    """Returns GBNF for `render_move`'s texts, with a search only if `may_search`."""

    def line_in(tag: str) -> str:
        return f"{gbnf.literal(tags.opening(tag))} line {gbnf.literal(tags.closing(tag))}"

    action = f"({line_in(SEARCH)} | {line_in(ANSWER)})" if may_search else line_in(ANSWER)
    return gbnf.grammar(f'{line_in(tags.THINK)} "\\n" {action}', gbnf.LINE)


def parse_move(text: str) -> Move:
    """Reads the first search or answer outside of thoughts in any text. Never raises."""
    text = tags.without_thoughts(text)
    tag, said = tags.first_of(text, SEARCH, ANSWER)
    if not tag:
        return Move(error="neither a search nor an answer")
    if tag == ANSWER:
        answer = said.strip()
        return Move(answer=answer, error="" if answer else f"{ANSWER} is empty")
    query = tags.one_line(said, tags.MAX_QUERY_CHARS)
    return Move(query, error="" if query else f"{SEARCH} is empty")


async def search(episode: Episode, params: SearchR1Params) -> StopReason:
    """Searches until the policy answers, and keeps every passage found.

    A searcher that answers itself gets one more turn after its last search, in which it cannot search. If it still does
    not answer, its answer is the empty string, and the stop reason says so.
    """
    answers = params.answerer == "searcher"
    if answers:
        episode.own_answer = ""
    # The example searches for the question itself: a weak model that copies it does plain retrieval.
    example = render_move("I do not know this yet.", Move(episode.asked))
    episode.observe(
        prompts.render(
            "search_r1",
            question=episode.asked,
            example_search=example,
            example_answer=render_move("Now I know it.", Move(answer="a few words")),
            begin_information=tags.opening(tags.INFORMATION),
            end_information=tags.closing(tags.INFORMATION),
        )
    )
    for turn in range(1, params.max_turns + 1 + answers):
        may_search = turn <= params.max_turns

        def well_formed(text: str, may_search: bool = may_search) -> bool:
            move = parse_move(text)
            return bool(move.answer or (may_search and move.query))

        completion = await write(episode, params, move_grammar(may_search), STOPS, well_formed)
        move = parse_move(episode.spans[-1].text)
        if move.answer:
            if answers:
                episode.own_answer = move.answer
            return StopReason.COMPLETE
        if not may_search:
            break
        said = await look_up(episode, params, move.query, move.error, example)
        if turn < params.max_turns + answers and not params.fits(completion.tokens):
            return StopReason.BUDGET
        episode.show(said, params.observation_chars)
    return StopReason.INVALID if move.error else StopReason.MAX_TURNS
