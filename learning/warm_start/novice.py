"""A novice that knows only the protocol, and leaves it to reinforcement to find how to search."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import groupby

from learning.warm_start.player import Player
from search_agent import tags
from search_agent.agents import s3
from search_agent.types import Passage
from search_agent.world import Retriever


class Novice(Player):
    """Moves at random: it keeps any passages, goes on or stops, and searches for any name that it has read."""

    def __init__(self, retriever: Retriever, parameters: s3.S3Params, seed: str) -> None:
        super().__init__(retriever, parameters)
        self._order = random.Random(seed)

    def move(self, block: Sequence[Passage], last: bool) -> tags.Move:
        count = self._order.randint(0, min(self._parameters.max_selected, len(block)))
        kept = tuple(self._order.sample(range(1, len(block) + 1), count))
        if last or not block or self._order.random() < 0.5:
            return tags.Move(kept, complete=True)
        return tags.Move(kept, self._order.choice(names(block)))


def names(block: Sequence[Passage]) -> list[str]:
    """Returns the titles of a block, and the runs of two and more capitalised words in its sentences."""
    found = [passage.title for passage in block]
    for sentence in (sentence for passage in block for sentence in passage.text.split(". ")):
        for capital, run in groupby(sentence.split(), key=lambda word: word[:1].isupper()):
            words = list(run)
            if capital and len(words) > 1:
                found.append(" ".join(words).strip(".,;:"))
    return found
