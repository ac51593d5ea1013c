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
    """Moves at random: it keeps any passages, goes on or stops, and searches for a name of the newest block.

    Any name will do that is not the title of a passage it has read, and that it has not searched for; without one it
    stops. If it drew names in proportion to their frequency, it would mostly search for what it has just read.
    """

    def __init__(self, retriever: Retriever, parameters: s3.S3Params, seed: str) -> None:
        super().__init__(retriever, parameters)
        self._order = random.Random(seed)
        self._known: set[str] = set()

    async def move(self, block: Sequence[Passage], last: bool) -> tags.Move:
        count = self._order.randint(0, min(self._parameters.max_selected, len(block)))
        kept = tuple(self._order.sample(range(1, len(block) + 1), count))
        self._known.update(passage.title for passage in block)
        new = dict.fromkeys(name for passage in block for name in names(passage.text) if " " in name)
        unknown = [name for name in new if name not in self._known]
        if last or not unknown or self._order.random() < 0.5:
            return tags.Move(kept, complete=True)
        query = self._order.choice(unknown)
        self._known.add(query)
        return tags.Move(kept, query)
