"""A novice that knows only the protocol, and leaves it to reinforcement to find how to search."""

from __future__ import annotations

import random
from collections.abc import Sequence

from learning.warm_start.player import Player
from learning.warm_start.queries import names
from search_agent import tags
from search_agent.agents import s3
from search_agent.types import Passage
from search_agent.world import Retriever


class Novice(Player):
    """Moves at random: it keeps any passages, goes on or stops, and searches for any name that it has read."""

    def __init__(self, retriever: Retriever, parameters: s3.S3Params, seed: str) -> None:
        super().__init__(retriever, parameters)
        self._order = random.Random(seed)

    async def move(self, block: Sequence[Passage], last: bool) -> tags.Move:
        count = self._order.randint(0, min(self._parameters.max_selected, len(block)))
        kept = tuple(self._order.sample(range(1, len(block) + 1), count))
        if last or not block or self._order.random() < 0.5:
            return tags.Move(kept, complete=True)
        return tags.Move(kept, self._order.choice(_names(block)))


def _names(block: Sequence[Passage]) -> list[str]:
    """Returns the titles of a block, and the names of two and more words in its passages."""
    found = [name for passage in block for name in names(passage.text) if " " in name]
    return [*(passage.title for passage in block), *found]
