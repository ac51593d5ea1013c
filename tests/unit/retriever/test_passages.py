from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_agent.types import Passage
from services.retriever.errors import IndexRefused
from services.retriever.passages import BLOBS, BLOCK, OFFSETS, PassageStore, PassageWriter

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PASSAGES = st.lists(st.builds(Passage, TEXT, TEXT, TEXT), min_size=1, max_size=3 * BLOCK)


def store(folder: Path, passages: list[Passage]) -> PassageStore:
    with PassageWriter(folder) as writer:
        for passage in passages:
            writer.add(passage)
    return PassageStore(folder)


@given(PASSAGES, st.data())
@settings(max_examples=60)
def test_what_is_written_is_read_back(passages: list[Passage], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stored = store(Path(folder), passages)
        assert len(stored) == len(passages)
        assert [*stored] == passages
        row = data.draw(st.integers(0, len(passages) - 1))
        assert [*stored.iterate(row)] == passages[row:]
        rows = data.draw(st.lists(st.integers(0, len(passages) - 1)))
        assert stored.get(rows) == {row: passages[row] for row in rows}


@pytest.mark.parametrize("text", ['"a" [b] {c}', "line\nline\r\n\x85\u2028end", "\0 tab\t \\n 😀 ﷽", "\\"])
def test_quotes_brackets_and_line_ends_lose_nothing(tmp_path: Path, text: str) -> None:
    passage = Passage("id", text, text)
    assert [*store(tmp_path, [passage])] == [passage]


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    store(tmp_path, [Passage(str(n), "t", "x") for n in range(40)])
    blobs = (tmp_path / BLOBS).read_bytes()
    (tmp_path / BLOBS).write_bytes(blobs[:-1])
    with pytest.raises(IndexRefused, match=f"{OFFSETS}: does not fit"):
        PassageStore(tmp_path)
    (tmp_path / BLOBS).write_bytes(b"\0" * len(blobs))
    with pytest.raises(IndexRefused, match=f"{BLOBS}: block 2 is damaged"):
        PassageStore(tmp_path)
    (tmp_path / OFFSETS).write_bytes(b"not numpy")
    with pytest.raises(IndexRefused, match=f"{OFFSETS}: unreadable"):
        PassageStore(tmp_path)
