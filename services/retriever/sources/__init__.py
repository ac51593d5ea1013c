"""Indexes that are servers: others' /retrieve, SearXNG for the open web, and retrievers that hold parts of an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog
from httpx import ProxyError

from common import metrics
from search_agent.errors import Failure, RetrieverError
from search_agent.types import IndexInfo, Rankings, Retrieval
from services.retriever import manifest as manifests
from services.retriever.errors import IndexRefused
from services.retriever.sources import config as configs
from services.retriever.sources.config import SOURCE, HttpConfig, RetrieveConfig, ShardsConfig
from services.retriever.sources.retrieve import RetrieveSource
from services.retriever.sources.searxng import SearxngSource
from services.retriever.sources.server import Server
from services.retriever.sources.shards import Shards

log = structlog.get_logger()


class Source:
    """Opens the server that `folder` describes, which need not be there yet. Raises IndexRefused."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name, config = folder, folder.absolute().name, configs.read(folder)
        if not manifests.NAME.fullmatch(self.name):
            raise IndexRefused(folder, f"bad name {self.name!r}")
        self.where = config.where
        self.fault = ""  # of the last search, empty if it was answered
        self._asked = Shards(self.name, config) if isinstance(config, ShardsConfig) else _Http(folder, config)

    @property
    def info(self) -> IndexInfo:
        """Returns what is known of the index by now."""
        return self._asked.info

    async def described(self) -> IndexInfo:
        """Returns what the servers tell of the index. Raises RetrieverError if they have told nothing yet."""
        return await self._asked.described()

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        """Returns up to `how.top_k` passages for each query. Raises RetrieverError.

        Logs the first failure and the first answer after it.
        """
        try:
            found = await self.ask(queries, how)
        except RetrieverError as error:
            self._became(error.message)
            log.debug("the cause", index=self.name, cause=repr(error.__cause__))  # it may hold the address
            raise
        self._became("")
        return found

    async def ask(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        """Does what `search` does, without recording the outcome."""
        distinct = [*dict.fromkeys(queries)]
        answer = await self._asked.search(distinct, how)
        found = dict(zip(distinct, answer, strict=True))
        return Rankings((found[query] for query in queries), answer.served)

    async def embed(self, texts: Sequence[str], as_passages: bool) -> list[bytes]:
        """Returns the vectors of the servers' encoder. Raises RetrieverError."""
        return await self._asked.embed(texts, as_passages)

    async def close(self) -> None:
        await self._asked.close()

    def _became(self, fault: str) -> None:
        if fault and not self.fault:
            log.warning("source failed", index=self.name, error=fault)
        elif self.fault and not fault:
            log.info("source answers again", index=self.name)
        self.fault = fault
        metrics.RETRIEVER_SOURCE_UP.labels(self.name).set(not fault)


class _Http:
    """A server that does its own ranking and does not describe its index."""

    def __init__(self, folder: Path, config: HttpConfig) -> None:
        name, key = folder.absolute().name, configs.key_of(folder, config)
        try:
            self._server = Server(name, config, key)
        except ProxyError as error:
            raise IndexRefused(folder / SOURCE, f"url: {error}") from error
        self._asked: RetrieveSource | SearxngSource
        if isinstance(config, RetrieveConfig):
            self._asked = RetrieveSource(self._server, config)
        else:
            self._asked = SearxngSource(self._server, config)
        self.info = IndexInfo(name, config.version, kind=config.kind, source=config.source, licence=config.licence)

    async def described(self) -> IndexInfo:
        return self.info

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        return Rankings(await self._asked.search(queries, how.top_k), self.info.served)

    async def embed(self, texts: Sequence[str], as_passages: bool) -> list[bytes]:
        raise RetrieverError(Failure.UNSUPPORTED, f"index {self.info.name!r} has no vectors", "index")

    async def close(self) -> None:
        await self._server.close()
