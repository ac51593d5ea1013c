"""Asks every question with every method and keeps the rows, so that a killed run resumes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.journal import Journal
from common.pool import each
from evaluation.endpoints import Endpoints
from evaluation.errors import EvaluateProblem, Failed
from evaluation.folder import settle
from evaluation.gateway import Gateway
from evaluation.rows import Grader, Row
from search_agent.agents import AGENTS
from search_agent.errors import JudgeError
from search_agent.parameters import BadParameter
from search_agent.types import Question


@dataclass(frozen=True)
class Plan:
    """The questions and methods of a run.

    `source` names the question set and its contents; `budget` 0 leaves each method its own setting. A method is a name,
    or a name with parameters, such as naive_rag:mode=bm25:top_k=8. Every method that searches takes `filter`.
    """

    source: str
    questions: Sequence[Question]
    methods: Sequence[str]
    out: Path
    budget: int = 0
    index: str = ""
    filter: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 4


@dataclass(frozen=True)
class Task:
    """A question for a method. `asked` is what `Gateway.answer` takes; `budget` goes into the row."""

    question: Question
    method: str
    budget: int
    asked: Mapping[str, Any]


class Asker:
    """Has one task answered and grades the answer, here or in Ray's actors."""

    def __init__(self, gateway: Gateway, grader: Grader) -> None:
        self._gateway, self._grader = gateway, grader

    async def __call__(self, task: Task) -> Row:
        """Raises Failed, JudgeError."""
        answer = await self._gateway.answer(**task.asked)
        return await self._grader(task.question, task.method, task.budget, answer)


@asynccontextmanager
async def asking(endpoints: Endpoints) -> AsyncIterator[Asker]:
    """Opens an asker with connections of its own."""
    async with endpoints.open() as (gateway, grader):
        yield Asker(gateway, grader)


@dataclass(frozen=True)
class Outcome:
    """The rows of the plan's questions, including those of earlier runs, and this run's failures.

    `failures` counts by (method, budget, "boundary: failure"). `facts` is the content of run.json.
    """

    rows: list[Row]
    failures: Counter[tuple[str, int, str]]
    facts: dict[str, Any]


async def run(
    plan: Plan,
    gateway: Gateway,
    grading: Mapping[str, Any],
    ask: Callable[[Task], Awaitable[Row]],
    advance: Callable[[bool], None],
) -> Outcome:
    """Asks the questions that have no row yet with `ask`, an Asker here or elsewhere.

    `grading` holds the facts of its grader. `advance` is called after every question, with true if it failed.
    Writes rows.jsonl, failures.jsonl (this run's) and run.json into the plan's folder. Raises
    EvaluateProblem if the gateway has no such method or parameter, or the folder holds rows of another setting.
    """
    facts = await _facts(plan, gateway, grading)
    settle(plan.out / "run.json", facts, "rows", ("questions", "index", "scoring", "judge"), grows="parameters")
    rows = Journal(plan.out / "rows.jsonl", Row)
    failures = Journal(plan.out / "failures.jsonl", dict, fresh=True)
    failed: Counter[tuple[str, int, str]] = Counter()
    done = {(row.id, row.method, row.budget) for row in rows.found}

    async def work(pair: tuple[Question, str]) -> None:
        question, method = pair
        asked = _asked(question, method, plan, facts["parameters"][method])
        try:
            row = await ask(Task(question, method, plan.budget, asked))
        except (Failed, JudgeError) as error:
            failed[method, plan.budget, f"{error.boundary}: {error.failure}"] += 1
            failures.append(
                {"id": question.id, "method": method, "budget": plan.budget, "boundary": error.boundary,
                 "failure": error.failure, "detail": str(error)}
            )  # fmt: skip
            advance(True)
            return
        rows.append(asdict(row))
        rows.found.append(row)
        advance(False)

    try:
        # question by question, so that a stopped run has compared methods on what it has
        pairs = ((question, method) for question in plan.questions for method in plan.methods)
        left = [pair for pair in pairs if (pair[0].id, pair[1], plan.budget) not in done]
        for _ in range(len(plan.questions) * len(plan.methods) - len(left)):
            advance(False)
        await each(left, work, plan.concurrency)
    finally:
        rows.close()
        failures.close()
    asked = {question.id for question in plan.questions}
    return Outcome([row for row in rows.found if row.id in asked], failed, facts)


def _asked(question: Question, method: str, plan: Plan, parameters: dict[str, Any]) -> dict[str, Any]:
    name, given = _variant(method, parameters)
    if plan.index and "index" in parameters:
        given["index"] = plan.index
    if plan.filter and "filter" in parameters:
        given["filter"] = dict(plan.filter)
    if plan.budget and "top_k" in parameters and "max_turns" not in parameters:
        given.setdefault("top_k", plan.budget)  # one retrieval: it may fill the budget
    budget = {"max_documents": plan.budget} if plan.budget else {}
    options = {"options": dict(question.options)} if question.options else {}
    return {**given, "question": question.text, "method": name, **options, **budget}


def _variant(method: str, parameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Splits a variant into the method's name and its parameters, each with the type of its default."""
    name, *pairs = method.split(":")
    given: dict[str, Any] = {}
    for pair in pairs:
        parameter, _, text = pair.partition("=")
        if parameter not in parameters:
            raise EvaluateProblem(f"{method}: {name} has no parameter {parameter!r}; there are {', '.join(parameters)}")
        kind = type(parameters[parameter])
        try:
            given[parameter] = {"true": True, "false": False}[text] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise EvaluateProblem(f"{method}: {parameter} must be of type {kind.__name__}") from None
    return name, given


async def _facts(plan: Plan, gateway: Gateway, grading: Mapping[str, Any]) -> dict[str, Any]:
    known = await gateway.methods()
    parameters = {}
    for method in plan.methods:
        name = method.partition(":")[0]
        if name not in known:
            raise EvaluateProblem(f"no method is called {name!r}; there are {', '.join(known)}")
        _, given = _variant(method, known[name])
        try:
            if name in AGENTS:  # otherwise it is a configuration, which only the gateway knows
                AGENTS[name].with_params(given)
        except BadParameter as error:
            raise EvaluateProblem(f"{method}: {error}") from None
        parameters[method] = known[name] | given
    return {
        "questions": plan.source,
        "asked": len(plan.questions),
        "index": await gateway.index(plan.index),
        **({"filter": dict(plan.filter)} if plan.filter else {}),
        **grading,
        "parameters": parameters,
    }
