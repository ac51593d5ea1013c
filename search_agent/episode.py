"""One question being played: calls the ports, and keeps the record that becomes the trajectory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from search_agent import prompts, tags
from search_agent.errors import BoundaryError, Failure, GeneratorError, GuardError, SearcherError
from search_agent.types import (
    Author,
    Completion,
    Document,
    Event,
    FinishReason,
    Message,
    Passage,
    Piece,
    Question,
    Retrieval,
    Sampling,
    Span,
    StopReason,
    Timings,
    Trajectory,
    Turn,
    Usage,
)
from search_agent.world import World

_UNKNOWN_EXCESS = 1.5  # of a prompt that is too long, where the model does not say by how much
_MARGIN = 0.97  # one cut more costs less than a prompt that just does not fit


class DialogueFull(Exception):
    """The searcher's context has no room for another turn, however little of the passages it is shown."""


class _Prompt:
    """A text with passages in it: `render` writes it with at most that many characters of them."""

    def __init__(self, render: Callable[[int], str], chars: int) -> None:
        self._render, self._chars = render, chars
        self.text = render(chars)

    def shorten(self, error: BoundaryError, beside: int = 0) -> None:
        """Cuts passages so that the prompt, with `beside` more characters, may fit. Raises `error` if that cannot help.

        It assumes that a character takes about as many tokens before and after.
        """
        shown = min(self._chars, len(self.text) - len(self._render(0)))
        if error.failure is not Failure.TOO_LONG or shown <= 0:
            raise error
        whole = len(self.text) + beside
        fitting = int(whole / (error.excess if error.excess > 1 else _UNKNOWN_EXCESS) * _MARGIN)
        self._chars = max(0, shown - (whole - fitting))
        self.text = self._render(self._chars)


