"""Keys are listed as plain lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.main import main


def test_the_name_of_a_key_does_not_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(tmp_path / "keys.json")]
    assert main(["keys", "create", "a\x1b[2J\nb", "--scope", "ask", *store]) == 0
    capsys.readouterr()
    assert main(["keys", "list", *store]) == 0
    listed = capsys.readouterr().out
    assert listed.splitlines() == [listed.rstrip("\n")]
    assert "a [2J b" in listed
