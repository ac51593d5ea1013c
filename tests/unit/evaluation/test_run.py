"""A run over a fake gateway: rows, failures, resuming, and what may not be mixed."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.judge import JudgeEndpoint
from evaluation import report
from evaluation.errors import EvaluateProblem
from evaluation.gateway import Gateway
from evaluation.rows import Grader
from evaluation.run import Asker, Outcome, Plan, run
from search_agent.grading.answers import Scoring
from search_agent.types import Completion, Message, Mode, Question, Sampling
from search_agent_client import AsyncClient
from tests.fakes import Generator
from tests.stub_gateway import answer_to, methods
from tests.unit.gateway.rest import Rest

QUESTIONS = [Question(f"q{n}", f"question {n}", ("gold",), (("p0",),)) for n in range(10)]


DAMAGED = '{"questions": "set", "index": {}, "scoring": "unicode-1", "judge": null, "parameters": 3}'


class Fake:
    """A gateway and a judge behind one transport. `broken` questions fail; bodies are kept."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.broken: set[str] = set()
        self.verdict = "Yes"
        self.version = "v1"
        self.full = 0
        self.transport = httpx.MockTransport(self._serve)

    def _serve(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/methods":
            return httpx.Response(200, json=methods())
        if request.url.path == "/v1/indexes":
            index = {"name": "demo", "version": self.version, "encoder": "e5", "default": True}
            return httpx.Response(200, json=[index])
        body = json.loads(request.content)
        if request.url.path.endswith("/chat/completions"):
            return httpx.Response(200, json={"choices": [{"message": {"content": self.verdict}}]})
        if self.full:
            self.full -= 1
            return httpx.Response(503, json={"detail": "busy"}, headers={"retry-after": "0"})
        self.asked.append(body)
        if body["question"] in self.broken:
            problem = {"detail": "too slow", "backend": "generator", "failure": "timeout"}
            return httpx.Response(504, json=problem)
        return httpx.Response(200, json=answer_to(body))


async def go(
    fake: Fake | Rest,
    out: Path,
    judge: bool = False,
    scoring: Scoring = Scoring.UNICODE,
    patience_s: float = 0,
    **changes: Any,
) -> Outcome:
    plan = Plan(**{"source": "set", "questions": QUESTIONS, "methods": ("s3", "naive_rag"), "out": out, **changes})
    steps: list[bool] = []
    http = httpx.AsyncClient(transport=fake.transport)
    chosen = JudgeEndpoint(http, "http://judge/v1", "judge-1") if judge else None
    gateway, grader = (
        Gateway(AsyncClient("http://gateway", transport=fake.transport), patience_s),
        Grader(scoring, chosen),
    )
    outcome = await run(plan, gateway, grader.facts, Asker(gateway, grader), steps.append)
    assert len(steps) == len(plan.questions) * len(plan.methods)
    return outcome


async def test_every_question_by_every_method_once(tmp_path: Path) -> None:
    fake = Fake()
    outcome = await go(fake, tmp_path)
    assert {(row.id, row.method) for row in outcome.rows} == {(q.id, m) for q in QUESTIONS for m in ("s3", "naive_rag")}
    assert len(outcome.rows) == len(fake.asked) == 20
    assert outcome.facts["index"] == {"name": "demo", "version": "v1", "encoder": "e5"}
    again = await go(fake, tmp_path)
    assert len(fake.asked) == 20
    assert again.rows == outcome.rows


async def test_failures_are_counted_not_scored_and_asked_again(tmp_path: Path) -> None:
    fake = Fake()
    fake.broken = {"question 3", "question 4"}
    outcome = await go(fake, tmp_path)
    assert len(outcome.rows) == 16
    assert outcome.failures == {("s3", 0, "generator: timeout"): 2, ("naive_rag", 0, "generator: timeout"): 2}
    failed = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_bytes().splitlines()]
    assert {row["id"] for row in failed} == {"q3", "q4"}
    made = report.Report(outcome, 0, None)
    assert made.summaries["s3", 0].count == 8
    assert made.failed("s3", 0) == 2
    fake.broken = set()
    healed = await go(fake, tmp_path)
    assert len(healed.rows) == 20
    assert not healed.failures
    assert (tmp_path / "failures.jsonl").read_text() == ""
    assert len(fake.asked) == 24


