"""A player replaces the model in an episode: it sees what was retrieved, and its moves are well formed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from search_agent import tags
from search_agent.agents import AGENTS, s3
from search_agent.types import Completion, IndexInfo, Passage, Question, Rankings, Retrieval, Sampling, Span, Trajectory
from search_agent.world import Retriever, World


class Player(ABC):
    """The retriever and the policy of one episode of s3."""

    def __init__(self, retriever: Retriever, parameters: s3.S3Params) -> None:
        self._retriever, self._parameters = retriever, parameters
        self._turns_left = parameters.max_turns
        self._block: tuple[Passage, ...] = ()

    @abstractmethod
    async def move(self, block: Sequence[Passage], last: bool) -> tags.Move:
        """Returns the move on the newest block. The agent ignores a search in the last turn."""

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        (self._block,) = found = await self._retriever.search(queries, how)
        return found

    async def indexes(self) -> Sequence[IndexInfo]:
        return await self._retriever.indexes()

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        self._turns_left -= 1
        return Completion(tags.render_move(await self.move(self._block, last=not self._turns_left)))

    async def play(self, question: Question) -> Trajectory:
        """Plays and returns an episode without an answer. Raises RetrieverError."""
        return await replace(AGENTS["s3"], params=self._parameters).play(question, World(self, self))
