"""The values that travel between agents, services and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from search_agent.filters import EVERYTHING, Filter
from search_agent.parameters import number, option


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that can be retrieved. Its `score` is comparable within one ranked list only.

    `metadata` holds texts, numbers, truth values and lists of texts by key; filters read it, models do not.
    """

    id: str
    title: str
    text: str
    score: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


class Rankings(list[tuple[Passage, ...]]):
    """The passages that each query of a batch found, best first; `served` is "name@version" of what answered."""

    def __init__(self, found: Iterable[tuple[Passage, ...]] = (), served: str = "") -> None:
        super().__init__(found)
        self.served = served


QUESTION_CHARS = 4000  # the longest question, and the longest option, that the gateway and the readers take


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its gold answers.

    `gold_passages` has one entry per passage that the answer needs, each with the ids that count as that passage.
    `article` is the title of the text they are from. Both are empty where they are not known. `options` (text by
    letter) make it multiple choice; `choice` is then the right letter. `instructions` tell the generator how to answer;
    the search does not see them. Reports are broken down by `groups`, such as {"dataset": "musique", "hops": "3"}.
    """

    id: str
    text: str
    golds: tuple[str, ...] = ()
    gold_passages: tuple[tuple[str, ...], ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    choice: str = ""
    article: str = ""
    instructions: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def gold_ids(self) -> frozenset[str]:
        """The ids that count as any of the gold passages."""
        return frozenset(id for passage in self.gold_passages for id in passage)


class Author(StrEnum):
    """The author of a span. Training uses only what the policy wrote."""

    ENVIRONMENT = "environment"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the dialogue between environment and policy, in the order it was written."""

    author: Author
    text: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """Options of one generation. Any of the `stop` strings ends the text and is not part of it.

    `grammar` is GBNF (llama.cpp's notation). Engines that cannot follow a grammar refuse the request.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    grammar: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message; `role` is system, user or assistant."""

    role: str
    content: str


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Completion:
    """A text that a model wrote, or a piece of one. Only the last piece has a finish reason and token counts.

    `stop` is the stop string that ended the text, empty if there was none or the engine does not report it. `model` is
    "name@version" of the model.
    """

    text: str
    finish_reason: FinishReason | None = FinishReason.STOP
    prompt_tokens: int = 0
    completion_tokens: int = 0
    stop: str = ""
    model: str = ""

    @property
    def tokens(self) -> int:
        """The tokens of the whole dialogue, this completion included."""
        return self.prompt_tokens + self.completion_tokens


class Mode(StrEnum):
    """Ways to rank passages. AUTO is the first mode that the index has: dense, else BM25."""

    AUTO = "auto"
    DENSE = "dense"
    BM25 = "bm25"
    HYBRID = "hybrid"


@dataclass(frozen=True)
class Retrieval:
    """The parameters of a search, shared by all methods that search."""

    top_k: int = number(3, 1, 100, "passages that a search returns")
    index: str = option("", "index to search; empty: the default one")
    mode: Mode = option(Mode.AUTO, "how passages are ranked; auto: dense, or bm25 where the index has no vectors")
    # With `rerank` above 0, a cross-encoder ranks the mode's best max(rerank, top_k) passages again.
    rerank: int = number(0, 0, 100, "passages that a cross-encoder ranks again; 0: none")
    filter: Filter = option(EVERYTHING, 'conditions on passages\' metadata, such as {"year": {"gte": 1990}}')


@dataclass(frozen=True, slots=True)
class Verdict:
    """The guard's verdict: its reasons by id for passages that no model may read, and why it refuses, if it does."""

    dropped: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""


