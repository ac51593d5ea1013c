"""IRCoT: each sentence of the reasoning is the next query (Trivedi et al., arXiv 2212.10509)."""

from __future__ import annotations

from dataclasses import dataclass

from search_agent import gbnf, prompts, tags
from search_agent.agents.dialogue import DialogueParams, look_up, turns, write
from search_agent.episode import Episode
from search_agent.types import StopReason, Turn

SENTENCE, ENOUGH = "sentence", "enough"
STOPS = (tags.closing(ENOUGH),)


@dataclass(frozen=True)
class IrcotParams(DialogueParams):
    max_turns: int = turns(4, "sentences, each of which may search once more")


@dataclass(frozen=True, slots=True)
class Move:
    """The next sentence of the reasoning, and whether the documents so far are enough.

    `error` says what was malformed. A move that has no sentence and does not end the search is invalid.
    """

    sentence: str = ""
    enough: bool = False
    error: str = ""

    @property
    def valid(self) -> bool:
        return self.enough or bool(self.sentence)


def render_move(move: Move) -> str:
    """Returns the canonical text of a valid move."""
    sentence = f"{tags.opening(SENTENCE)}{move.sentence}{tags.closing(SENTENCE)}"
    return f"{sentence}\n{tags.opening(ENOUGH)}{move.enough}{tags.closing(ENOUGH)}"


def move_grammar() -> str:
    """Returns GBNF for `render_move`'s texts."""
    before, between, after = (
        gbnf.literal(text)
        for text in (
            tags.opening(SENTENCE),
            f"{tags.closing(SENTENCE)}\n{tags.opening(ENOUGH)}",
            tags.closing(ENOUGH),
        )
    )
    return gbnf.grammar(f'{before} line {between} ("True" | "False") {after}', gbnf.LINE)


def parse_move(text: str) -> Move:
    """Reads any text. The first of a repeated tag counts. Never raises."""
    text = tags.without_thoughts(text)
    errors = []
    sentence = tags.one_line(tags.content(text, SENTENCE) or "", tags.MAX_QUERY_CHARS)
    enough = tags.truth(tags.content(text, ENOUGH) or "")
    if not sentence:
        errors.append("no sentence")
    if enough is None:
        errors.append(f"{ENOUGH} is neither True nor False")
    return Move(sentence, bool(enough), "; ".join(errors))


async def search(episode: Episode, params: IrcotParams) -> StopReason:
    """Searches with the question, then with each sentence until one says that it is enough. Keeps every passage."""
    # The example searches for the question itself: a weak model that copies it does plain retrieval.
    example = render_move(Move(f"It must be found out: {episode.asked}"))
    query = episode.question.text
    block = await episode.retrieve(query, params)
    episode.record(Turn(query, block, block))
    episode.show(
        lambda chars: prompts.render(
            "ircot",
            question=episode.asked,
            example=example,
            example_last=render_move(Move("One sentence that gives the answer.", enough=True)),
            information=tags.render_information(block, chars),
        ),
        params.observation_chars,
    )
    for turn in range(1, params.max_turns + 1):
        completion = await write(episode, params, move_grammar(), STOPS, lambda text: not parse_move(text).error)
        move = parse_move(episode.spans[-1].text)
        if move.enough:
            return StopReason.COMPLETE
        said = await look_up(episode, params, move.sentence, move.error, example)
        if turn < params.max_turns and not params.fits(completion.tokens):
            return StopReason.BUDGET
        episode.show(said, params.observation_chars)
    return StopReason.MAX_TURNS if move.valid else StopReason.INVALID
