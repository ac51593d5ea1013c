from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from search_agent.types import Passage
from services.retriever.corpus import parse_record, read_corpus
from services.retriever.errors import BadRecord, BuildRefused

GOOD = b'{"id": "a", "title": "T", "text": "x"}'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nonsense", "not JSON"),
        (b'{"id": "a"', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'["a", "T", "x"]', "not a JSON object"),
        (b'{"title": "T", "text": "x"}', 'no "id"'),
        (b'{"id": "a", "text": "x"}', 'no "title"'),
        (b'{"id": "a", "title": "T"}', 'no "text"'),
        (b'{"id": "", "title": "T", "text": "x"}', '"id" is empty'),
        (b'{"id": "a", "title": " ", "text": "x"}', '"title" is empty'),
        (b'{"id": "a", "title": "T", "text": "\\n"}', '"text" is empty'),
        (b'{"id": 7, "title": "T", "text": "x"}', '"id" is not a string'),
        (b'{"id": "a", "title": null, "text": "x"}', '"title" is not a string'),
        (b'{"id": "a", "title": "T", "text": ["x"]}', '"text" is not a string'),
        (b'{"id": "a", "title": "T", "text": "\\ud800"}', "surrogate"),
        (b'{"id": "a", "title": "\xff", "text": "x"}', "invalid UTF-8 at byte 23"),
        (b'{"id": "a", "contents": "one line"}', "no title line"),
        (b'{"id": "a", "contents": "\\"\\"\\ntext"}', '"title" is empty'),
        (b'{"id": "a", "contents": "T\\n"}', '"text" is empty'),
    ],
)
def test_bad_lines_are_refused_with_the_reason(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_record(line)


@pytest.mark.parametrize(
    ("contents", "title", "text"),
    [
        ('"Anarchism"\nText.', "Anarchism", "Text."),
        ("Anarchism\nText.", "Anarchism", "Text."),
        ('""Heroes" (album)"\nText.', '"Heroes" (album)', "Text."),
        ('"Weird Al" Yankovic\nText.', '"Weird Al" Yankovic', "Text."),
        ("T\nfirst\nsecond", "T", "first\nsecond"),
    ],
)
def test_contents_are_a_title_line_and_a_text(contents: str, title: str, text: str) -> None:
    line = json.dumps({"id": "1", "contents": contents}).encode()
    assert parse_record(line) == Passage("1", title, text)


def test_bad_lines_are_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\n\n" + GOOD + b"\nnope\n" + GOOD.replace(b'"a"', b'"b"'))
    bad: list[BadRecord] = []
    assert [passage.id for passage in read_corpus(path, bad.append)] == ["a", "b"]
    assert [str(each).split(": ", 1) for each in bad] == [
        [f"{path}:3", "duplicate id 'a'"],
        [f"{path}:4", "not JSON: Expecting value: line 1 column 1 (char 0)"],
    ]


def test_a_gzip_stream_that_breaks_off_is_a_bad_line(tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(n), "title": "T", "text": f"text {n * 7919}"}) for n in range(2000)]
    whole = gzip.compress("\n".join(lines).encode())
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    bad: list[BadRecord] = []
    read = [*read_corpus(path, bad.append)]
    assert 0 < len(read) < 2000
    assert len(bad) == 1
    assert str(bad[0]).startswith(f"{path}:{len(read) + 1}: broken gzip stream")


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildRefused, match=r"gone\.jsonl: No such file"):
        list(read_corpus(tmp_path / "gone.jsonl", lambda bad: None))


def test_medcorp_s_lines_repeat_title_and_content_in_contents() -> None:
    line = {"id": "A_0", "title": "Anatomy", "content": "A bone.\nTwo.", "contents": "Anatomy. A bone.\nTwo."}
    assert parse_record(json.dumps(line).encode()) == Passage("A_0", "Anatomy", "A bone.\nTwo.")
    with pytest.raises(ValueError, match='"content" is empty'):
        parse_record(json.dumps(line | {"content": ""}).encode())


def test_a_folder_is_read_file_by_file_in_order_of_name(tmp_path: Path) -> None:
    with pytest.raises(BuildRefused, match=r"without \.jsonl"):
        list(read_corpus(tmp_path, lambda bad: None))
    (tmp_path / "b.jsonl").write_bytes(GOOD.replace(b'"a"', b'"c"') + b"\n" + GOOD)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(GOOD + b"\n" + GOOD.replace(b'"a"', b'"b"')))
    (tmp_path / "README.md").write_text("no corpus")
    bad: list[BadRecord] = []
    assert [passage.id for passage in read_corpus(tmp_path, bad.append)] == ["a", "b", "c"]
    assert [str(each) for each in bad] == [f"{tmp_path}/b.jsonl:2: duplicate id 'a'"]
