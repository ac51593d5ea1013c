"""`search-agent evaluate` as a process against a gateway: killed, resumed, and reported."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.stub_gateway import stub_gateway
from tests.waiting import LIMIT_S, until

CLI = "import sys; from cli.main import main; sys.exit(main())"


def start(url: str, questions: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CLI, "evaluate", "--methods", "s3,naive_rag", "--url", url]
    command += ["--questions", str(questions), "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "rows.jsonl").read_bytes().splitlines()]
    return sorted(found, key=lambda row: (row["id"], row["method"]))


def written(folder: Path) -> int:
    """Returns how many rows a run has written."""
    path = folder / "rows.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    # the same text twice: rows are keyed by id, never by text
    texts = [f"question {n}" for n in range(39)] + ["question 0"]
    lines = [json.dumps({"id": f"q{n}", "question": text, "golden_answers": ["gold"]}) for n, text in enumerate(texts)]
    questions.write_text("\n".join(lines))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    go_on = threading.Event()
    with stub_gateway(go_on=go_on, before=20) as (url, asked):
        process = start(url, questions, killed, "--concurrency", "2")
        until(lambda: written(killed) >= 10)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        go_on.set()
        before = rows(killed)
        assert 10 <= len(before) < 80
        with (killed / "rows.jsonl").open("ab") as file:
            file.write(b'{"id": "q39", "method": "s3", "answ')
        process = start(url, questions, killed, "--concurrency", "2")
        out, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, err
        assert sum(asked.values()) <= 80 + 2  # questions in flight when it was killed
        process = start(url, questions, whole)
        process.communicate(timeout=LIMIT_S)
    assert rows(killed) == rows(whole)
    assert len(rows(killed)) == 80
    assert all(row in rows(killed) for row in before)
    assert "| s3 " in out
    # rows arrive in another order, and the figures stay
    assert (killed / "report.json").read_text() == (whole / "report.json").read_text()
    for plot in ("accuracy-searches.png", "accuracy-tokens.png"):
        assert (whole / plot).read_bytes().startswith(b"\x89PNG")
        assert plot in (whole / "report.md").read_text()


def test_a_gateway_that_is_not_there_is_said(tmp_path: Path) -> None:
    process = start("http://127.0.0.1:9", Path("data/demo/qa_dev.jsonl.gz"), tmp_path)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "is the gateway running there?" in err
    assert "Traceback" not in err