async def test_a_full_gateway_is_asked_again(tmp_path: Path) -> None:
    fake = Fake()
    fake.full = 3
    assert len((await go(fake, tmp_path, patience_s=30, concurrency=1)).rows) == 20


class Slow(Generator):
    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        await asyncio.sleep(0.02)
        async for piece in super().stream(messages, sampling):
            yield piece


async def test_a_slow_gateway_costs_time_and_no_row(tmp_path: Path) -> None:
    questions = [Question(f"q{n}", f"question {n}", ("gold",)) for n in range(64)]
    rest = Rest(Slow("an answer"), max_in_flight=2)
    outcome = await go(rest, tmp_path, patience_s=30, concurrency=32, questions=questions, methods=("direct",))
    assert len(outcome.rows) == 64
    assert not outcome.failures


async def test_a_torn_line_is_removed_and_its_question_asked_again(tmp_path: Path) -> None:
    fake = Fake()
    await go(fake, tmp_path)
    whole = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").write_bytes(whole[:-30])
    outcome = await go(fake, tmp_path)
    assert len(fake.asked) == 21
    lines = (tmp_path / "rows.jsonl").read_bytes().splitlines()
    assert sorted(lines) == sorted(whole.splitlines())
    assert len(outcome.rows) == 20


async def test_the_budget_is_the_same_for_all_beside_the_own_settings(tmp_path: Path) -> None:
    fake = Fake()
    await go(fake, tmp_path)
    assert all("max_documents" not in body for body in fake.asked)
    fake.asked.clear()
    outcome = await go(fake, tmp_path, budget=5)
    assert all(body["max_documents"] == 5 for body in fake.asked)
    assert {body["method"]: body["parameters"].get("top_k") for body in fake.asked} == {"s3": None, "naive_rag": 5}
    assert len(outcome.rows) == 40
    assert report.Report(outcome, 0, None).budgets == [0, 5]


async def test_a_method_can_be_asked_in_variants(tmp_path: Path) -> None:
    fake = Fake()
    variants = ("naive_rag", "naive_rag:top_k=8", "s3:max_turns=1:index=other")
    outcome = await go(fake, tmp_path, methods=variants, questions=QUESTIONS[:1], budget=5)
    bodies = [{key: body[key] for key in body if key not in ("question", "max_documents")} for body in fake.asked]
    assert bodies == [
        {"method": "naive_rag", "parameters": {"top_k": 5}},
        {"method": "naive_rag", "parameters": {"top_k": 8}},
        {"method": "s3", "parameters": {"max_turns": 1, "index": "other"}},
    ]
    assert {row.method for row in outcome.rows} == set(variants)
    assert outcome.facts["parameters"]["naive_rag:top_k=8"]["top_k"] == 8


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        ("naive_rag:depth=8", "naive_rag has no parameter 'depth'; there are top_k, index"),
        ("naive_rag:top_k=many", "top_k must be of type int"),
        ("naive_rag:top_k", "top_k must be of type int"),
        ("naive_rag:top_k=0", "top_k: must be between 1 and 100"),
    ],
)
async def test_a_bad_variant_is_named(method: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluateProblem, match=complaint):
        await go(Fake(), tmp_path, methods=[method])
    assert not (tmp_path / "run.json").exists()


async def test_a_variant_may_have_any_advertised_parameter(tmp_path: Path) -> None:
    gateway = Rest()
    outcome = await go(gateway, tmp_path, methods=("s3:turn_tokens=128:mode=bm25",), questions=QUESTIONS[:1])
    assert len(outcome.rows) == 1
    assert gateway.searcher.calls[0][1].max_tokens == 128
    assert gateway.retriever.asked[0].mode is Mode.BM25


