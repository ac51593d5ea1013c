"""DeepRetrieval: the question rewritten into one query, for BM25 by default (Jiang et al., arXiv 2503.00223).

The query may contain AND, OR, NOT, brackets and quotes, as the public checkpoints write them. It goes to the retriever
unchanged; our BM25 backends read its words and ignore the operators.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_agent import gbnf, prompts, tags
from search_agent.agents.dialogue import SearcherParams, write
from search_agent.episode import Episode
from search_agent.parameters import redefault
from search_agent.types import Mode, StopReason, Turn

ANSWER = "answer"
STOPS = (tags.closing(ANSWER),)


@dataclass(frozen=True)
class DeepRetrievalParams(SearcherParams):
    mode: Mode = redefault(SearcherParams, "mode", Mode.BM25)


def render_rewriting(thought: str, query: str) -> str:
    """Returns the canonical text of a rewriting."""
    thinking = f"{tags.opening(tags.THINK)}{thought}{tags.closing(tags.THINK)}"
    return f"{thinking}\n{tags.opening(ANSWER)}{tags.render_query(query)}{tags.closing(ANSWER)}"


def rewriting_grammar() -> str:
    """Returns GBNF for `render_rewriting`'s texts."""
    before, between, after = (
        gbnf.literal(text)
        for text in (
            tags.opening(tags.THINK),
            f"{tags.closing(tags.THINK)}\n{tags.opening(ANSWER)}",
            tags.closing(ANSWER),
        )
    )
    return gbnf.grammar(
        f"{before} line {between} query {after}",
        gbnf.LINE,
        gbnf.query(before='"("{0,4}'),
    )


def parse_rewriting(text: str) -> tuple[str, str]:
    """Returns the query in any text, and what was malformed; one of the two is empty. Never raises."""
    payload = tags.content(tags.without_thoughts(text), ANSWER)
    if payload is None:
        return "", "no answer with a query"
    query = tags.parse_query(payload)
    return query, "" if query else "the query is empty"


async def search(episode: Episode, params: DeepRetrievalParams) -> StopReason:
    """Rewrites once, searches once and keeps every passage. A malformed rewriting finds nothing."""
    # The example searches for the question itself: a weak model that copies it does plain retrieval.
    example = render_rewriting("A document with the answer would use these words.", episode.asked)
    episode.observe(prompts.render("deep_retrieval", question=episode.asked, example=example))
    await write(episode, params, rewriting_grammar(), STOPS, lambda text: not parse_rewriting(text)[1])
    query, error = parse_rewriting(episode.spans[-1].text)
    passages = await episode.retrieve(query, params) if query else ()
    episode.record(Turn(query, passages, passages, error))
    return StopReason.COMPLETE if query else StopReason.INVALID
