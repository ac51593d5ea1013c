from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    DENSE: _ClassVar[Mode]
    BM25: _ClassVar[Mode]
    HYBRID: _ClassVar[Mode]
MODE_UNSPECIFIED: Mode
DENSE: Mode
BM25: Mode
HYBRID: Mode

class Passage(_message.Message):
    __slots__ = ("id", "title", "text", "score", "metadata")
    ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    id: str
    title: str
    text: str
    score: float
    metadata: str
    def __init__(self, id: _Optional[str] = ..., title: _Optional[str] = ..., text: _Optional[str] = ..., score: _Optional[float] = ..., metadata: _Optional[str] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("queries", "top_k", "index", "mode", "rerank", "filter")
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    RERANK_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    queries: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    index: str
    mode: Mode
    rerank: int
    filter: str
    def __init__(self, queries: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., index: _Optional[str] = ..., mode: _Optional[_Union[Mode, str]] = ..., rerank: _Optional[int] = ..., filter: _Optional[str] = ...) -> None: ...

class RankedPassages(_message.Message):
    __slots__ = ("passages",)
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    passages: _containers.RepeatedCompositeFieldContainer[Passage]
    def __init__(self, passages: _Optional[_Iterable[_Union[Passage, _Mapping]]] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("results", "index", "index_version")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    INDEX_VERSION_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RankedPassages]
    index: str
    index_version: str
    def __init__(self, results: _Optional[_Iterable[_Union[RankedPassages, _Mapping]]] = ..., index: _Optional[str] = ..., index_version: _Optional[str] = ...) -> None: ...

class ListIndexesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class IndexRequest(_message.Message):
    __slots__ = ("index",)
    INDEX_FIELD_NUMBER: _ClassVar[int]
    index: str
    def __init__(self, index: _Optional[str] = ...) -> None: ...

class IndexInfo(_message.Message):
    __slots__ = ("name", "version", "passages", "dim", "kind", "encoder", "modes", "is_default", "source", "licence", "reranker", "keys", "writable", "versions", "fault")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    MODES_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    RERANKER_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    WRITABLE_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    passages: int
    dim: int
    kind: str
    encoder: str
    modes: _containers.RepeatedScalarFieldContainer[Mode]
    is_default: bool
    source: str
    licence: str
    reranker: str
    keys: _containers.RepeatedScalarFieldContainer[str]
    writable: bool
    versions: _containers.RepeatedCompositeFieldContainer[IndexVersion]
    fault: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., passages: _Optional[int] = ..., dim: _Optional[int] = ..., kind: _Optional[str] = ..., encoder: _Optional[str] = ..., modes: _Optional[_Iterable[_Union[Mode, str]]] = ..., is_default: bool = ..., source: _Optional[str] = ..., licence: _Optional[str] = ..., reranker: _Optional[str] = ..., keys: _Optional[_Iterable[str]] = ..., writable: bool = ..., versions: _Optional[_Iterable[_Union[IndexVersion, _Mapping]]] = ..., fault: _Optional[str] = ...) -> None: ...

class IndexVersion(_message.Message):
    __slots__ = ("version", "passages", "built")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    BUILT_FIELD_NUMBER: _ClassVar[int]
    version: str
    passages: int
    built: float
    def __init__(self, version: _Optional[str] = ..., passages: _Optional[int] = ..., built: _Optional[float] = ...) -> None: ...

class ListIndexesResponse(_message.Message):
    __slots__ = ("indexes",)
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    indexes: _containers.RepeatedCompositeFieldContainer[IndexInfo]
    def __init__(self, indexes: _Optional[_Iterable[_Union[IndexInfo, _Mapping]]] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("texts", "index", "as_passages")
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    AS_PASSAGES_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    index: str
    as_passages: bool
    def __init__(self, texts: _Optional[_Iterable[str]] = ..., index: _Optional[str] = ..., as_passages: bool = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("vectors",)
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    vectors: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, vectors: _Optional[_Iterable[bytes]] = ...) -> None: ...

class CreateIndexRequest(_message.Message):
    __slots__ = ("name", "encoder", "kind", "bm25", "source", "licence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BM25_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    encoder: str
    kind: str
    bm25: str
    source: str
    licence: str
    def __init__(self, name: _Optional[str] = ..., encoder: _Optional[str] = ..., kind: _Optional[str] = ..., bm25: _Optional[str] = ..., source: _Optional[str] = ..., licence: _Optional[str] = ...) -> None: ...

class DeleteIndexResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Edit(_message.Message):
    __slots__ = ("upsert", "remove")
    UPSERT_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    upsert: Passage
    remove: str
    def __init__(self, upsert: _Optional[_Union[Passage, _Mapping]] = ..., remove: _Optional[str] = ...) -> None: ...

class EditsRequest(_message.Message):
    __slots__ = ("index", "edits", "last")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    EDITS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    index: str
    edits: _containers.RepeatedCompositeFieldContainer[Edit]
    last: bool
    def __init__(self, index: _Optional[str] = ..., edits: _Optional[_Iterable[_Union[Edit, _Mapping]]] = ..., last: bool = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("index", "id", "state", "upserts", "removals", "phase", "done", "total", "version", "error", "stored", "started", "finished")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        WAITING: _ClassVar[Change.State]
        BUILDING: _ClassVar[Change.State]
        DONE: _ClassVar[Change.State]
        FAILED: _ClassVar[Change.State]
    WAITING: Change.State
    BUILDING: Change.State
    DONE: Change.State
    FAILED: Change.State
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    UPSERTS_FIELD_NUMBER: _ClassVar[int]
    REMOVALS_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    index: str
    id: int
    state: Change.State
    upserts: int
    removals: int
    phase: str
    done: int
    total: int
    version: str
    error: str
    stored: float
    started: float
    finished: float
    def __init__(self, index: _Optional[str] = ..., id: _Optional[int] = ..., state: _Optional[_Union[Change.State, str]] = ..., upserts: _Optional[int] = ..., removals: _Optional[int] = ..., phase: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., version: _Optional[str] = ..., error: _Optional[str] = ..., stored: _Optional[float] = ..., started: _Optional[float] = ..., finished: _Optional[float] = ...) -> None: ...

class ListChangesResponse(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    def __init__(self, changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ...) -> None: ...

class RollBackRequest(_message.Message):
    __slots__ = ("index", "version")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    index: str
    version: str
    def __init__(self, index: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...
