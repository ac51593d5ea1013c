"""Values go through the contracts' messages and come back as they were."""

from dataclasses import fields
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from common.codecs import generator, retriever
from contracts.v1 import generator_pb2, retriever_pb2
from search_agent.errors import RetrieverError
from search_agent.types import (
    Completion,
    FinishReason,
    IndexInfo,
    Mode,
    ModelCard,
    ModelInfo,
    Passage,
    Retrieval,
    Sampling,
)
from search_agent.types import Message as Said

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COUNT = st.integers(0, 2**32 - 1)
SINGLE = st.floats(0, 2, width=32)  # what a message holds of a float
MODES = st.sampled_from(Mode)


@given(st.lists(TEXT), st.builds(Retrieval, COUNT, TEXT, MODES, COUNT))
def test_searches(queries: list[str], how: Retrieval) -> None:
    request = sent(retriever.search_request(queries, how))
    assert (list(request.queries), retriever.retrieval_of(request)) == (queries, how)


def test_a_mode_that_does_not_exist_is_named() -> None:
    with pytest.raises(RetrieverError) as caught:
        retriever.retrieval_of(retriever_pb2.SearchRequest(mode=9))  # type: ignore[arg-type]
    assert caught.value.field == "mode"


@given(st.lists(st.lists(st.builds(Passage, TEXT, TEXT, TEXT, SINGLE)).map(tuple)))
def test_passages(found: list[tuple[Passage, ...]]) -> None:
    assert retriever.passages_of(sent(retriever.search_response(found, IndexInfo("demo", "1")))) == found


@given(
    st.lists(
        st.builds(
            IndexInfo, TEXT, TEXT, COUNT, COUNT, TEXT, TEXT, st.lists(MODES).map(tuple), st.booleans(), TEXT, TEXT, TEXT
        )
    )
)
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


@given(st.builds(ModelInfo, TEXT, TEXT, COUNT, st.booleans(), TEXT, TEXT, CARDS))
def test_models(info: ModelInfo) -> None:
    assert generator.model_of(sent(generator.model_response(info))) == info


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (IndexInfo, retriever_pb2.IndexInfo),
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
