"""The agents by name. Each has a file with its parameters and one function `search`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from search_agent import parameters, prompts
from search_agent.agents import cot, deep_retrieval, direct, ircot, naive_rag, s3, search_o1, search_r1
from search_agent.episode import DialogueFull, Episode
from search_agent.types import Event, Found, ModelCard, Question, Sampling, StopReason, Trajectory
from search_agent.world import World

# Parameters of where and how a searcher is asked, which do not depend on what it was taught.
_NOT_TAUGHT = ("index", "filter", "constrained", "free_first", "temperature")


@dataclass(frozen=True)
class Agent:
    """A method: its parameters, its search, and the prompt of its answer.

    `opens_with_question`: the first search uses the question itself, before the searcher is asked. `selects`: the
    searcher chooses among the passages that it is shown; other methods keep all of them.
    """

    name: str
    summary: str
    params: Any
    search: Callable[[Episode, Any], Awaitable[StopReason]]
    prompt: str = "answer"
    opens_with_question: bool = False
    selects: bool = False

    async def play(
        self,
        question: Question,
        world: World,
        answer: Sampling | None = None,
        max_documents: int | None = None,
        tell: Callable[[Event], None] = lambda event: None,
    ) -> Trajectory:
        """Searches for the question and, if `answer` is given, has the generator answer it.

        `max_documents` is the passage budget of the answer. `tell` is called with each event as it happens. Raises
        BoundaryError.
        """
        episode = Episode(self.name, question, world, max_documents, tell)
        try:
            stop_reason = await self.search(episode, self.params)
        except DialogueFull:
            stop_reason = StopReason.BUDGET
        tell(Found(episode.documents))
        if answer:
            await episode.answer(self.prompt, answer)
        return episode.trajectory(stop_reason)

    def with_params(self, values: Mapping[str, object]) -> Agent:
        """Returns the agent with some parameters replaced. Raises BadParameter."""
        return replace(self, params=parameters.with_values(self.params, values)) if values else self

    def card(self) -> ModelCard:
        """Returns the card of a searcher that was taught this method with these parameters."""
        taught = {name: value for name, value in asdict(self.params).items() if name not in _NOT_TAUGHT}
        return ModelCard(self.name, taught, prompts.version(self.name))

    def as_taught(self, card: ModelCard) -> Agent:
        """Returns the agent with the parameters that its searcher was taught; another method's card changes nothing.

        Raises BadParameter.
        """
        return self.with_params(card.parameters) if card.method == self.name else self

    def schema(self) -> dict[str, object]:
        """Returns the JSON Schema of the parameters, with the values in force as defaults."""
        return parameters.schema(self.params)


AGENTS: dict[str, Agent] = {
    agent.name: agent
    for agent in (
        Agent(
            "s3",
            "Search and select in turns, then answer",
            s3.S3Params(),
            s3.search,
            opens_with_question=True,
            selects=True,
        ),
        Agent(
            "naive_rag",
            "Answer from the top passages",
            naive_rag.NaiveRagParams(),
            naive_rag.search,
            opens_with_question=True,
        ),
        Agent("direct", "Answer without passages", direct.DirectParams(), direct.search, "direct"),
        Agent("cot", "Reason step by step without passages, then answer", cot.CotParams(), cot.search, "cot"),
        Agent(
            "ircot",
            "Search with each sentence of the reasoning, then answer",
            ircot.IrcotParams(),
            ircot.search,
            opens_with_question=True,
        ),
        Agent(
            "search_o1",
            "Condense what searches inside the reasoning find",
            search_o1.SearchO1Params(),
            search_o1.search,
        ),
        Agent("search_r1", "Think and search in turns, then answer", search_r1.SearchR1Params(), search_r1.search),
        Agent(
            "deep_retrieval",
            "Rewrite the question into one query, then answer",
            deep_retrieval.DeepRetrievalParams(),
            deep_retrieval.search,
        ),
    )
}
