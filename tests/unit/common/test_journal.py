"""A journal reads files that were written earlier, whole or damaged."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from common.journal import Journal, read


@dataclass(frozen=True)
class Line:
    id: int
    text: str = ""


def test_a_torn_line_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"id": 1')
    journal = Journal(path, Line)
    assert journal.found == []
    journal.append({"id": 2, "text": "a\u2028b"})
    journal.close()
    assert path.read_text(encoding="utf-8") == '{"id": 2, "text": "a\u2028b"}\n'
    assert read(path, Line) == [Line(2, "a\u2028b")]


@pytest.mark.parametrize("damage", ["\0\0\0", '{"id"', '{"id": "1"}', '{"text": "x"}', "null", "", "\ufffd"])
def test_one_bad_line_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(f'{{"id": 1, "newer": true}}\n{damage}\n{{"id": 3}}\n')
    journal = Journal(path, Line)
    journal.close()
    assert journal.found == [Line(1), Line(3)]
    assert capsys.readouterr().err.startswith(f"{path}:2: 1 of 3 lines")
