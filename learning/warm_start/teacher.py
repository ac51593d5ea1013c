"""A teacher that knows the gold passages plays the s3 agent, so that a searcher can learn from its episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from learning.warm_start.player import Player
from learning.warm_start.queries import queries
from search_agent import tags
from search_agent.agents import s3
from search_agent.grading.answers import normalise, span_match
from search_agent.types import Passage, Question
from search_agent.world import Retriever


def right_passages(question: Question, found: Sequence[Passage]) -> list[Passage]:
    """Returns the gold passages among `found`; without any, the first passage that holds a gold answer."""
    gold = [passage for passage in found if passage.id in question.gold_ids]
    return gold or [passage for passage in found if span_match(passage.text, question.golds)][:1]


class Teacher(Player):
    """Keeps the gold passages of a block.

    While one is missing, it searches with the first of `queries` that finds one, or stops if none does. An episode that
    would end with nothing keeps its best guess from the last block: the first passage that holds a gold answer, or else
    the first.

    `gold` has the gold passages by id, as far as they are known; only those are searched for.
    """

    def __init__(
        self, question: Question, gold: Mapping[str, Passage], retriever: Retriever, parameters: s3.S3Params
    ) -> None:
        super().__init__(retriever, parameters)
        self._question, self._gold = question, gold
        self._missing = list(question.gold_passages)
        self._kept: list[Passage] = []
        self._searched = {normalise(question.text)}

    async def move(self, block: Sequence[Passage], last: bool) -> tags.Move:
        chosen = self._keep(block)
        query = "" if last else await self._query()
        if not query and not self._kept:
            chosen = self._guess(block)
        return tags.Move(chosen, query, complete=not query)

    def _keep(self, block: Sequence[Passage]) -> tuple[int, ...]:
        """Keeps the block's gold passages and returns their numbers."""
        numbers: list[int] = []
        for number, passage in enumerate(block, 1):
            needed = next((ids for ids in self._missing if passage.id in ids), None)
            if needed and len(numbers) < self._parameters.max_selected:
                self._missing.remove(needed)
                self._kept.append(passage)
                numbers.append(number)
        return tuple(numbers)

    async def _query(self) -> str:
        """Returns a new query that finds a missing passage, "" if there is none."""
        missing = [
            passages[0] for ids in self._missing if (passages := [self._gold[i] for i in ids if i in self._gold])
        ]
        read = [f"{passage.title}\n{passage.text}" for passage in self._kept]
        tried = [
            query for query in queries(self._question.text, read, missing) if normalise(query) not in self._searched
        ]
        if not tried:
            return ""
        wanted = frozenset[str]().union(*self._missing)
        for query, found in zip(tried, await self._retriever.search(tried, self._parameters), strict=True):
            if any(passage.id in wanted for passage in found):
                self._searched.add(normalise(query))
                return query
        return ""

    def _guess(self, block: Sequence[Passage]) -> tuple[int, ...]:
        right = right_passages(self._question, block)
        return (block.index(right[0]) + 1,) if right else (1,) if block else ()
