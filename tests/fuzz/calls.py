"""Fuzzes the gRPC services: random bytes, and messages of odd values that may be cut or changed."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import hypothesis
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from contracts.v1 import generator_pb2, retriever_pb2, retriever_pb2_grpc, trainer_pb2, trainer_pb2_grpc
from tests.fuzz.served import Stack

METHODS: list[MethodDescriptor] = [
    method
    for module in (retriever_pb2, generator_pb2, trainer_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
# A crash, a call that nobody answers, or an error that is too long to tell: nothing else is under way.
BAD = {"UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
ENDLESS = "Watch"  # how the names of calls without an end begin
_DEADLINE_S, _ENDLESS_S = 10.0, 0.1

_F = FieldDescriptor
_KNOWN = ("", "small", "mine", "fake", "reader", "searcher", "base", "smollm2-demo", "bm25s", "flat", "{}", "v1", "1")
_ODD = ("\0", "\u202e", "../../etc/passwd", "a" * 300, "x" * 100_000, '{"a": {"gte": 1}}', "[" * 5000, "{a: &a [*a]}")
_TEXTS = st.sampled_from(_KNOWN + _ODD) | st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
_FLOATS = st.sampled_from([0.0, 1.0, -1.0, float("nan"), float("inf"), 1e38]) | st.floats(width=32)
_SMALL = st.integers(0, 9)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    _F.TYPE_STRING: _TEXTS,
    _F.TYPE_BOOL: st.booleans(),
    _F.TYPE_FLOAT: _FLOATS,
    _F.TYPE_DOUBLE: _FLOATS,
    _F.TYPE_UINT32: _SMALL | st.sampled_from([1000, 2**31, 2**32 - 1]),
    _F.TYPE_UINT64: _SMALL | st.sampled_from([2**32, 2**63, 2**64 - 1]),
    _F.TYPE_ENUM: _SMALL | st.sampled_from([-1, 99, 2**31 - 1, -(2**31)]),
}

Right = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Call:
    """A method with the messages that are sent to it."""

    method: MethodDescriptor
    sent: list[bytes]

    def code(self, channels: Mapping[str, grpc.Channel]) -> str:
        """Makes the call and returns the name of its status."""
        service, name = self.method.containing_service, self.method.name
        kinds = ["stream" if streams else "unary" for streams in (self.method.client_streaming, self.streams)]
        call = getattr(channels[service.name], "_".join(kinds))(f"/{service.full_name}/{name}")
        sent = iter(self.sent) if self.method.client_streaming else self.sent[0]
        try:
            found = call(sent, timeout=_ENDLESS_S if name.startswith(ENDLESS) else _DEADLINE_S)
            if self.streams:
                collections.deque(found, 0)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    @property
    def streams(self) -> bool:
        return bool(self.method.server_streaming)

    @property
    def bad(self) -> set[str]:
        """The statuses that the call must not have."""
        return BAD - {"DEADLINE_EXCEEDED"} if self.method.name.startswith(ENDLESS) else BAD


def calls(method: MethodDescriptor, right: Right) -> st.SearchStrategy[Call]:
    """Returns calls of a method; of a stream, up to four messages."""
    one = _encoded(method.input_type, right)
    sent = st.lists(one, max_size=4) if method.client_streaming else st.lists(one, min_size=1, max_size=1)
    return st.builds(Call, st.just(method), sent)


@st.composite
def _encoded(draw: st.DrawFn, kind: Descriptor, right: Right) -> bytes:
    """Returns a message as bytes: whole, cut, with other bytes in between, or random bytes alone."""
    how = draw(st.sampled_from(["whole", "whole", "whole", "cut", "mixed", "random"]))
    if how == "random":
        return draw(st.binary(max_size=300))
    data: bytes = draw(_messages(kind, right)).SerializeToString()
    place = draw(st.integers(0, len(data)))
    match how:
        case "cut":
            return data[:place]
        case "mixed":
            return data[:place] + draw(st.binary(min_size=1, max_size=8)) + data[place:]
    return data


@st.composite
def _messages(draw: st.DrawFn, kind: Descriptor, right: Right = {}) -> Message:  # noqa: B006
    """Returns a message of a kind: some fields of a right one, or none, and odd values in others."""
    values = dict(right.get(kind.name, {})) if draw(st.booleans()) else {}
    names = [field.name for field in kind.fields]
    for name in draw(st.lists(st.sampled_from(names), unique=True)) if names else ():
        values[name] = draw(_values(kind.fields_by_name[name]))
    oneofs = {name: each.containing_oneof for name in values if (each := kind.fields_by_name[name])}
    last = {oneof.name: name for name, oneof in oneofs.items() if oneof}
    kept = {name: value for name, value in values.items() if not (one := oneofs[name]) or last[one.name] == name}
    return message_factory.GetMessageClass(kind)(**kept)


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    inner = field.message_type
    if inner and inner.GetOptions().map_entry:
        key, value = map(_values, inner.fields)
        return st.dictionaries(key, value, max_size=3)
    one = _messages(inner) if inner else _SCALARS[field.type]
    return st.lists(one, max_size=4) if field.label == _F.LABEL_REPEATED else one


@contextmanager
def channels(stack: Stack) -> Iterator[dict[str, grpc.Channel]]:
    """Gives a channel a service, by the service's name. Nothing is sent twice."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    addresses = {"Retriever": stack.retriever, "Generator": stack.generator, "Trainer": stack.trainer}
    with ExitStack() as opened:
        yield {
            name: opened.enter_context(grpc.insecure_channel(address, options)) for name, address in addresses.items()
        }


