"""One question under way: calls the ports, and keeps the record from which the trajectory is made."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from search_agent import prompts, tags
from search_agent.ports import Generator, Policy, Retriever
from search_agent.types import (
    Author,
    Completion,
    Document,
    Message,
    Passage,
    Retrieval,
    Sampling,
    Span,
    StopReason,
    Timings,
    Trajectory,
    Turn,
    Usage,
)


class Episode:
    """Agents act through this, so that usage, times, turns and documents are counted in one place."""

    def __init__(
        self,
        method: str,
        question: str,
        retriever: Retriever,
        policy: Policy,
        generator: Generator,
        options: Mapping[str, str] | None = None,
        max_documents: int | None = None,
    ) -> None:
        """`options` (text by letter) are for the generator; what is searched is the bare question.

        `max_documents` is the passage budget: how many of the kept documents, the first ones, are read.
        """
        self.question = question
        self.spans: list[Span] = []
        self.turns: list[Turn] = []
        self.stop_reason: StopReason | None = None
        self.on_turn: Callable[[Turn], None] = lambda turn: None
        self.own_answer: str | None = None  # the searcher's, where its method has it answer and not the generator
        self.reasoning_tokens = 0  # what the generator may write before its answer line; 0: the answer is all
        self._method = method
        self._asked = with_options(question, options or {})
        self._max_documents = max_documents
        self._retriever, self._policy, self._generator = retriever, policy, generator
        self._documents: dict[str, Document] = {}
        self._models: dict[str, None] = {}
        self._prompt_tokens = self._completion_tokens = self._searches = 0
        self._seconds = {"retrieve": 0.0, "search": 0.0, "generate": 0.0}
        self._started = time.perf_counter()
        self._answer: str | None = None

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All that was kept, whatever the passage budget."""
        return tuple(document.passage for document in self._documents.values())

    @property
    def documents(self) -> tuple[Document, ...]:
        """What the generator reads: the kept documents within the passage budget."""
        return tuple(self._documents.values())[: self._max_documents]

    async def retrieve(self, query: str, how: Retrieval) -> tuple[Passage, ...]:
        """The `how.top_k` best passages for one query."""
        with self._timed("retrieve"):
            (passages,) = await self._retriever.search([query], how.top_k, how.index, how.mode, how.rerank)
        self._searches += 1
        return passages

    def observe(self, text: str) -> None:
        """Appends what the environment says."""
        self.spans.append(Span(Author.ENVIRONMENT, text))

    async def complete(self, sampling: Sampling) -> Completion:
        """Lets the policy continue the dialogue and appends what it wrote."""
        completion = await self._complete(self.spans, sampling)
        self.spans.append(Span(Author.POLICY, tags.completed_text(completion, sampling.stop)))
        return completion

    async def consult(self, text: str, sampling: Sampling) -> Completion:
        """Asks the policy something beside the dialogue, which goes on without it."""
        return await self._complete([Span(Author.ENVIRONMENT, text)], sampling)

    async def _complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        with self._timed("search"):
            completion = await self._policy.complete(spans, sampling)
        self._count(completion)
        return completion

    def record(self, turn: Turn) -> None:
        """Ends a turn: its selection joins the documents, duplicates aside, in order of selection."""
        self.turns.append(turn)
        for passage in turn.selected:
            self._documents.setdefault(passage.id, Document(passage, len(self.turns)))
        self.on_turn(turn)

    async def answer(self, prompt: str, sampling: Sampling) -> AsyncIterator[str]:
        """Streams the generator's answer from the documents kept; without any, it is asked directly.

        Reasoning is streamed too, and the trajectory's answer is what its answer line says. An answer of the
        searcher's own comes as it is, and the generator is not asked.
        """
        if self.own_answer is not None:
            self._answer = self.own_answer
            yield self.own_answer
            return
        content = answer_prompt(prompt, self._asked, [document.passage for document in self.documents])
        sampling = replace(sampling, max_tokens=sampling.max_tokens + self.reasoning_tokens)
        pieces: list[str] = []
        with self._timed("generate"):
            async for piece in self._generator.stream([Message("user", content)], sampling):
                self._count(piece)
                if piece.text:
                    pieces.append(piece.text)
                    yield piece.text
        text = "".join(pieces)
        self._answer = tags.answer_line(text) if self.reasoning_tokens else text.strip()

    def trajectory(self) -> Trajectory:
        """The record so far. The agent must have stopped."""
        if self.stop_reason is None:
            raise RuntimeError("the agent has not stopped yet")
        milliseconds = {name: seconds * 1e3 for name, seconds in self._seconds.items()}
        return Trajectory(
            method=self._method,
            question=self.question,
            documents=self.documents,
            turns=tuple(self.turns),
            stop_reason=self.stop_reason,
            usage=Usage(self._prompt_tokens, self._completion_tokens, self._searches),
            timings=Timings(total=(time.perf_counter() - self._started) * 1e3, **milliseconds),
            spans=tuple(self.spans),
            answer=self._answer,
            models=tuple(self._models),
        )

    def _count(self, completion: Completion) -> None:
        self._prompt_tokens += completion.prompt_tokens
        self._completion_tokens += completion.completion_tokens
        if completion.model:
            self._models[completion.model] = None

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - started


def answer_prompt(prompt: str, question: str, passages: Sequence[Passage]) -> str:
    """What the generator is asked: `prompt` over the passages; `answer` without any gives way to `direct`."""
    if prompt == "answer" and not passages:
        prompt = "direct"
    documents = tags.render_documents(passages)
    return prompts.render(prompt, question=question, documents=documents, answer_line=tags.ANSWER_LINE)


def with_options(question: str, options: Mapping[str, str]) -> str:
    """What the generator is asked when it is to choose among `options`, text by letter; none: the question."""
    if not options:
        return question
    listed = "\n".join(f"{letter}: {text}" for letter, text in options.items())
    return prompts.render("options", question=question, options=listed)
