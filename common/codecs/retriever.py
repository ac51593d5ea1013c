"""v1.Retriever's messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.codecs import fields_of, value_of
from contracts.v1 import retriever_pb2 as pb
from search_agent.errors import Failure, RetrieverError
from search_agent.types import IndexInfo, Mode, Passage, Retrieval

_MODES = {mode: pb.Mode.Value("MODE_UNSPECIFIED" if mode is Mode.AUTO else mode.name) for mode in Mode}
_MODE_OF = {number: mode for mode, number in _MODES.items()}


def search_request(queries: Sequence[str], how: Retrieval) -> pb.SearchRequest:
    return pb.SearchRequest(queries=queries, **fields_of(how, Retrieval, mode=_MODES[how.mode]))


def retrieval_of(request: pb.SearchRequest) -> Retrieval:
    """Raises RetrieverError for a mode that does not exist."""
    if request.mode not in _MODE_OF:
        raise RetrieverError(Failure.INVALID, f"unknown mode {request.mode}", "mode")
    return value_of(Retrieval, request, mode=_MODE_OF[request.mode])


def search_response(found: Iterable[Sequence[Passage]], index: IndexInfo) -> pb.SearchResponse:
    return pb.SearchResponse(
        results=[
            pb.RankedPassages(
                passages=[pb.Passage(id=p.id, title=p.title, text=p.text, score=p.score) for p in passages]
            )
            for passages in found
        ],
        index=index.name,
        index_version=index.version,
    )


def passages_of(response: pb.SearchResponse) -> list[tuple[Passage, ...]]:
    return [tuple(Passage(p.id, p.title, p.text, p.score) for p in ranked.passages) for ranked in response.results]


def indexes_response(indexes: Iterable[IndexInfo]) -> pb.ListIndexesResponse:
    return pb.ListIndexesResponse(
        indexes=[pb.IndexInfo(**fields_of(index, modes=[_MODES[mode] for mode in index.modes])) for index in indexes]
    )


def indexes_of(response: pb.ListIndexesResponse) -> list[IndexInfo]:
    """Leaves out modes of a newer retriever that this program does not know."""
    return [
        value_of(IndexInfo, index, modes=tuple(_MODE_OF[mode] for mode in index.modes if mode in _MODE_OF))
        for index in response.indexes
    ]


def embed_request(texts: Sequence[str], index: str, as_passages: bool) -> pb.EmbedRequest:
    return pb.EmbedRequest(texts=texts, index=index, as_passages=as_passages)


def embed_response(vectors: Iterable[bytes]) -> pb.EmbedResponse:
    return pb.EmbedResponse(vectors=vectors)


def vectors_of(response: pb.EmbedResponse) -> list[bytes]:
    return [*response.vectors]
