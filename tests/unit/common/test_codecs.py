"""Values go through the contracts' messages and come back as they were."""

from dataclasses import fields
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from common.codecs import generator, retriever
from common.indexes import Change, ChangeState, Edit, NewIndex, Removal
from contracts.v1 import generator_pb2, retriever_pb2
from search_agent.errors import Failure, RetrieverError
from search_agent.filters import Filter
from search_agent.types import (
    Completion,
    FinishReason,
    IndexInfo,
    IndexVersion,
    Mode,
    ModelCard,
    ModelInfo,
    Passage,
    Rankings,
    Retrieval,
    Sampling,
)
from search_agent.types import Message as Said

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COUNT = st.integers(0, 2**32 - 1)
SINGLE = st.floats(0, 2, width=32)  # what a message holds of a float
MODES = st.sampled_from(Mode)


SCALAR = TEXT | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.booleans()
METADATA = st.dictionaries(TEXT, SCALAR | st.lists(TEXT), max_size=3)
FILTERS = st.dictionaries(
    st.text("abc", min_size=1),
    SCALAR
    | st.fixed_dictionaries({"in": st.lists(SCALAR, min_size=1)})
    | st.fixed_dictionaries({"gte": TEXT, "lte": st.integers(0, 9), "exists": st.booleans()}),
    max_size=3,
).map(Filter.from_json)


@given(st.lists(TEXT), st.builds(Retrieval, COUNT, TEXT, MODES, COUNT, FILTERS))
def test_searches(queries: list[str], how: Retrieval) -> None:
    request = sent(retriever.search_request(queries, how))
    assert (list(request.queries), retriever.retrieval_of(request)) == (queries, how)


def test_a_mode_that_does_not_exist_is_named() -> None:
    with pytest.raises(RetrieverError) as caught:
        retriever.retrieval_of(retriever_pb2.SearchRequest(mode=9))  # type: ignore[arg-type]
    assert caught.value.field == "mode"


@pytest.mark.parametrize("filter", ["[]", "{", '{"year": {"gt": 1}}', '{"year": NaN}', "[" * 100_000])
def test_a_filter_that_is_none_is_named(filter: str) -> None:
    with pytest.raises(RetrieverError) as caught:
        retriever.retrieval_of(retriever_pb2.SearchRequest(filter=filter))
    assert (caught.value.failure, caught.value.field) == (Failure.INVALID, "filter")


PASSAGES = st.builds(Passage, TEXT, TEXT, TEXT, SINGLE, METADATA)


@given(st.lists(st.lists(PASSAGES).map(tuple)))
def test_passages(found: list[tuple[Passage, ...]]) -> None:
    arrived = retriever.rankings_of(sent(retriever.search_response(Rankings(found, "demo@1"))))
    assert (arrived, arrived.served) == (found, "demo@1")


@given(st.lists(PASSAGES | st.builds(Removal, TEXT)), st.booleans())
def test_edits(edits: list[Edit], last: bool) -> None:
    request = sent(retriever.edits_request("demo", edits, last))
    assert (request.index, [*map(retriever.edit_of, request.edits)], request.last) == ("demo", edits, last)


@pytest.mark.parametrize("metadata", ["1", "[]", "null", "{"])
def test_metadata_that_is_no_object_is_refused(metadata: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        retriever.passage_of(retriever_pb2.Passage(id="a", metadata=metadata))


@given(st.builds(NewIndex, TEXT, st.none() | TEXT, TEXT, TEXT, TEXT, TEXT))
def test_new_indexes(new: NewIndex) -> None:
    assert retriever.new_index_of(sent(retriever.create_request(new))) == new


@given(
    st.lists(
        st.builds(
            Change, TEXT, COUNT, st.sampled_from(ChangeState), COUNT, COUNT, TEXT, COUNT, COUNT, TEXT, TEXT,
            SINGLE, SINGLE, SINGLE,
        )
    )
)  # fmt: skip
def test_changes(changes: list[Change]) -> None:
    assert retriever.changes_of(sent(retriever.changes_response(changes))) == changes


VERSIONS = st.lists(st.builds(IndexVersion, TEXT, COUNT, SINGLE)).map(tuple)
TEXTS = st.lists(TEXT).map(tuple)
INDEXES = st.builds(
    IndexInfo, TEXT, TEXT, COUNT, COUNT, TEXT, TEXT, st.lists(MODES).map(tuple), st.booleans(), TEXT, TEXT, TEXT, TEXTS,
    st.booleans(), VERSIONS,
)  # fmt: skip


@given(st.lists(INDEXES))
def test_indexes(indexes: list[IndexInfo]) -> None:
    assert retriever.indexes_of(sent(retriever.indexes_response(indexes))) == indexes


@given(
    st.lists(st.builds(Said, TEXT, TEXT)).map(tuple),
    st.builds(Sampling, COUNT, SINGLE, SINGLE, st.none() | COUNT, st.lists(TEXT).map(tuple), TEXT),
)
def test_requests(messages: tuple[Said, ...], sampling: Sampling) -> None:
    request = sent(generator.generate_request(messages, sampling))
    assert (generator.messages_of(request), generator.sampling_of(request)) == (messages, sampling)


@given(
    st.builds(Completion, TEXT, st.sampled_from(FinishReason), COUNT, COUNT, TEXT, TEXT)
    | st.builds(Completion, TEXT, st.none(), stop=TEXT, model=TEXT)
)
def test_completions(completion: Completion) -> None:
    assert generator.completion_of(sent(generator.generate_response(completion))) == completion


PARAMETERS = st.dictionaries(TEXT, st.booleans() | COUNT | TEXT)
CARDS = st.builds(
    ModelCard, TEXT, PARAMETERS, TEXT, TEXT, st.lists(TEXT).map(tuple), st.dictionaries(TEXT, st.floats(0, 1))
)


@given(st.builds(ModelInfo, TEXT, TEXT, COUNT, st.booleans(), TEXT, TEXT, CARDS, st.booleans()))
def test_models(info: ModelInfo) -> None:
    assert generator.model_of(sent(generator.model_response(info))) == info


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (IndexInfo, retriever_pb2.IndexInfo),
        (IndexVersion, retriever_pb2.IndexVersion),
        (Change, retriever_pb2.Change),
        (NewIndex, retriever_pb2.CreateIndexRequest),
        (Passage, retriever_pb2.Passage),
        (Sampling, generator_pb2.Sampling),
        (ModelInfo, generator_pb2.ModelInfoResponse),
        (ModelCard, generator_pb2.ModelCard),
    ],
)
def test_a_value_has_the_fields_of_its_message(value: type, message: type[Message]) -> None:
    assert {field.name for field in fields(value)} == set(message.DESCRIPTOR.fields_by_name)


def sent(message: Any) -> Any:
    """The message as it arrives."""
    return type(message).FromString(message.SerializeToString())
