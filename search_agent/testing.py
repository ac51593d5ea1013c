"""Fakes for tests: scripted models and an in-memory retriever."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace

from search_agent.types import (
    Completion,
    IndexInfo,
    Message,
    Mode,
    ModelInfo,
    Passage,
    Rankings,
    Retrieval,
    Sampling,
    Span,
)


class ScriptedPolicy:
    """Writes the given texts one after the other and remembers what it was asked."""

    def __init__(self, texts: Iterable[str | Completion]) -> None:
        self._texts = iter(texts)
        self.calls: list[tuple[tuple[Span, ...], Sampling]] = []

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        self.calls.append((tuple(spans), sampling))
        text = next(self._texts)
        return text if isinstance(text, Completion) else Completion(text, prompt_tokens=10, completion_tokens=5)


class ListRetriever:
    """Answers every query with the passages whose text shares most words with it."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = tuple(passages)
        self.queries: list[str] = []
        self.asked: list[Retrieval] = []

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        self.queries.extend(queries)
        self.asked.append(how)
        index = next(each for each in await self.indexes() if each.is_default)
        ranked = ([each for each in self._rank(query) if how.filter.matches(each.metadata)] for query in queries)
        return Rankings((tuple(found[: how.top_k]) for found in ranked), index.served)

    async def indexes(self) -> Sequence[IndexInfo]:
        modes = (Mode.DENSE, Mode.BM25, Mode.HYBRID)
        return [IndexInfo("list", "1", len(self._passages), modes=modes, is_default=True)]

    def _rank(self, query: str) -> tuple[Passage, ...]:
        words = set(query.lower().split())
        return tuple(sorted(self._passages, key=lambda p: -len(words & set(p.text.lower().split()))))


class EchoGenerator:
    """Writes a fixed answer in pieces and remembers what it was asked."""

    def __init__(self, answer: str) -> None:
        self._answer = answer
        self.prompts: list[str] = []
        self.samplings: list[Sampling] = []

    async def write(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        texts, last = [], Completion("")
        async for last in self.stream(messages, sampling):
            texts.append(last.text)
        return replace(last, text="".join(texts))

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        self.prompts.append(messages[-1].content)
        self.samplings.append(sampling)
        for word in self._answer.split(" "):
            yield Completion(word + " ")
        yield Completion("", prompt_tokens=20, completion_tokens=4, model="echo@1")

    async def info(self) -> ModelInfo:
        return ModelInfo("echo@1", "echo")
