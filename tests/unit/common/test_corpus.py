from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from common.corpus import BadRecord, CorpusProblem, corpus_files, read_corpus
from common.passages import read_passage
from search_agent.types import Passage

GOOD = b'{"id": "a", "title": "T", "text": "x"}'


def read(path: Path) -> tuple[list[Passage], list[str]]:
    """Returns the passages of `path`, and the complaints about it without its folder."""
    bad: list[BadRecord] = []
    return list(read_corpus(path, bad.append)), [str(each).removeprefix(f"{path.parent}/") for each in bad]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nonsense", "not JSON"),
        (b'{"id": "a"', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (GOOD + b",\n", "a comma follows the object"),
        (b'["a", "T", "x"]', "not a JSON object"),
        (b'{"title": "T", "text": "x"}', 'no "id"'),
        (b'{"id": "a", "title": "T"}', 'no "text"'),
        (b'{"id": "", "title": "T", "text": "x"}', '"id" is empty'),
        (b'{"_id": "", "title": "T", "text": "x"}', '"_id" is empty'),
        (b'{"id": null, "title": "T", "text": "x"}', '"id" is not a string'),
        (b'{"id": NaN, "title": "T", "text": "x"}', '"id" is not a string'),
        (b'{"id": true, "title": "T", "text": "x"}', '"id" is not a string'),
        (b'{"id": 1.5, "title": "T", "text": "x"}', '"id" is not a string'),
        (b'{"id": "a", "title": "T", "text": "\\n"}', '"text" is empty'),
        (b'{"id": "a", "title": ["T"], "text": "x"}', '"title" is not a string'),
        (b'{"id": "a", "title": "T", "text": ["x"]}', '"text" is not a string'),
        (b'{"id": "a", "title": "T", "text": "\\ud800"}', '"text" holds half of a surrogate pair'),
        (b'{"id": "a", "title": "\\udfff", "text": "x"}', '"title" holds half of a surrogate pair'),
        (b'{"id": "a", "title": "\xff", "text": "x"}', "invalid UTF-8 at byte 23"),
        (GOOD.decode().encode("utf-16"), "UTF-16, not UTF-8"),
        (b'{"id": "a", "contents": "T\\n"}', '"contents" has a title line and no text'),
        (b'{"id": "a", "contents": " "}', '"contents" is empty'),
    ],
)
def test_a_bad_record_is_refused_with_the_reason(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_passage(line)


@pytest.mark.parametrize(
    ("fields", "passage"),
    [
        ({"id": "1", "text": "x"}, Passage("1", "", "x")),
        ({"id": "1", "title": "", "text": "x"}, Passage("1", "", "x")),
        ({"id": "1", "title": " ", "text": "x"}, Passage("1", "", "x")),
        ({"id": "1", "title": None, "text": "x"}, Passage("1", "", "x")),
        ({"id": "1", "title": float("nan"), "text": "x", "year": float("inf")}, Passage("1", "", "x")),
        ({"id": "1", "content": "x"}, Passage("1", "", "x")),
        ({"_id": "MED-1", "title": "T", "text": "x", "metadata": {}}, Passage("MED-1", "T", "x")),
        ({"id": "1", "_id": "2", "title": "T", "text": "x"}, Passage("1", "T", "x")),
        ({"id": 1, "title": "T", "text": "x"}, Passage("1", "T", "x")),
        ({"_id": 0, "title": 1984, "text": "x"}, Passage("0", "1984", "x")),
        ({"id": "3\0x", "title": "Ost\0wick", "text": "a\0b\u2028c"}, Passage("3\0x", "Ost\0wick", "a\0b\u2028c")),
    ],
)
def test_a_record_of_any_usual_shape_is_read(fields: dict[str, object], passage: Passage) -> None:
    for ascii_only in (True, False):
        assert read_passage(json.dumps(fields, ensure_ascii=ascii_only).encode()) == passage


@pytest.mark.parametrize(
    ("contents", "title", "text"),
    [
        ('"Anarchism"\nText.', "Anarchism", "Text."),
        ("Anarchism\nText.", "Anarchism", "Text."),
        ("Anarchism\r\nText.", "Anarchism", "Text."),
        ('""Heroes" (album)"\nText.', '"Heroes" (album)', "Text."),
        ('"Weird Al" Yankovic\nText.', '"Weird Al" Yankovic', "Text."),
        ("T\nfirst\nsecond", "T", "first\nsecond"),
        ("One line.", "", "One line."),
        ('""\nText.', "", "Text."),
        ("\nText.", "", "Text."),
    ],
)
def test_contents_are_a_text_that_a_title_line_may_precede(contents: str, title: str, text: str) -> None:
    line = json.dumps({"id": "1", "contents": contents}).encode()
    assert read_passage(line) == Passage("1", title, text)


@pytest.mark.parametrize(("contents", "text"), [("T\nfirst\nsecond", "first\nsecond"), ("first\nsecond",) * 2])
def test_contents_beside_a_title_may_repeat_it(contents: str, text: str) -> None:
    line = json.dumps({"id": "1", "title": "T", "contents": contents}).encode()
    assert read_passage(line) == Passage("1", "T", text)


def test_bad_lines_are_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\n\n" + GOOD + b"\nnope\n" + GOOD.replace(b'"a"', b'"b"'))
    passages, bad = read(path)
    assert [passage.id for passage in passages] == ["a", "b"]
    assert bad == [
        "c.jsonl:3: duplicate id 'a'",
        "c.jsonl:4: not JSON: Expecting value: line 1 column 1 (char 0)",
    ]


def test_a_reader_that_skips_nothing_ends_at_the_first_bad_line(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(GOOD + b"\n" + GOOD + b"\nnope\n")
    passages = read_corpus(tmp_path / "c.jsonl")
    assert next(passages) == Passage("a", "T", "x")
    with pytest.raises(BadRecord, match=r"c\.jsonl:2: duplicate id 'a'"):
        next(passages)


def test_an_integer_id_is_the_same_id_as_its_digits(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(b'{"id": 7, "text": "x"}\n{"id": "7", "text": "y"}\n')
    assert read(tmp_path / "c.jsonl")[1] == ["c.jsonl:2: duplicate id '7'"]


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\u0085d\x1ce"
    lines = [json.dumps({"id": id, "text": text}, ensure_ascii=False) for id in "ab"]
    (tmp_path / "c.jsonl").write_bytes("\r\n".join(lines).encode())
    assert read(tmp_path / "c.jsonl") == ([Passage("a", "", text), Passage("b", "", text)], [])


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("gz", [False, True])
def test_a_json_array_is_read_item_by_item(tmp_path: Path, indent: int | None, gz: bool) -> None:
    items: list[object] = [{"id": n, "title": "[T],", "text": f"x{n}\n]"} for n in range(3)]
    array = b"\xef\xbb\xbf\n " + json.dumps(items, indent=indent).encode() + b"\n"
    path = tmp_path / "c.json"
    path.write_bytes(gzip.compress(array) if gz else array)
    assert read(path) == ([Passage(str(n), "[T],", f"x{n}\n]") for n in range(3)], [])


@pytest.mark.parametrize(
    ("array", "ids", "bad"),
    [
        (b"[]", [], []),
        (b'[\n{"id": 1, "text": "x"},\n{"id": 2},\n{"id": 3, "text": "z"}]', ["1", "3"], [(3, 'no "text"')]),
        (b'[\n{"id": 1, "text": "x"},\n]\n', ["1"], [(3, "not JSON")]),
        (b'[\n{"id": 1, "text": "x"}\n{"id": 2, "text": "y"}\n]', ["1"], [(3, "not JSON")]),
        (b'[\n{"id": 1, "text": "x"},\n{"id": 2, "te', ["1"], [(3, "not JSON")]),
        (b'[\n{"id": 1, "text": "x"}\n', ["1"], [(3, "not JSON")]),
        (b'[\n{"id": 1, "text": "x"}]\nmore', ["1"], [(3, "not JSON")]),
        (b'["a", "T"]', [], [(1, "not a JSON object")] * 2),
        (b'[{"id": 1, "text": "\xff"}]', [], [(1, "invalid UTF-8 at byte 20")]),
        (b"[" * 100_000, [], [(1, "not JSON")]),
    ],
)
def test_a_bad_array_is_named_by_file_and_line(
    tmp_path: Path, array: bytes, ids: list[str], bad: list[tuple[int, str]]
) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(array)
    passages, complaints = read(path)
    assert [passage.id for passage in passages] == ids
    assert len(complaints) == len(bad)
    for complaint, (line, reason) in zip(complaints, bad, strict=True):
        assert complaint.startswith(f"c.json:{line}: {reason}")


def test_a_gzip_stream_that_breaks_off_is_a_bad_line(tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(n), "title": "T", "text": f"text {n * 7919}"}) for n in range(2000)]
    whole = gzip.compress("\n".join(lines).encode())
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    passages, [bad] = read(path)
    assert 0 < len(passages) < 2000
    assert bad.startswith(f"c.jsonl.gz:{len(passages) + 1}: broken gzip stream")


def test_bytes_after_a_gzip_stream_are_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.gz"
    other = gzip.compress(GOOD.replace(b'"a"', b'"b"'))
    path.write_bytes(gzip.compress(GOOD + b"\n") + other)
    assert [passage.id for passage in read(path)[0]] == ["a", "b"]
    path.write_bytes(gzip.compress(GOOD + b"\n") + b"garbage")
    assert read(path) == ([Passage("a", "T", "x")], ["c.jsonl.gz:2: bytes that are not gzip follow the gzip stream"])


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusProblem, match=r"gone\.jsonl: No such file"):
        list(read_corpus(tmp_path / "gone.jsonl", lambda bad: None))


