"""A teacher that knows the gold passages plays the s3 agent, so that a searcher can learn from its episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from learning.warm_start.player import Player
from search_agent import tags
from search_agent.agents import s3
from search_agent.grading.answers import span_match
from search_agent.types import Passage, Question
from search_agent.world import Retriever


def right_passages(question: Question, found: Sequence[Passage]) -> list[Passage]:
    """Returns the gold passages among `found`; without any, the first passage that holds a gold answer."""
    gold = [passage for passage in found if passage.id in question.gold_ids]
    return gold or [passage for passage in found if span_match(passage.text, question.golds)][:1]


class Teacher(Player):
    """Keeps the gold passages of a block.

    While one is missing whose title is named in the question or in what was kept, it searches for that title, once for
    each; then it stops. An episode that would end with nothing keeps its best guess from the last block: the first
    passage that holds a gold answer, or else the first.

    `titles` are those of the gold passages, by id, as far as they are known.
    """

    def __init__(
        self, question: Question, titles: Mapping[str, str], retriever: Retriever, parameters: s3.S3Params
    ) -> None:
        super().__init__(retriever, parameters)
        self._question, self._titles = question, titles
        self._missing = list(question.gold_passages)
        self._kept: list[Passage] = []
        self._searched: set[str] = set()

    def move(self, block: Sequence[Passage], last: bool) -> tags.Move:
        chosen = self._gold(block)
        title = "" if last else self._named_title()
        if not title and not self._kept:
            chosen = self._guess(block)
        return tags.Move(chosen, title, complete=not title)

    def _gold(self, block: Sequence[Passage]) -> tuple[int, ...]:
        """Keeps the block's gold passages and returns their numbers."""
        numbers: list[int] = []
        for number, passage in enumerate(block, 1):
            needed = next((ids for ids in self._missing if passage.id in ids), None)
            if needed and len(numbers) < self._parameters.max_selected:
                self._missing.remove(needed)
                self._kept.append(passage)
                numbers.append(number)
        return tuple(numbers)

    def _named_title(self) -> str:
        """Returns the title of the first missing passage that has been named, "" if none has."""
        read = "\n".join([self._question.text, *(f"{passage.title}\n{passage.text}" for passage in self._kept)])
        for title in (self._titles[id] for ids in self._missing for id in ids if id in self._titles):
            if title not in self._searched and span_match(read, [title.split(" (")[0]]):
                self._searched.add(title)
                return title
        return ""

    def _guess(self, block: Sequence[Passage]) -> tuple[int, ...]:
        right = right_passages(self._question, block)
        return (block.index(right[0]) + 1,) if right else (1,) if block else ()
