"""`make demo`: asks questions by s3 and by naive RAG of as many passages, and compares them with the gold answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cli.ask import show
from evaluation import questions
from search_agent.grading.answers import matches
from search_agent.grading.evidence import gold_ranks
from search_agent.types import Question
from search_agent.world import index_named
from search_agent_client import Answer, Client, Turn

DATA = Path(__file__).parent.parent / "data" / "demo"
# Three questions that one passage answers, and one that needs two.
ASKED = (
    "sq-q-5733a5f54776f41900660f45",
    "sq-q-5733a5f54776f41900660f48",
    "sq-q-5733a5f54776f41900660f44",
    "th-02",
)


def demo_questions() -> list[Question]:
    """Returns questions about the demo corpus with their gold answers and gold passages."""
    sets = [questions.load(str(DATA / f"{name}.jsonl.gz")) for name in ("qa_dev", "qa_two_hops")]
    by_id = {question.id: question for each in sets for question in each}
    return [by_id[id] for id in ASKED]


def demo(url: str, asked: Sequence[Question]) -> None:
    """Asks each question by s3, then by naive RAG with the same retrieval and as many passages; shows who is right.

    Raises GatewayError.
    """
    print("\nSearcher and generator are SmolLM2-135M, each with an adapter: one searches and chooses, one reads.")
    right, seconds = {"s3": 0, "naive RAG": 0}, []
    with Client(url) as client:
        (s3,) = (each for each in client.methods() if each.name == "s3")
        mode = index_named(client.indexes(), s3.defaults["index"]).fitting(s3.defaults["mode"])
        for question in asked:
            print(f"\nQ: {question.text}")
            ours = show(client.stream_answer(question.text, "s3"))
            size = max(1, len(ours.documents))
            rag = client.answer(question.text, "naive_rag", mode=mode, top_k=size)
            for line in compared(question, ours, rag):
                print(f"  {line}", flush=True)
            right["s3"] += _right(question, ours)
            right["naive RAG"] += _right(question, rag)
            seconds.append(ours.timings_ms.total / 1000)
    if all(question.golds for question in asked):
        print(f"\nright, of {len(asked)}: s3 {right['s3']}, naive RAG with as many passages {right['naive RAG']}")
    print(f"s3 took {sum(seconds) / len(seconds):.1f} s a question, {max(seconds):.1f} at most", flush=True)


def compared(question: Question, ours: Answer, rag: Answer) -> list[str]:
    """Returns lines that compare two answers to a question with its gold answers and passages, where it has them."""
    count = len(rag.documents)
    lines = [
        f"s3        : {ours.answer}{_verdict(question, ours)}",
        f"naive RAG : {rag.answer}{_verdict(question, rag)}, {count} passage{'s' * (count != 1)}",
        f"gold      : {' | '.join(question.golds) or 'unknown'}",
    ]
    if needed := question.gold_passages:
        kept = sum(map(bool, gold_ranks(needed, [document.id for document in ours.documents])))
        lines.append(f"evidence  : {kept} of {len(needed)} gold passages kept; {_searches(question, ours.turns)}")
    return lines


def _searches(question: Question, turns: Sequence[Turn]) -> str:
    """Tells how many gold passages each search was the first to find."""
    found: list[str] = []
    before = 0
    seen: list[str] = []
    for number, turn in enumerate(turns, 1):
        seen += turn.retrieved
        after = sum(map(bool, gold_ranks(question.gold_passages, seen)))
        found.append(f"search {number} found {after - before}{' more' if number > 1 else ''}")
        before = after
    return ", ".join(found)


def _right(question: Question, answer: Answer) -> bool:
    return bool(question.golds) and matches(question, answer.answer) == 1.0


def _verdict(question: Question, answer: Answer) -> str:
    return f"  ({'right' if _right(question, answer) else 'wrong'})" if question.golds else ""
