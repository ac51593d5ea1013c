"""`search-agent headroom`: what it says of a bad command line."""

from pathlib import Path

import pytest

from cli.main import main


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nope", "--questions", "data/demo/qa_dev.jsonl.gz"], "no configuration nope"),
        (["multihop", "--questions", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["multihop", "--questions", "data/demo/qa_dev.jsonl.gz", "--limit", "1"], "cannot be reached"),
        (
            ["multihop", "--questions", "data/demo/qa_dev.jsonl.gz", "--temperature", "9"],
            "--temperature: must be between",
        ),
    ],
)
def test_a_mistake_is_one_line(given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = ["--searcher", "127.0.0.1:1", "--generator", "127.0.0.1:1", "--retriever", "127.0.0.1:1"]
    assert main(["headroom", *given, *nowhere, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("search-agent: ") or "\nsearch-agent: " in error
    assert said in error