async def test_a_filter_reaches_every_method_that_searches(tmp_path: Path) -> None:
    gateway = Rest()
    asked = {"filter": {"year": {"gte": 1990}}, "methods": ("naive_rag", "direct"), "questions": QUESTIONS[:1]}
    outcome = await go(gateway, tmp_path, **asked)
    assert len(outcome.rows) == 2
    assert [how.filter.to_json() for how in gateway.retriever.asked] == [asked["filter"]]
    assert outcome.facts["filter"] == asked["filter"]


async def test_options_travel_apart_from_the_question(tmp_path: Path) -> None:
    fake = Fake()
    question = Question("m", "which?", ("B: no",), options={"A": "yes", "B": "no"}, choice="B")
    await go(fake, tmp_path, questions=[question], index="demo")
    assert fake.asked[0] == {
        "question": "which?", "method": "s3", "options": {"A": "yes", "B": "no"}, "parameters": {"index": "demo"},
    }  # fmt: skip


async def test_the_judge_is_asked_where_the_span_fails_and_recorded(tmp_path: Path) -> None:
    fake = Fake()
    outcome = await go(fake, tmp_path, judge=True)
    assert all(row.gen_acc == 1 for row in outcome.rows)
    assert {row.judged for row in outcome.rows if row.span} == {None}
    assert {row.judged for row in outcome.rows if not row.span} == {True}
    assert outcome.facts["judge"]["model"] == "judge-1"
    with pytest.raises(EvaluateProblem, match="rows of another judge"):
        await go(fake, tmp_path)


async def test_a_judge_that_fails_fails_the_question(tmp_path: Path) -> None:
    fake = Fake()
    fake.verdict = "I cannot say"
    outcome = await go(fake, tmp_path, judge=True)
    assert all(row.span for row in outcome.rows)
    assert len(outcome.rows) + sum(outcome.failures.values()) == 20
    assert {what for _, _, what in outcome.failures} == {"judge: broken"}


async def test_rows_of_another_run_are_not_mixed(tmp_path: Path) -> None:
    fake = Fake()
    await go(fake, tmp_path, methods=("s3",))
    await go(fake, tmp_path, methods=("naive_rag",))
    with pytest.raises(EvaluateProblem, match='rows of another questions: "set"'):
        await go(fake, tmp_path, source="other")
    with pytest.raises(EvaluateProblem, match='rows of another scoring: "unicode-1"'):
        await go(fake, tmp_path, scoring=Scoring.SQUAD)
    fake.version = "v2"
    with pytest.raises(EvaluateProblem, match="rows of another index"):
        await go(fake, tmp_path)


async def test_what_the_gateway_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(EvaluateProblem, match="no method is called 'magic'; there are s3, naive_rag"):
        await go(Fake(), tmp_path, methods=("magic",))
    with pytest.raises(EvaluateProblem, match="no index 'nowhere'"):
        await go(Fake(), tmp_path, index="nowhere")


async def test_the_report(tmp_path: Path) -> None:
    fake = Fake()
    fake.broken = {"question 9"}
    await go(fake, tmp_path)
    made = report.Report(await go(fake, tmp_path, budget=3), 0, (1.0, 2.0))
    made.write(tmp_path, ["accuracy-tokens.png"])
    text = (tmp_path / "report.md").read_text()
    assert "## Each method in its own setting" in text
    assert "## At most 3 passages" in text
    assert "![accuracy tokens](accuracy-tokens.png)" in text
    assert "s3 at 3: 1 × generator: timeout" in text
    found = json.loads((tmp_path / "report.json").read_text())
    assert {(each["method"], each["budget"]) for each in found["results"]} == {
        ("s3", None), ("naive_rag", None), ("s3", 3), ("naive_rag", 3),
    }  # fmt: skip
    ours = next(each for each in found["results"] if each["method"] == "s3" and each["budget"] == 3)
    assert (ours["count"], ours["failed"]) == (9, 1)
    assert ours["against_naive_rag"]["count"] == 9