def right_requests(to: Mapping[str, grpc.Channel]) -> Right:
    """Makes an index and a run. Returns fields of requests that are answered, by the kind of message."""
    index = {"name": "fuzzed", "encoder": ""}
    retriever = retriever_pb2_grpc.RetrieverStub(to["Retriever"])
    if "fuzzed" not in [each.name for each in retriever.ListIndexes(retriever_pb2.ListIndexesRequest()).indexes]:
        retriever.CreateIndex(retriever_pb2.CreateIndexRequest(**index))
    run = trainer_pb2_grpc.TrainerStub(to["Trainer"]).StartRun(trainer_pb2.StartRunRequest(config="smollm2-demo"))
    passage = retriever_pb2.Passage(id="p1", title="Title", text="common")
    return {
        "SearchRequest": {"queries": ["common word3"], "top_k": 3},
        "EmbedRequest": {"texts": ["common"]},
        "CreateIndexRequest": index,
        "IndexRequest": {"index": "fuzzed"},
        "EditsRequest": {"index": "fuzzed", "edits": [retriever_pb2.Edit(upsert=passage)]},
        "RollBackRequest": {"index": "fuzzed"},
        "GenerateRequest": {"prompt": "common", "sampling": generator_pb2.Sampling(max_tokens=5)},
        "StartRunRequest": {"config": "smollm2-demo"},
        "RunRequest": {"id": run.id},
        "PromoteRequest": {"run": run.id},
    }


def fuzz(stack: Stack, method: MethodDescriptor, examples: int, seed: int = 1) -> collections.Counter[str]:
    """Makes that many calls of a method and counts their statuses. Fails with a call that was answered badly."""
    counts: collections.Counter[str] = collections.Counter()
    with channels(stack) as to:

        @hypothesis.seed(seed)
        @settings(
            max_examples=examples, deadline=None, database=None,
            phases=[Phase.generate, Phase.shrink], suppress_health_check=[*HealthCheck],
        )  # fmt: skip
        @given(calls(method, right_requests(to)))
        def is_answered_well(call: Call) -> None:
            code = call.code(to)
            counts[code] += 1
            assert code not in call.bad, f"{method.full_name}: {code}"

        is_answered_well()
    return counts
