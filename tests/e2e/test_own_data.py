"""A user's own data in the formats of s3 and MIRAGE: corpus to index, a stack over it, questions to a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.main import main
from common.addresses import free_port
from deploy.local import Stack

CORPUS = {
    "aspirin": "Aspirin\nAspirin irreversibly inhibits the enzyme cyclooxygenase.",
    "insulin": "Insulin\nInsulin is made by the beta cells of the pancreas.",
    "scurvy": "Scurvy\nScurvy is caused by a lack of vitamin C.",
    "heart": "Heart\nThe mitral valve lies between left atrium and left ventricle.",
}
MIRAGE = {
    "medqa": {
        "0001": {
            "question": "Which vitamin is missing in scurvy?",
            "options": {"A": "vitamin A", "B": "vitamin C"},
            "answer": "B",
        },
        "0002": {
            "question": "Which cells make insulin?",
            "options": {"A": "beta cells", "B": "red cells"},
            "answer": "A",
        },
    },
    "bioasq": {"7": {"question": "not of this set", "options": {"A": "yes"}, "answer": "A"}},
}


def test_from_a_corpus_of_contents_to_a_report_over_mirage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, questions = tmp_path / "corpus.jsonl", tmp_path / "benchmark.json"
    corpus.write_text("\n".join(json.dumps({"id": id, "contents": text}) for id, text in CORPUS.items()))
    questions.write_text(json.dumps(MIRAGE))
    indexes, out = tmp_path / "indexes", tmp_path / "results"
    assert main(["index", "build", "--corpus", str(corpus), "--name", "mine", "--out", str(indexes)]) == 0
    monkeypatch.setenv("RETRIEVER_INDEXES", str(indexes))
    with Stack(free_port(), logs=tmp_path) as running:
        command = ["evaluate", "--url", running.url, "--questions", f"{questions}#medqa", "--out", str(out)]
        assert main([*command, "--methods", "s3,naive_rag"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["run"]["index"]["name"] == "mine"
    assert {each["method"]: (each["count"], each["failed"]) for each in report["results"]} == {
        "s3": (2, 0),
        "naive_rag": (2, 0),
    }
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_bytes().splitlines()]
    assert {row["id"] for row in rows} == {"medqa/0001", "medqa/0002"}
    assert all(row["answer"] and row["documents"] for row in rows)
    assert all(row["searches"] == 1 if row["method"] == "naive_rag" else row["searches"] >= 1 for row in rows)
    assert "| naive_rag" in capsys.readouterr().out
