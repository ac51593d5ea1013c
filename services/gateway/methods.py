"""The methods that the gateway serves, each with the parameters that its searcher was taught."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search_agent.agents import AGENTS, Agent
from search_agent.agents.dialogue import SearcherParams
from search_agent.errors import BoundaryError, Failure, SearcherError
from search_agent.parameters import BadParameter
from services.gateway.player import Backends


@dataclass(frozen=True, slots=True)
class Configuration:
    """A method with parameters of its own."""

    method: str
    parameters: dict[str, Any] = field(default_factory=dict)


class Methods:
    """Makes agents of AGENTS' defaults, what their searcher was taught over them, and `overrides` over both."""

    def __init__(self, backends: Backends, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Raises BadParameter for overrides that a method does not take."""
        self._backends, self._overrides = backends, overrides or {}
        for name in self._overrides:
            try:
                self._overridden(AGENTS[name])
            except BadParameter as error:
                raise BadParameter(f"{name}.{error.field}", error.message) from None
        self._configurations: dict[str, Configuration] = {}

    def add(self, name: str, configuration: Configuration) -> None:
        """Adds another name for a method with parameters. Raises BadParameter."""
        if name in AGENTS:
            raise BadParameter(name, "is a method; a configuration needs another name")
        if configuration.method not in AGENTS:
            raise BadParameter(f"{name}.method", f"must be one of {', '.join(AGENTS)}")
        try:
            AGENTS[configuration.method].with_params(configuration.parameters)
        except BadParameter as error:
            raise BadParameter(f"{name}.parameters.{error.field}", error.message) from None
        self._configurations[name] = configuration

    @property
    def names(self) -> tuple[str, ...]:
        """The names that `agent` takes: the methods, then the configurations."""
        return (*AGENTS, *self._configurations)

    async def agent(self, name: str) -> Agent:
        """Returns the agent of a method or configuration as it is served now.

        Raises SearcherError, and KeyError for a name that is neither.
        """
        if configuration := self._configurations.get(name):
            return (await self.agent(configuration.method)).with_params(configuration.parameters)
        agent = AGENTS[name]
        if isinstance(agent.params, SearcherParams):
            card = (await self._backends.searcher_of(name).info()).card
            try:
                agent = agent.as_taught(card)
            except BadParameter as error:
                message = f"the searcher cannot be asked as it was taught: {error}"
                raise SearcherError(Failure.BROKEN, message) from None
        return self._overridden(agent)

    async def all(self) -> dict[str, Agent]:
        """Returns the agent of every name. If its searcher does not answer, the agent has the method's own defaults."""
        return {name: await self._or_untaught(name) for name in self.names}

    async def _or_untaught(self, name: str) -> Agent:
        try:
            return await self.agent(name)
        except BoundaryError:
            configuration = self._configurations.get(name, Configuration(name))
            return self._overridden(AGENTS[configuration.method]).with_params(configuration.parameters)

    def _overridden(self, agent: Agent) -> Agent:
        return agent.with_params(self._overrides.get(agent.name, {}))
