"""Results of the tools, as values and as text for a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

from common.codecs import fields_of
from search_agent.types import Trajectory, Turn
from services.gateway.schemas import AnswerResponse, DocumentOut, PassageOut, RetrieveResponse, SearchResponse


class KeptOut(DocumentOut):
    """A passage that was kept: `turn` searched for `query` and found it at `rank`, which is 0 for a digest."""

    query: str
    rank: int


class _Kept(SearchResponse):
    documents: list[KeptOut]  # type: ignore[assignment]

    @classmethod
    def of(cls, id: str, trajectory: Trajectory, **more: Any) -> Self:
        return super().of(id, trajectory, documents=_kept(trajectory), **more)


class SearchOut(_Kept):
    """The passages that a method kept for a question."""


class AnswerOut(_Kept, AnswerResponse):
    """An answer, and the passages it was written from."""


def _kept(trajectory: Trajectory) -> list[KeptOut]:
    found = []
    for document in trajectory.documents:
        turn = trajectory.turns[document.turn - 1]
        ids = [passage.id for passage in turn.retrieved]
        rank = ids.index(document.passage.id) + 1 if document.passage.id in ids else 0
        found.append(KeptOut(**fields_of(document.passage, turn=document.turn, query=turn.query, rank=rank)))
    return found


def turn(done: Turn) -> str:
    """Returns what a turn did, in one line."""
    return f"searched for {done.query!r}: kept {len(done.selected)} of {counted(len(done.retrieved), 'passage')}"


def search(found: SearchOut) -> str:
    """Returns the passages that were kept, and the queries that found them."""
    head = f"{counted(len(found.documents), 'passage')} kept in {counted(found.usage.searches, 'search', 'es')}."
    return "\n\n".join([head, *_numbered(found.documents)])


def answer(answered: AnswerOut) -> str:
    """Returns the answer and its sources."""
    cited = [number for number, each in enumerate(answered.documents, 1) if each.id in answered.citations]
    stands = f"The answer appears in {', '.join(f'[{number}]' for number in cited)}." if cited else ""
    return "\n\n".join(filter(None, [answered.answer, stands, *_numbered(answered.documents)]))


def retrieve(queries: Sequence[str], ranked: RetrieveResponse) -> str:
    """Returns the passages of each query."""
    found = zip(queries, ranked.results, strict=True)
    return "\n\n".join(
        "\n\n".join([f"For {query!r}:", *(_passage(rank, each) for rank, each in enumerate(passages, 1))])
        for query, passages in found
    )


def _numbered(documents: Iterable[KeptOut]) -> list[str]:
    return [
        _passage(number, each, f"; kept in turn {each.turn}, rank {each.rank} for {each.query!r}")
        for number, each in enumerate(documents, 1)
    ]


def _passage(number: int, passage: PassageOut, why: str = "") -> str:
    return f"[{number}] {' '.join(passage.title.split())} ({passage.id}{why})\n{passage.text}"


def counted(count: int, what: str, plural: str = "s") -> str:
    """Returns a number of things, as in "1 passage" and "2 passages"."""
    return f"{count} {what}{plural * (count != 1)}"
