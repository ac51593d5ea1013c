"""Search-o1: searches inside the reasoning, each result condensed before it is read (Li et al., arXiv 2501.05366).

It keeps the digests, not the passages. A digest is a document with the id "digest-1", "digest-2" and so on by turn,
the query as title and the digest as text. The record of the turn names the passages it was made from.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_agent import gbnf, prompts, tags
from search_agent.agents.dialogue import DialogueParams, turns, write
from search_agent.episode import Episode
from search_agent.types import FinishReason, Passage, StopReason, Turn

BEGIN_QUERY, END_QUERY = "<|begin_search_query|>", "<|end_search_query|>"
BEGIN_RESULT, END_RESULT = "<|begin_search_result|>", "<|end_search_result|>"
STOPS = (END_QUERY,)
NOTHING = "Nothing of use was found."  # digest of passages that do not help; it is not kept


@dataclass(frozen=True)
class SearchO1Params(DialogueParams):
    max_turns: int = turns(4, "searches")


@dataclass(frozen=True, slots=True)
class Move:
    """Reasoning that ends with a search, or ends the episode without one. `error` says what was malformed."""

    query: str = ""
    error: str = ""


def render_move(thought: str, move: Move) -> str:
    """Returns the canonical text of a move."""
    return f"{thought}\n{BEGIN_QUERY}{move.query}{END_QUERY}" if move.query else thought


def render_result(digest: str) -> str:
    """Returns the environment's text after a search."""
    return f"\n\n{BEGIN_RESULT}\n{digest}\n{END_RESULT}\n\n"


def move_grammar() -> str:
    """Returns GBNF for `render_move`'s texts."""
    return gbnf.grammar(
        "line search?",
        f"search ::= {gbnf.literal(chr(10) + BEGIN_QUERY)} line {gbnf.literal(END_QUERY)}",
        gbnf.LINE,
    )


def digest_grammar() -> str:
    """Returns GBNF for a digest: one line without tags."""
    return gbnf.grammar("line", gbnf.LINE)


def parse_move(text: str) -> Move:
    """Reads any text. The first search counts; without one, the reasoning has ended. Never raises."""
    if pair := tags.between(text, BEGIN_QUERY, END_QUERY):
        query = tags.one_line(text[pair[1] : pair[2]], tags.MAX_QUERY_CHARS)
        return Move(query, "" if query else "the search is empty")
    return Move(error="a search was begun and not ended" if BEGIN_QUERY in text.lower() else "")


async def search(episode: Episode, params: SearchO1Params) -> StopReason:
    """Reasons and searches until the reasoning ends without a search; keeps the digests."""
    # The example searches for the question itself: a weak model that copies it does plain retrieval.
    example = render_move("I do not know this yet.", Move(episode.asked))
    episode.observe(
        prompts.render(
            "search_o1",
            question=episode.asked,
            example=example,
            begin_result=BEGIN_RESULT,
            end_result=END_RESULT,
        )
    )
    for turn in range(1, params.max_turns + 1):
        completion = await write(episode, params, move_grammar(), STOPS, lambda text: not parse_move(text).error)
        move = parse_move(episode.spans[-1].text)
        error = move.error
        if not move.query and not error:
            if completion.finish_reason is FinishReason.STOP:
                return StopReason.COMPLETE
            error = "the reasoning was cut off"
        block: tuple[Passage, ...] = ()
        kept: tuple[Passage, ...] = ()
        if move.query:
            block = await episode.retrieve(move.query, params)
            digest = await _digest(episode, params, move.query, block) if block else ""
            if digest:
                kept = (Passage(f"digest-{turn}", move.query, digest),)
            said = render_result(digest or NOTHING)
        else:
            said = f"\n\n{prompts.render('nudge', example=example)}\n\n"
        episode.record(Turn(move.query, block, kept, error))
        # The next turn may write both its reasoning and a digest.
        if turn < params.max_turns and not params.fits(completion.tokens, 3):
            return StopReason.BUDGET
        episode.observe(said)
    return StopReason.INVALID if error else StopReason.MAX_TURNS


async def _digest(episode: Episode, params: SearchO1Params, query: str, block: tuple[Passage, ...]) -> str:
    """Condenses the passages for the reasoning so far, in a separate call. Returns "" if nothing helps."""
    reasoning = "".join(span.text for span in episode.spans[1:])
    completion = await episode.consult(
        lambda chars: prompts.render(
            "search_o1_digest",
            question=episode.asked,
            reasoning=reasoning,
            query=query,
            documents=tags.render_documents(block, chars),
            nothing=NOTHING,
        ),
        params.observation_chars,
        params.sampling(digest_grammar(), ()),
    )
    digest = tags.one_line(tags.without_thoughts(completion.text))
    return "" if digest.rstrip(".").lower() == NOTHING.rstrip(".").lower() else digest
