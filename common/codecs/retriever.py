"""v1.Retriever's messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.codecs import fields_of, value_of
from common.indexes import Change, ChangeState, Edit, NewIndex, Removal
from contracts.v1 import retriever_pb2 as pb
from search_agent.errors import Failure, RetrieverError
from search_agent.filters import Filter
from search_agent.types import IndexInfo, IndexVersion, Mode, Passage, Rankings, Retrieval

_MODES = {mode: pb.Mode.Value("MODE_UNSPECIFIED" if mode is Mode.AUTO else mode.name) for mode in Mode}
_MODE_OF = {number: mode for mode, number in _MODES.items()}


def search_request(queries: Sequence[str], how: Retrieval) -> pb.SearchRequest:
    told = fields_of(how, Retrieval, mode=_MODES[how.mode], filter=_written(how.filter.to_json()))
    return pb.SearchRequest(queries=queries, **told)


def retrieval_of(request: pb.SearchRequest) -> Retrieval:
    """Raises RetrieverError for a mode that does not exist, or a filter that is none."""
    if request.mode not in _MODE_OF:
        raise RetrieverError(Failure.INVALID, f"unknown mode {request.mode}", "mode")
    try:
        filter = Filter.from_json(json.loads(request.filter or "{}"))
    except (ValueError, RecursionError) as error:
        raise RetrieverError(Failure.INVALID, str(error), "filter") from None
    return value_of(Retrieval, request, mode=_MODE_OF[request.mode], filter=filter)


def search_response(found: Rankings) -> pb.SearchResponse:
    index, _, version = found.served.rpartition("@")
    ranked = [pb.RankedPassages(passages=map(passage_message, passages)) for passages in found]
    return pb.SearchResponse(results=ranked, index=index, index_version=version)


def rankings_of(response: pb.SearchResponse) -> Rankings:
    found = (tuple(map(passage_of, ranked.passages)) for ranked in response.results)
    return Rankings(found, f"{response.index}@{response.index_version}")


def passage_message(passage: Passage) -> pb.Passage:
    return pb.Passage(**fields_of(passage, Passage, metadata=_written(passage.metadata)))


def passage_of(message: pb.Passage) -> Passage:
    """Raises ValueError for metadata that is not a JSON object."""
    metadata = json.loads(message.metadata) if message.metadata else {}
    if not isinstance(metadata, dict):
        raise ValueError("is not a JSON object")
    return value_of(Passage, message, metadata=metadata)


def indexes_response(indexes: Iterable[IndexInfo]) -> pb.ListIndexesResponse:
    return pb.ListIndexesResponse(indexes=map(index_message, indexes))


def indexes_of(response: pb.ListIndexesResponse) -> list[IndexInfo]:
    return [*map(index_of, response.indexes)]


def index_message(index: IndexInfo) -> pb.IndexInfo:
    modes = [_MODES[mode] for mode in index.modes]
    return pb.IndexInfo(
        **fields_of(index, modes=modes, versions=[pb.IndexVersion(**fields_of(each)) for each in index.versions])
    )


def index_of(message: pb.IndexInfo) -> IndexInfo:
    """Leaves out modes of a newer retriever that this program does not know."""
    return value_of(
        IndexInfo,
        message,
        modes=tuple(_MODE_OF[mode] for mode in message.modes if mode in _MODE_OF),
        keys=tuple(message.keys),
        versions=tuple(value_of(IndexVersion, each) for each in message.versions),
    )


def embed_request(texts: Sequence[str], index: str, as_passages: bool) -> pb.EmbedRequest:
    return pb.EmbedRequest(texts=texts, index=index, as_passages=as_passages)


def embed_response(vectors: Iterable[bytes]) -> pb.EmbedResponse:
    return pb.EmbedResponse(vectors=vectors)


def vectors_of(response: pb.EmbedResponse) -> list[bytes]:
    return [*response.vectors]


def create_request(new: NewIndex) -> pb.CreateIndexRequest:
    return pb.CreateIndexRequest(**fields_of(new))


def new_index_of(request: pb.CreateIndexRequest) -> NewIndex:
    return value_of(NewIndex, request, encoder=request.encoder if request.HasField("encoder") else None)


def edits_request(index: str, edits: Iterable[Edit], last: bool) -> pb.EditsRequest:
    messages = (
        pb.Edit(remove=edit.id) if isinstance(edit, Removal) else pb.Edit(upsert=passage_message(edit))
        for edit in edits
    )
    return pb.EditsRequest(index=index, edits=messages, last=last)


def edit_of(message: pb.Edit) -> Edit:
    """Raises ValueError for metadata that is not JSON, or an edit of another kind."""
    match message.WhichOneof("edit"):
        case "upsert":
            return passage_of(message.upsert)
        case "remove":
            return Removal(message.remove)
    raise ValueError("neither upserts nor removes a passage")


def change_message(change: Change) -> pb.Change:
    return pb.Change(**fields_of(change, state=pb.Change.State.Value(change.state.name)))


def change_of(message: pb.Change) -> Change:
    return value_of(Change, message, state=ChangeState[pb.Change.State.Name(message.state)])


def changes_response(changes: Iterable[Change]) -> pb.ListChangesResponse:
    return pb.ListChangesResponse(changes=map(change_message, changes))


def changes_of(response: pb.ListChangesResponse) -> list[Change]:
    return [*map(change_of, response.changes)]


def _written(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) if value else ""