async def test_the_report_counts_the_questions_whose_passages_were_cut(tmp_path: Path) -> None:
    outcome = await go(Fake(), tmp_path)
    report.Report(outcome, 0, None).write(tmp_path, [])
    assert "| cut" not in (tmp_path / "report.md").read_text()
    cut = [replace(row, truncated=row.method == "s3" and row.id in ("q1", "q2")) for row in outcome.rows]
    made = report.Report(replace(outcome, rows=cut), 0, None)
    made.write(tmp_path, [])
    assert {method: found.truncated for (method, _), found in made.summaries.items()} == {"s3": 2, "naive_rag": 0}
    assert "| cut" in (tmp_path / "report.md").read_text()


async def test_the_report_is_divided_by_groups(tmp_path: Path) -> None:
    asked = [replace(each, groups={"hops": str(2 + n % 2), "dataset": "one"}) for n, each in enumerate(QUESTIONS)]
    made = report.Report(await go(Fake(), tmp_path, questions=asked), 0, None)
    made.write(tmp_path, [])
    assert "### By hops" in (tmp_path / "report.md").read_text()
    assert made.groups.keys() == {"hops"}  # one data set alone is no group
    found = json.loads((tmp_path / "report.json").read_text())["groups"]
    assert {(each["group"], each["value"], each["method"], each["count"]) for each in found} == {
        ("hops", hops, method, 5) for hops in "23" for method in ("s3", "naive_rag")
    }
    whole = made.summaries["s3", 0].gen_acc.mean
    assert sum(each["gen_acc"]["mean"] for each in found if each["method"] == "s3") / 2 == pytest.approx(whole)


async def test_a_budget_is_compared_with_naive_rag_at_that_budget(tmp_path: Path) -> None:
    fake = Fake()
    await go(fake, tmp_path)
    outcome = await go(fake, tmp_path, budget=2)
    worse = [replace(row, gen_acc=0.0) if (row.method, row.budget) == ("naive_rag", 2) else row for row in outcome.rows]
    found = report.Report(replace(outcome, rows=worse), 0, None).comparisons
    ours = sum(row.gen_acc for row in outcome.rows if (row.method, row.budget) == ("s3", 2))
    assert found["s3", 2].wins == ours > found["s3", 0].wins
    assert set(found) == {("s3", 0), ("s3", 2)}


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"questions": "set"}', DAMAGED, '{"state": "running"}', "\0"])
async def test_a_folder_with_another_run_json_is_refused_before_anything_is_asked(tmp_path: Path, record: str) -> None:
    (tmp_path / "run.json").write_text(record)
    fake = Fake()
    with pytest.raises(EvaluateProblem, match=r"run\.json is damaged or from another version; choose another --out"):
        await go(fake, tmp_path)
    assert not fake.asked
    assert (tmp_path / "run.json").read_text() == record


@pytest.mark.parametrize("name", ["rows.jsonl", "report.md", "manifest.json"])
async def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(EvaluateProblem, match=rf"holds {name} and no run\.json; choose another --out"):
        await go(Fake(), tmp_path)
    assert os.listdir(tmp_path) == [name]


async def test_a_folder_that_cannot_be_made_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fake = Fake()
    with pytest.raises(NotADirectoryError):
        await go(fake, tmp_path / "file" / "out")
    assert not fake.asked


@pytest.mark.parametrize("damage", ["\0" * 20, '{"id": "q3"}', "[]", "null"])
async def test_a_damaged_or_older_row_is_asked_again_and_hides_no_other(tmp_path: Path, damage: str) -> None:
    fake = Fake()
    whole = await go(fake, tmp_path)
    lines = (tmp_path / "rows.jsonl").read_text().split("\n")
    lines[3] = damage
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    again = await go(fake, tmp_path)
    assert len(fake.asked) == 21
    assert sorted(again.rows, key=repr) == sorted(whole.rows, key=repr)
