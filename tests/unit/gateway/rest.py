"""A gateway over fakes."""

from collections.abc import Mapping
from typing import Any

import httpx
import openai

from common.backends import GrpcTrainer
from search_agent.conversation import by_generator
from search_agent.types import Sampling
from search_agent.world import Guard
from search_agent.world import Retriever as Port
from services.gateway.app import create_app
from services.gateway.asker import Asker, Offer
from services.gateway.cache import RagCache
from services.gateway.capacity import Capacity
from services.gateway.door import Rules
from services.gateway.guarded import GuardedRetriever, MeteredGenerator, MeteredSearcher
from services.gateway.methods import Configuration, Methods
from services.gateway.player import Backends, Player
from tests.fakes import Generator, Library, Searcher

MOVES = [
    "<important_info>[2]</important_info>\n<search_complete>False</search_complete>\n"
    '<query>{"query": "answer stands"}</query>',
    "<important_info>[1]</important_info>\n<search_complete>True</search_complete>",
]


class Rest:
    """A gateway over fakes, and a client that talks to it."""

    def __init__(
        self,
        generator: Generator | None = None,
        max_in_flight: int = 8,
        searchers: Mapping[str, Searcher] | None = None,
        methods: Mapping[str, Mapping[str, Any]] | None = None,
        trainer: GrpcTrainer | None = None,
        retriever: Port | None = None,
        generators: Mapping[str, Generator] | None = None,
        configurations: Mapping[str, Configuration] | None = None,
        condense: bool = True,
        rules: Rules | None = None,
        cache: RagCache | None = None,
        guard: Guard | None = None,
        offer: Offer | None = None,
        root_path: str = "",
    ) -> None:
        self.retriever, self.searcher = Library(), Searcher(MOVES)
        self.generator = generator or Generator("an answer")
        self.rules = rules or Rules()
        meter = self.rules.meter
        self.backends = backends = Backends(
            GuardedRetriever(retriever or self.retriever),
            MeteredSearcher(self.searcher, meter),
            MeteredGenerator(self.generator, meter),
            cache,
            searchers or {},
            generators or {},
            guard,
        )
        player = Player(backends, Sampling(max_tokens=8))
        served = Methods(backends, methods)
        for name, configuration in (configurations or {}).items():
            served.add(name, configuration)
        rewrite = by_generator(backends.generator) if condense else None
        self.asker = Asker(player, served, Capacity(max_in_flight, first_s=0.1), rewrite, meter, offer)
        self.app = create_app(backends, self.asker, trainer, rules=self.rules, root_path=root_path)
        self.transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=self.transport, base_url="http://gateway")

    @property
    def openai(self) -> openai.AsyncOpenAI:
        """OpenAI's client over the same application."""
        return openai.AsyncOpenAI(
            base_url="http://gateway/v1",
            api_key="none",
            http_client=self.http,
            max_retries=0,
            _strict_response_validation=True,
        )

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.http.post(path, json=body)
