"""The gRPC face of the retriever, and its wiring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
import structlog

from common.codecs import retriever as codec
from contracts.v1 import retriever_pb2_grpc
from services.retriever.encoders import Encoder, Encoders, encoder_of
from services.retriever.errors import IndexRefused
from services.retriever.gpu import Device, torch_devices
from services.retriever.index import open_indexes
from services.retriever.manifest import Manifest
from services.retriever.rerankers import Reranker, load_reranker
from services.retriever.search import BatchedRetriever
from services.retriever.settings import RetrieverSettings
from services.retriever.shelf import Served, Shelf

log = structlog.get_logger()
FULL_NAME = "v1.Retriever"


class RetrieverServicer(retriever_pb2_grpc.RetrieverServicer):
    """The contract over the retriever."""

    def __init__(self, retriever: BatchedRetriever) -> None:
        self._retriever = retriever

    def register(self, server: grpc.aio.Server) -> None:
        retriever_pb2_grpc.add_RetrieverServicer_to_server(self, server)

    async def Search(self, request: Any, context: Any) -> Any:
        how = codec.retrieval_of(request)
        found = await self._retriever.search(request.queries, how)
        return codec.search_response(found)

    async def ListIndexes(self, request: Any, context: Any) -> Any:
        return codec.indexes_response(await self._retriever.indexes())

    async def Embed(self, request: Any, context: Any) -> Any:
        return codec.embed_response(await self._retriever.embed(request.texts, request.index, request.as_passages))


def assemble(
    settings: RetrieverSettings,
    load: Callable[[Manifest], Encoder] = encoder_of,
    load_ranker: Callable[[str], Reranker] = load_reranker,
    find_gpus: Callable[[int], Sequence[Device]] = torch_devices,
) -> BatchedRetriever:
    """Opens every index in `settings.indexes`, and loads the encoders that they need, and the reranker if there is one.

    Raises RetrieverProblem.
    """
    gpus = find_gpus(settings.gpus) if settings.gpus else ()
    indexes, sources, others = open_indexes(settings.indexes, settings.verify_checksums, gpus)
    for path in others:
        log.warning("not an index, skipped", path=str(path))
    default = _default(settings, [*indexes, *sources])
    reranker = load_ranker(settings.reranker) if settings.reranker else None
    shelf = Shelf(default, reranker.name if reranker else "")
    encoders = Encoders(load)
    for index in indexes.values():
        shelf.put(Served(index.info, index, encoders.of(index.manifest)))
        made = index.manifest
        log.info(
            "index opened", index=made.name, version=made.version, passages=made.count, kind=made.kind,
            encoder=made.encoder, modes=[mode.value for mode in made.modes], default=made.name == default,
        )  # fmt: skip
    for source in sources.values():
        shelf.put(Served(source.info, source=source))
        log.info(
            "server connected as an index", index=source.name, kind=source.info.kind, default=source.name == default
        )
    return BatchedRetriever(shelf, settings, reranker)


def _default(settings: RetrieverSettings, indexes: Sequence[str]) -> str:
    names = ", ".join(sorted(indexes))
    if not settings.default_index:
        if len(indexes) > 1:
            raise IndexRefused(settings.indexes, f"holds {names}; name one in RETRIEVER_DEFAULT_INDEX")
        return indexes[0]
    if settings.default_index not in indexes:
        raise IndexRefused(
            settings.indexes,
            f"has {names}, not RETRIEVER_DEFAULT_INDEX={settings.default_index!r}",
        )
    return settings.default_index