def test_medcorp_s_lines_repeat_title_and_content_in_contents() -> None:
    line = {"id": "A_0", "title": "Anatomy", "content": "A bone.\nTwo.", "contents": "Anatomy. A bone.\nTwo."}
    assert read_passage(json.dumps(line).encode()) == Passage("A_0", "Anatomy", "A bone.\nTwo.")
    with pytest.raises(ValueError, match='"content" is empty'):
        read_passage(json.dumps(line | {"content": ""}).encode())


def test_a_folder_is_read_file_by_file_in_order_of_path(tmp_path: Path) -> None:
    def line(id: str) -> bytes:
        return GOOD.replace(b'"a"', json.dumps(id).encode()) + b"\n"

    folder = tmp_path / "corpus"
    (folder / "sub" / "deeper").mkdir(parents=True)
    (folder / ".cache").mkdir()
    with pytest.raises(CorpusProblem, match=r"no \.jsonl, \.ndjson, \.json files"):
        list(read_corpus(folder, lambda bad: None))
    (folder / "b.JSONL").write_bytes(line("c") + line("a"))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(line("a") + line("b")))
    (folder / "c.json").write_bytes(b"[" + line("d") + b"]")
    (folder / "d.ndjson.GZ").write_bytes(gzip.compress(line("e")))
    (folder / "sub" / "deeper" / "a.jsonl").write_bytes(line("f"))
    (folder / ".cache" / "a.jsonl").write_bytes(line("hidden"))
    (folder / "c.json.parts.json").write_text("[]")  # a download's
    (folder / "README.md").write_text("no corpus")
    (folder / "linked").symlink_to(folder / "sub")
    passages, bad = read(folder)
    assert [passage.id for passage in passages] == ["a", "b", "c", "d", "e", "f"]
    assert bad == ["corpus/b.JSONL:2: duplicate id 'a'"]
    assert corpus_files(folder)[1] == [folder / "README.md", folder / "linked"]
    (folder / "gone.jsonl").symlink_to(folder / "nowhere")
    with pytest.raises(CorpusProblem, match=r"gone\.jsonl: No such file"):
        list(read_corpus(folder, lambda bad: None))
