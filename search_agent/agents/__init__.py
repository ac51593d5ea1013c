"""The agents by name. Each is a file with its parameters and one function `search`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from functools import cache
from typing import Any, get_args, get_type_hints

from search_agent import prompts
from search_agent.agents import cot, deep_retrieval, direct, ircot, naive_rag, s3, search_o1, search_r1
from search_agent.episode import Episode
from search_agent.types import Event, Found, ModelCard, Question, Sampling, StopReason, Trajectory
from search_agent.world import World

# Parameters of where and how a searcher is asked, which do not depend on what it was taught.
_NOT_TAUGHT = ("index", "constrained", "temperature")
# A tenth of a millisecond, which every request would pay.
_types_of: Callable[[type], dict[str, Any]] = cache(get_type_hints)


@dataclass(frozen=True)
class Agent:
    """A method: default parameters, how it searches, and the prompt its documents are answered with."""

    name: str
    summary: str
    params: Any
    search: Callable[[Episode, Any], Awaitable[StopReason]]
    prompt: str = "answer"

    async def play(
        self,
        question: Question,
        world: World,
        answer: Sampling | None = None,
        max_documents: int | None = None,
        tell: Callable[[Event], None] = lambda event: None,
    ) -> Trajectory:
        """Searches for the question and, if `answer` says how, lets it be answered.

        `max_documents` is the passage budget of the answer. `tell` hears each event as it happens. Raises
        BoundaryError.
        """
        episode = Episode(self.name, question, world, max_documents, tell)
        stop_reason = await self.search(episode, self.params)
        tell(Found(episode.documents))
        if answer:
            await episode.answer(self.prompt, answer)
        return episode.trajectory(stop_reason)

    def with_params(self, overrides: Mapping[str, object]) -> Agent:
        """The agent with some parameters replaced. ValueError ("field: reason") for one that it does not
        have or that is out of range."""
        known = {field.name: field for field in fields(self.params)}
        hints = _types_of(type(self.params))
        checked = {}
        for name, value in overrides.items():
            if name not in known:
                raise ValueError(f"{name}: the method {self.name} has no such parameter")
            kind, meta = hints[name], known[name].metadata
            if isinstance(kind, type) and issubclass(kind, Enum):
                try:
                    value = kind(value)
                except ValueError:
                    raise ValueError(f"{name}: must be one of {', '.join(kind)}") from None
            elif choices := get_args(kind):
                if value not in choices:
                    raise ValueError(f"{name}: must be one of {', '.join(choices)}")
            elif kind is float and type(value) is int:
                value = float(value)
            elif type(value) is not kind:
                raise ValueError(f"{name}: must be of type {kind.__name__}")
            if isinstance(value, int | float) and not isinstance(value, bool):
                low, high = meta.get("minimum"), meta.get("maximum")
                if (low is not None and value < low) or (high is not None and value > high):
                    raise ValueError(f"{name}: must be between {low} and {'any' if high is None else high}")
            checked[name] = value
        return replace(self, params=replace(self.params, **checked))

    def card(self) -> ModelCard:
        """Returns the card of a searcher that was taught this method with these parameters."""
        parameters = {name: value for name, value in asdict(self.params).items() if name not in _NOT_TAUGHT}
        return ModelCard(self.name, parameters, prompts.version(self.name))

    def as_taught(self, card: ModelCard) -> Agent:
        """Returns the agent with the parameters that its searcher was taught; another method's card changes nothing.

        Raises ValueError as `with_params` does.
        """
        return self.with_params(card.parameters) if card.method == self.name else self

    def schema(self) -> dict[str, object]:
        """JSON Schema of the parameters, with the defaults in force."""
        names = {int: "integer", float: "number", str: "string", bool: "boolean"}
        hints = _types_of(type(self.params))
        properties: dict[str, object] = {}
        for field in fields(self.params):
            kind, meta = hints[field.name], field.metadata
            choices = list(kind) if isinstance(kind, type) and issubclass(kind, Enum) else get_args(kind)
            entry: dict[str, object] = {"enum": list(choices)} if choices else {"type": names[kind]}
            entry["default"] = getattr(self.params, field.name)
            entry |= {key: meta[key] for key in ("minimum", "maximum") if key in meta}
            if "help" in meta:
                entry["description"] = meta["help"]
            properties[field.name] = entry
        return {"type": "object", "properties": properties, "additionalProperties": False}


AGENTS: dict[str, Agent] = {
    agent.name: agent
    for agent in (
        Agent("s3", "Search and select in turns, then answer", s3.S3Params(), s3.search),
        Agent("naive_rag", "Answer from the top passages", naive_rag.NaiveRagParams(), naive_rag.search),
        Agent("direct", "Answer without passages", direct.DirectParams(), direct.search, "direct"),
        Agent("cot", "Reason step by step without passages, then answer", cot.CotParams(), cot.search, "cot"),
        Agent("ircot", "Search with each sentence of the reasoning, then answer", ircot.IrcotParams(), ircot.search),
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
