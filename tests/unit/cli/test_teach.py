"""`search-agent teach`: what it says of a bad command line."""

from pathlib import Path

import pytest

from cli.main import main


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--config", "nope"], "no configuration nope"),
        (["--config", "search-r1"], "needs a run of s3"),
        (["--questions", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--corpus", "nowhere.jsonl"], "nowhere.jsonl: No such file"),
        (["--part", "0.9999", "0.99991"], "no question in that part"),
        (["--out", "nowhere/x.jsonl"], "nowhere/x.jsonl"),
    ],
)
def test_a_mistake_is_one_line(given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teach", "searching", "--out", str(tmp_path / "x.jsonl"), *given]) == 1
    error = capsys.readouterr().err
    assert error.startswith("search-agent: ")
    assert said in error
    assert error.count("\n") == 1