@dataclass(frozen=True, slots=True)
class IndexVersion:
    """A version of an index that is kept. `built` is in seconds since 1970."""

    version: str
    passages: int
    built: float


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """An index that a retriever serves. `version` is a hash of its content, empty if its answers may not be cached.

    `modes` never contains AUTO; a server, which ranks by itself, has none. `encoder` is empty if the index has no
    vectors, `reranker` if the retriever has none. `keys` are those of its passages' metadata. A `writable` index takes
    changes, and can be rolled back to any of its `versions`, newest first. `fault` says why a server's last search
    failed; it is empty if it did not.
    """

    name: str
    version: str
    passages: int = 0
    dim: int = 0
    kind: str = ""
    encoder: str = ""
    modes: tuple[Mode, ...] = ()
    is_default: bool = False
    source: str = ""
    licence: str = ""
    reranker: str = ""
    keys: tuple[str, ...] = ()
    writable: bool = False
    versions: tuple[IndexVersion, ...] = ()
    fault: str = ""

    @property
    def served(self) -> str:
        """Returns "name@version"."""
        return f"{self.name}@{self.version}"

    def mode(self, asked: Mode) -> Mode:
        """Returns the mode that this index uses for `asked`."""
        return next(iter(self.modes), asked) if asked is Mode.AUTO else asked

    def fitting(self, taught: Mode) -> Mode:
        """Returns the mode for a searcher that was taught `taught`: AUTO if this index lacks that."""
        return taught if taught in self.modes else Mode.AUTO


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Describes what a model was taught, and so how to ask it.

    `method` is empty for a model that was taught no method, such as a reading adapter. `parameters` are the method's,
    `prompt_version` is the hash of its prompt, `base_model` the hash of the base model's weights. `data` names its
    training data, and `figures` holds its measured results.
    """

    method: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    prompt_version: str = ""
    base_model: str = ""
    data: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


UNTAUGHT = ModelCard()  # nothing is known of what the model was taught


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that is served. `model` is "name@version"; `context_tokens` is 0 if the engine does not report it.

    `path` and `adapter` load the same model again; they are empty if the engine has no files. `card` is the
    adapter's or, if it has none, the model's. Other adapters of the service use the base model too if it is `shared`.
    """

    model: str
    engine: str = ""
    context_tokens: int = 0
    grammar: bool = False
    path: str = ""
    adapter: str = ""
    card: ModelCard = UNTAUGHT
    shared: bool = False


class StopReason(StrEnum):
    """The reason why an agent stopped searching."""

    COMPLETE = "complete"  # the searcher ended the search, or the method has no more steps
    MAX_TURNS = "max_turns"  # the last turn ended without that
    BUDGET = "budget"  # the next turn would not fit the token budget, or the searcher's context
    INVALID = "invalid"  # the last turn was malformed


@dataclass(frozen=True, slots=True)
class Turn:
    """One block of passages, and the searcher's selection from it.

    `selected` are passages of the block, or a digest of it (Search-o1). `error` says why the searcher's text was
    malformed; it is empty if it was not.
    """

    query: str
    retrieved: tuple[Passage, ...]
    selected: tuple[Passage, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A passage that was kept, and the number (from 1) of the turn that kept it."""

    passage: Passage
    turn: int


@dataclass(frozen=True, slots=True)
class Found:
    """The event after the last search: the documents are settled. `cached` tells whether they were stored."""

    documents: tuple[Document, ...]
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the answer's text, or of the reasoning before it."""

    text: str


Event = Turn | Found | Piece  # of an episode, in this order


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of an episode. Token counts cover searcher and generator together.

    `rewritten` counts turns that the searcher wrote freely and had to write again under its grammar.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    searches: int = 0
    rewritten: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds spent waiting for each port; `total` is wall time."""

    total: float = 0.0
    retrieve: float = 0.0
    search: float = 0.0
    generate: float = 0.0


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The record of a finished episode. `answer` is None if none was asked for; `finish_reason` is the answer's.

    `models` wrote something, and `indexes` were searched, each as "name@version". `truncated`: a model was shown less
    of the passages than requested, because its context has no room for more. `dropped` has the guard's reasons by id
    for the passages that it withheld from the models.
    """

    method: str
    question: str
    documents: tuple[Document, ...]
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    usage: Usage
    timings: Timings
    spans: tuple[Span, ...] = field(default=(), repr=False)
    answer: str | None = None
    finish_reason: FinishReason = FinishReason.STOP
    models: tuple[str, ...] = ()
    truncated: bool = False
    indexes: tuple[str, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)

    @property
    def passages(self) -> tuple[Passage, ...]:
        """The passages that the generator reads, in order of selection."""
        return tuple(document.passage for document in self.documents)
