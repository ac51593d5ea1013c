"""The served indexes, by name. One replaces another between two searches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from common import metrics
from common.pushed import Bell
from search_agent.types import IndexInfo
from search_agent.world import index_named
from services.retriever.encoders import Encoder
from services.retriever.index import Index
from services.retriever.sources import Source


@dataclass(frozen=True, eq=False)
class Served:
    """An index, with its encoder if it has vectors, or a server. Searches hold it until they end."""

    info: IndexInfo
    index: Index | None = None
    encoder: Encoder | None = None
    source: Source | None = None


class Shelf:
    """Holds what is served; `default` is the index of requests that name none, and `reranker` the cross-encoder.

    `changed` rings for each change of what is told of the indexes.
    """

    def __init__(self, default: str = "", reranker: str = "") -> None:
        self._default, self._reranker = default, reranker
        self._served: dict[str, Served] = {}
        self.changed = Bell()

    def __iter__(self) -> Iterator[Served]:
        return iter([*self._served.values()])

    def __contains__(self, name: str) -> bool:
        return name in self._served

    def put(self, served: Served) -> Served:
        """Serves an index, in place of the one of its name if there is one."""
        name = served.info.name
        info = replace(served.info, is_default=name == self._default, reranker=self._reranker)
        before = self._served.get(name)
        self._served[name] = replace(served, info=info)
        if before and before.info.version != info.version:
            self._forget(before)
        metrics.RETRIEVER_INDEX_PASSAGES.labels(name, info.version).set(info.passages)
        if not before or before.info != info:
            self.changed.ring()
        return self._served[name]

    def tell(self, served: Served, info: IndexInfo) -> Served:
        """Returns what is served, with what is known of it now. What has gone or been replaced meanwhile stays so."""
        known = replace(served, info=replace(info, is_default=served.info.is_default, reranker=served.info.reranker))
        return self.put(known) if self._served.get(info.name) is served else known

    def drop(self, name: str) -> None:
        """Stops serving an index. Searches in progress continue."""
        if gone := self._served.pop(name, None):
            self._forget(gone)
            self.changed.ring()

    def named(self, name: str) -> Served:
        """Returns the index of that name; the empty name means the default one. Raises RetrieverError."""
        return self._served[index_named([each.info for each in self], name).name]

    @staticmethod
    def _forget(served: Served) -> None:
        metrics.RETRIEVER_INDEX_PASSAGES.remove(served.info.name, served.info.version)
        if served.source:
            with suppress(KeyError):  # of one that was never asked
                metrics.RETRIEVER_SOURCE_UP.remove(served.info.name)
