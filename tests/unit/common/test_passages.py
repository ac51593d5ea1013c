"""Passages and edits from JSON records."""

import json

import pytest

from common.indexes import Removal
from common.passages import BadPassage, read_edit, read_passage
from search_agent.types import Passage


def record(**fields: object) -> bytes:
    return json.dumps({"id": "1", "text": "x"} | fields).encode()


def test_metadata_is_read() -> None:
    metadata = {"year": 1990, "score": 0.5, "lang": "de", "open": True, "tags": ["a", "b"], "none": None}
    assert read_passage(record(metadata=metadata)).metadata == {key: metadata[key] for key in [*metadata][:-1]}
    assert read_passage(record()).metadata == read_passage(record(metadata=None)).metadata == {}


@pytest.mark.parametrize(
    "metadata",
    [
        "text",
        {"": 1},
        {"a": {"b": 1}},
        {"a": ["b", 1]},
        {"a": 2**60},
        {"a": "x" * 1001},
        {"a": ["x" * 1001]},
        {str(key): key for key in range(65)},
        {str(key): "x" * 1000 for key in range(20)},
    ],
)
def test_metadata_that_cannot_be_filtered_by_is_refused(metadata: object) -> None:
    with pytest.raises(BadPassage) as raised:
        read_passage(record(metadata=metadata))
    assert raised.value.field == "metadata"


def test_an_edit_is_a_passage_or_a_removal() -> None:
    assert read_edit(record(deleted=False)) == Passage("1", "", "x")
    assert read_edit(b'{"_id": 7, "deleted": true}') == Removal("7")
    with pytest.raises(BadPassage, match="true or false"):
        read_edit(record(deleted="yes"))
