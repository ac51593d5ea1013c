"""The gRPC face of the retriever, and its wiring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
import structlog

from common import metrics
from common.codecs import retriever as codec
from contracts.v1 import retriever_pb2_grpc
from search_agent.types import Mode
from services.retriever.encoders import Encoder, encoder_of
from services.retriever.errors import EncoderUnavailable, IndexRefused
from services.retriever.gpu import Device, torch_devices
from services.retriever.index import open_indexes
from services.retriever.manifest import Manifest
from services.retriever.rerankers import Reranker, load_reranker
from services.retriever.search import BatchedRetriever
from services.retriever.settings import RetrieverSettings

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
    encoders: dict[tuple[str, ...], Encoder] = {}
    for index in indexes.values():
        manifest = index.manifest
        if Mode.DENSE not in manifest.modes:
            continue
        if manifest.encoding not in encoders:
            encoders[manifest.encoding] = load(manifest)
        dim = encoders[manifest.encoding].dim
        if dim != manifest.dim:
            raise EncoderUnavailable(
                f"index {manifest.name} has {manifest.dim} dimensions, its encoder {manifest.encoder} {dim}"
            )
    for encoder in encoders.values():
        encoder.queries(["first call"])  # loads lazy parts before anyone waits for them
    for manifest in (index.manifest for index in indexes.values()):
        metrics.RETRIEVER_INDEX_PASSAGES.labels(manifest.name, manifest.version).set(manifest.count)
        log.info(
            "index opened", index=manifest.name, version=manifest.version, passages=manifest.count,
            kind=manifest.kind, encoder=manifest.encoder, modes=[mode.value for mode in manifest.modes],
            default=manifest.name == default,
        )  # fmt: skip
    for source in sources.values():
        log.info(
            "server connected as an index", index=source.name, kind=source.info.kind, default=source.name == default
        )
    reranker = load_ranker(settings.reranker) if settings.reranker else None
    return BatchedRetriever(indexes, encoders, default, settings, reranker, sources)


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
