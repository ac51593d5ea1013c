"""The gRPC face of the retriever, and its wiring."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import grpc
import structlog

from common.codecs import retriever as codec
from common.indexes import Edit
from common.pushed import told
from contracts.v1 import retriever_pb2 as pb
from contracts.v1 import retriever_pb2_grpc
from search_agent.errors import Failure, RetrieverError
from services.retriever.encoders import Encoder, Encoders, encoder_of
from services.retriever.errors import IndexRefused
from services.retriever.gpu import Device, torch_devices
from services.retriever.index import Index, open_indexes
from services.retriever.keeper import Keeper
from services.retriever.manifest import Manifest
from services.retriever.rerankers import Reranker, load_reranker
from services.retriever.search import BatchedRetriever
from services.retriever.served_folders import ServedFolders
from services.retriever.settings import RetrieverSettings
from services.retriever.shelf import Shelf
from services.retriever.sources import Source

log = structlog.get_logger()
FULL_NAME = "v1.Retriever"


class RetrieverServicer(retriever_pb2_grpc.RetrieverServicer):
    """The contract over the retriever."""

    def __init__(self, retriever: BatchedRetriever) -> None:
        self._retriever, self._keeper, self._changed = retriever, retriever.keeper, retriever.changed

    def register(self, server: grpc.aio.Server) -> None:
        retriever_pb2_grpc.add_RetrieverServicer_to_server(self, server)

    async def Search(self, request: Any, context: Any) -> Any:
        how = codec.retrieval_of(request)
        found = await self._retriever.search(request.queries, how)
        return codec.search_response(found)

    async def ListIndexes(self, request: Any, context: Any) -> Any:
        return codec.indexes_response(await self._retriever.indexes())

    async def WatchIndexes(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async with aclosing(told(self._retriever.indexes, self._changed)) as news:
            async for indexes in news:
                yield codec.indexes_response(indexes)

    async def CreateIndex(self, request: Any, context: Any) -> Any:
        return codec.index_message(await self._keeper.create_index(codec.new_index_of(request)))

    async def DeleteIndex(self, request: Any, context: Any) -> Any:
        await self._keeper.delete_index(request.index)
        return pb.DeleteIndexResponse()

    async def ChangePassages(self, requests: AsyncIterator[Any], context: Any) -> Any:
        first = await anext(requests, pb.EditsRequest())
        return codec.change_message(await self._keeper.change_passages(first.index, _edits(first, requests)))

    async def ListChanges(self, request: Any, context: Any) -> Any:
        return codec.changes_response(await self._keeper.changes(request.index))

    async def RollBack(self, request: Any, context: Any) -> Any:
        return codec.index_message(await self._keeper.roll_back(request.index, request.version))

    async def Embed(self, request: Any, context: Any) -> Any:
        return codec.embed_response(await self._retriever.embed(request.texts, request.index, request.as_passages))


async def _edits(first: Any, requests: AsyncIterator[Any]) -> AsyncIterator[Edit]:
    """Yields the edits of a stream of requests. Raises RetrieverError for one that cannot be read.

    gRPC shows the stream of a cancelled call, or of a client that died, as one that ended. Only the last message tells.
    """
    number, request = 0, first
    while True:
        for message in request.edits:
            number += 1
            try:
                yield codec.edit_of(message)
            except (ValueError, RecursionError) as error:
                raise RetrieverError(Failure.INVALID, f"edit {number}: {error}", "metadata") from None
        if request.last:
            return
        request = await anext(requests, None)
        if request is None:
            raise RetrieverError(Failure.INVALID, "the stream ended before its last message", "last")


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
    read_only = settings.writable is None
    indexes, sources, others = open_indexes(settings.indexes, settings.verify_checksums, gpus, needed=read_only)
    for path in others:
        log.warning("not an index, skipped", path=str(path))
    default = _default(settings, [*indexes, *sources])
    reranker = load_ranker(settings.reranker) if settings.reranker else None
    shelf = Shelf(default, reranker.name if reranker else "")
    served = ServedFolders(shelf, Encoders(load), settings, gpus)
    every: list[Index | Source] = [*indexes.values(), *sources.values()]
    for opened in every:
        served.note(opened.folder, opened.name)
        served.serve(opened)
    served.recover()
    served.look()
    return BatchedRetriever(shelf, settings, Keeper(served, settings), reranker)


def _default(settings: RetrieverSettings, indexes: Sequence[str]) -> str:
    names = ", ".join(sorted(indexes))
    if not settings.default_index:
        if len(indexes) > 1:
            raise IndexRefused(settings.indexes, f"holds {names}; name one in RETRIEVER_DEFAULT_INDEX")
        return indexes[0] if indexes else ""
    if settings.default_index not in indexes and settings.writable is None:
        raise IndexRefused(
            settings.indexes,
            f"has {names}, not RETRIEVER_DEFAULT_INDEX={settings.default_index!r}",
        )
    return settings.default_index