class Episode:
    """The agents' only way to the world, so that usage, times, turns and documents are counted in one place."""

    def __init__(
        self, method: str, question: Question, world: World, max_documents: int | None, tell: Callable[[Event], None]
    ) -> None:
        """`max_documents` is the passage budget: the generator reads at most that many documents, the first ones.

        `tell` is called with each event. Searches do not see the question's options; the generator does.
        """
        self.question = question
        self.asked = tags.as_text(question.text)  # as prompts show it
        self.spans: list[Span] = []
        self.turns: list[Turn] = []
        self.own_answer: str | None = None  # the searcher's, in methods that let it answer itself
        self.reasoning_tokens = 0  # tokens before the answer line; 0: the text is the answer
        self._method, self._world = method, world
        self._max_documents, self._tell = max_documents, tell
        self._newest = _Prompt(lambda chars: "", 0)  # what the environment said last
        self._truncated = False
        self._documents: dict[str, Document] = {}
        self._models: dict[str, None] = {}
        self._indexes: dict[str, None] = {}
        self._dropped: dict[str, str] = {}
        self._prompt_tokens = self._completion_tokens = self._searches = self._rewritten = 0
        self._seconds = {"retrieve": 0.0, "search": 0.0, "generate": 0.0}
        self._started = time.perf_counter()
        self._answer: str | None = None
        self._finish_reason = FinishReason.STOP

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All passages kept, whatever the passage budget."""
        return tuple(document.passage for document in self._documents.values())

    @property
    def documents(self) -> tuple[Document, ...]:
        """The documents that the generator reads: those within the passage budget."""
        return tuple(self._documents.values())[: self._max_documents]

    async def retrieve(self, query: str, how: Retrieval) -> tuple[Passage, ...]:
        """Returns the `how.top_k` best passages for one query, without those that the guard drops.

        Raises RetrieverError and GuardError.
        """
        with self._timed("retrieve"):
            found = await self._world.retriever.search([query], how)
            (passages,) = found
        self._indexes[found.served] = None
        self._searches += 1
        await self._check(passages)
        return tuple(passage for passage in passages if passage.id not in self._dropped)

    def observe(self, text: str) -> None:
        """Appends what the environment says."""
        self.show(lambda chars: text, 0)

    def show(self, render: Callable[[int], str], chars: int) -> None:
        """Appends a text of the environment with passages in it, which `render` writes with at most that many
        characters.
        """
        self._newest = _Prompt(render, chars)
        self.spans.append(Span(Author.ENVIRONMENT, self._newest.text))

    async def complete(self, sampling: Sampling) -> Completion:
        """Lets the policy continue the dialogue and appends what it wrote.

        Passages that it has not read yet are cut if its context needs it. Raises DialogueFull, or SearcherError that
        names the question, if that does not help.
        """
        while True:
            try:
                completion = await self._complete(self.spans, sampling)
                break
            except SearcherError as error:
                *before, newest = self.spans
                if newest.author is Author.POLICY and error.failure is Failure.TOO_LONG:
                    raise DialogueFull from error
                with _blaming_the_question(full=bool(before)):
                    self._newest.shorten(error, sum(len(span.text) for span in before))
                self.spans[-1] = Span(Author.ENVIRONMENT, self._newest.text)
                self._truncated = True
        self.spans.append(Span(Author.POLICY, tags.completed_text(completion, sampling.stop)))
        return completion

    def take_back(self) -> None:
        """Removes what the policy wrote last, so that it can write it again. Its tokens stay counted."""
        self.spans.pop()
        self._rewritten += 1

    async def consult(self, render: Callable[[int], str], chars: int, sampling: Sampling) -> Completion:
        """Asks the policy something outside the dialogue, which continues without it; `render` is as for `show`."""
        prompt = _Prompt(render, chars)
        while True:
            try:
                return await self._complete([Span(Author.ENVIRONMENT, prompt.text)], sampling)
            except SearcherError as error:
                with _blaming_the_question(full=True):
                    prompt.shorten(error)
                self._truncated = True

    async def _complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        with self._timed("search"):
            completion = await self._world.searcher.complete(spans, sampling)
        self._count(completion)
        return completion

    def record(self, turn: Turn) -> None:
        """Ends a turn. Its selection joins the documents, in order and without duplicates."""
        self.turns.append(turn)
        for passage in turn.selected:
            self._documents.setdefault(passage.id, Document(passage, len(self.turns)))
        self._tell(turn)

    async def answer(self, prompt: str, sampling: Sampling) -> None:
        """Lets the generator answer from the documents or, without any, directly. Raises GeneratorError, GuardError.

        Pieces of its reasoning are events too, and the trajectory's answer is the answer line. If the searcher has
        answered itself, its answer is taken and the generator is not asked. If a guard reads answers, it is asked
        first.
        """
        passages = [document.passage for document in self.documents]
        guarded = bool(self._world.guard and self._world.guard.reads_answers)
        if self.own_answer is not None:
            self._answer = self.own_answer
            if guarded:
                await self._check(passages, self._answer)
            self._tell(Piece(self.own_answer))
            return
        asked = with_options(self.question.text, self.question.options)
        content = _Prompt(
            lambda chars: answer_prompt(prompt, asked, tags.shortened(passages, chars)),
            sum(len(passage.text) for passage in passages),
        )
        sampling = replace(sampling, max_tokens=sampling.max_tokens + self.reasoning_tokens)
        thoughts, pieces = tags.Thoughts(), list[str]()

        def say(text: str) -> None:
            if text:
                pieces.append(text)
                if not guarded:
                    self._tell(Piece(text))

        instructions = [Message("system", self.question.instructions)] if self.question.instructions else []
        with self._timed("generate"):
            while True:
                try:
                    messages = [*instructions, Message("user", content.text)]
                    async for piece in self._world.generator.stream(messages, sampling):
                        self._count(piece)
                        self._finish_reason = piece.finish_reason or FinishReason.STOP
                        say(thoughts.feed(piece.text))
                    break
                except GeneratorError as error:
                    with _blaming_the_question():
                        content.shorten(error, len(self.question.instructions))
                    self._truncated = True
        say(thoughts.rest())
        if thoughts.going_on:
            raise GeneratorError(Failure.BROKEN, "it was still thinking when its tokens ended, and has not answered")
        text = tags.after_thoughts("".join(pieces))
        self._answer = tags.answer_line(text) if self.reasoning_tokens else text.strip()
        if guarded:
            await self._check(passages, self._answer)
            self._tell(Piece("".join(pieces)))

    def trajectory(self, stop_reason: StopReason) -> Trajectory:
        """Returns the record of the finished episode."""
        milliseconds = {name: seconds * 1e3 for name, seconds in self._seconds.items()}
        return Trajectory(
            method=self._method,
            question=self.question.text,
            documents=self.documents,
            turns=tuple(self.turns),
            stop_reason=stop_reason,
            usage=Usage(self._prompt_tokens, self._completion_tokens, self._searches, self._rewritten),
            timings=Timings(total=(time.perf_counter() - self._started) * 1e3, **milliseconds),
            spans=tuple(self.spans),
            answer=self._answer,
            finish_reason=self._finish_reason,
            models=tuple(self._models),
            truncated=self._truncated,
            indexes=tuple(self._indexes),
            dropped=dict(self._dropped),
        )

    async def _check(self, passages: Sequence[Passage], answer: str = "") -> None:
        """Asks the guard, if there is one, about passages or an answer. Raises GuardError if it refuses."""
        if not self._world.guard or not (passages or answer):
            return
        verdict = await self._world.guard.check(self.question.text, passages, answer)
        found = {passage.id for passage in passages}
        self._dropped |= {id: reason for id, reason in verdict.dropped.items() if id in found}
        if verdict.refused:
            raise GuardError(Failure.INVALID, verdict.refused, "question")

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


@contextmanager
def _blaming_the_question(full: bool = False) -> Iterator[None]:
    """Names the question where a prompt is too long with no passages left to cut; raises DialogueFull if `full`."""
    try:
        yield
    except BoundaryError as error:
        if error.failure is Failure.TOO_LONG:
            if full:
                raise DialogueFull from error
            error.field = "question"
        raise


def answer_prompt(prompt: str, question: str, passages: Sequence[Passage]) -> str:
    """Returns the generator's prompt over the passages. Without any, `answer` gives way to `direct`."""
    if prompt == "answer" and not passages:
        prompt = "direct"
    documents = tags.render_documents(passages)
    return prompts.render(prompt, question=tags.as_text(question), documents=documents, answer_line=tags.ANSWER_LINE)


def with_options(question: str, options: Mapping[str, str]) -> str:
    """Returns the question as the generator sees it, with its options (text by letter) if it has any."""
    if not options:
        return question
    listed = "\n".join(f"{letter}: {text}" for letter, text in options.items())
    return prompts.render("options", question=question, options=listed)
