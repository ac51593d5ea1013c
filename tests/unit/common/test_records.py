"""Records that come in chunks."""

import json

import pytest

from common.records import BrokenFile, Records

ITEMS = [{"id": 1, "text": 'a ]}," [{\\ b'}, {"id": 2, "nested": [[], {"c": "\\"}]}, "text", 3]
ARRAY = json.dumps(ITEMS, indent=1)
SHAPES = {
    "lines": "\n".join(map(json.dumps, ITEMS)),
    "lines that begin late": "\ufeff\n \n" + "\r\n".join(map(json.dumps, ITEMS)) + "\n\n",
    "array": ARRAY,
    "array in an object": f'\n{{ "passages":\n{ARRAY} }}\n',
}


def split(body: bytes, size: int, **options: object) -> list[tuple[int, bytes]]:
    records = Records(**options)  # type: ignore[arg-type]
    found = [each for at in range(0, len(body), size) for each in records.feed(body[at : at + size])]
    return [*found, *records.end()]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_chunks_of_any_size_give_the_same_records(shape: str, size: int) -> None:
    found = split(SHAPES[shape].encode(), size, key="passages")
    assert [json.loads(record) for _, record in found] == ITEMS
    assert found == split(SHAPES[shape].encode(), 10_000, key="passages")


def test_without_a_key_an_object_with_an_array_is_a_line() -> None:
    body = b'{"passages": [{"id": 1}]}'
    assert split(body, 5) == [(1, body)]


@pytest.mark.parametrize("body", [b'{"passages": [1, 2]', b'{"passages": [1, 2]}}', b'{"passages": [1, 2], "more": 1}'])
def test_what_follows_the_array_is_a_record_of_its_own(body: bytes) -> None:
    found = split(body, 3, key="passages")
    assert [record for _, record in found[:2]] == [b"1", b"2"]
    assert len(found) == 3


@pytest.mark.parametrize("start", [b"", b"[1, ", b'["'])
def test_a_record_without_end_is_not_held_in_memory(start: bytes) -> None:
    with pytest.raises(BrokenFile, match="1,000 bytes") as raised:
        split(start + b"x" * 2000, 100, longest=1000)
    assert raised.value.line == 1


def test_nothing_is_no_record() -> None:
    assert split(b"", 1) == split(b" \n\n", 1) == split(b"[ ]", 1) == []
