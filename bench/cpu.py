"""Counts the processor seconds of the demo's models with two types of weights: `python -m bench.cpu --out FILE`.

One llama.cpp has the embedded model as it is stored, the other as the generator service serves it. Both play the same
questions in turn, with one thread each, whose processor time does not depend on what else runs. A running retriever
searches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.processes import processor_s
from common.backends import GrpcRetriever, dialogue
from deploy.demo import demo_questions
from deploy.local import MODELS
from search_agent.agents import AGENTS, Agent
from search_agent.grading.answers import matches
from search_agent.types import Completion, Message, ModelInfo, Question, Sampling, Span
from search_agent.world import World
from services.generator.engine import Request
from services.generator.llama_cpp import LlamaCpp, embedded_model
from services.generator.settings import GeneratorSettings
from services.generator.taught import card_of

ANSWER = Sampling(max_tokens=64)


class Model:
    """One of an engine's models, as searcher and as generator."""

    def __init__(self, engine: LlamaCpp, name: str) -> None:
        self._engine, self._name = engine, name

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        async for piece in self._engine.stream(Request(sampling, tuple(messages), model=self._name)):
            yield piece

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        pieces = [piece async for piece in self.stream(dialogue(spans), sampling)]
        return replace(pieces[-1], text="".join(piece.text for piece in pieces))

    async def info(self) -> ModelInfo:
        return await self._engine.info(self._name)


async def play(agent: Agent, question: Question, engine: LlamaCpp, retriever: GrpcRetriever) -> dict[str, Any]:
    """Plays one question, and returns what it cost and whether the answer is right."""
    world = World(retriever, Model(engine, "searcher"), Model(engine, "reader"))
    before = processor_s([engine.pid])
    played = await agent.play(question, world, ANSWER)
    return {
        "processor_s": round(processor_s([engine.pid]) - before, 2),
        "searches": played.usage.searches,
        "prompt_tokens": played.usage.prompt_tokens,
        "completion_tokens": played.usage.completion_tokens,
        "right": bool(matches(question, played.answer or "")),
    }


async def measure(retriever_at: str) -> dict[str, Any]:
    """Returns the rows of all questions, and the means of each method and number of searches."""
    retriever, rows = GrpcRetriever(retriever_at, 60), []
    s3 = AGENTS["s3"].as_taught(card_of("", MODELS["searcher"]))
    agents = {"s3": s3, "naive_rag": AGENTS["naive_rag"].with_params({"top_k": 3})}
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "stored.gguf"  # by another name it is no longer the embedded model, which is converted
        stored.symlink_to(embedded_model())
        models = {"stored": str(stored), "served": ""}
        engines = {
            name: await LlamaCpp.start(
                GeneratorSettings.model_validate({"model": model, "adapters": MODELS, "threads": 1})
            )
            for name, model in models.items()
        }
        for question in demo_questions():
            for method, agent in agents.items():
                for weights, engine in engines.items():
                    row = {"id": question.id, "method": method, "weights": weights}
                    rows.append(row | await play(agent, question, engine, retriever))
                    print(json.dumps(rows[-1]), flush=True)
        for engine in engines.values():
            await engine.close()
    await retriever.close()
    return {"rows": rows, "means": means(rows)}


def means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns mean processor seconds by method and searches, as in "s3, 2 searches", and by weights."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        kind = f"{row['method']}, {row['searches']} search{'es' * (row['searches'] != 1)}"
        found.setdefault(kind, {}).setdefault(row["weights"], []).append(row["processor_s"])
    return {
        kind: {weights: round(sum(seconds) / len(seconds), 2) for weights, seconds in sorted(each.items())}
        for kind, each in sorted(found.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cpu", description=__doc__)
    parser.add_argument("--retriever", default="127.0.0.1:50051", metavar="HOST:PORT")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    result = asyncio.run(measure(args.retriever))
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["means"], indent=1))


if __name__ == "__main__":
    main()
