"""The Policy port for training: a dialogue of token ids, in which sampled ids stay exactly as sampled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from common import control_tokens
from common.control_tokens import ChatTokenizer
from search_agent.errors import Failure, SearcherError
from search_agent.types import Author, Completion, FinishReason, Message, Sampling, Span
from search_agent.world import Policy


class Tokenizer(control_tokens.Tokenizer, Protocol):
    """The part of a transformers tokenizer that is used here."""

    all_special_ids: Sequence[int]

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> Any: ...


# (ids so far, how to sample) -> the new ids, and their log-probabilities under the sampling distribution
Generate = Callable[[list[int], Sampling], Awaitable[tuple[Sequence[int], Sequence[float]]]]


@dataclass(frozen=True, slots=True)
class Limits:
    """The most tokens of the first span with its chat template, and of everything after it."""

    prompt: int
    response: int


class TokenPolicy:
    """One episode's dialogue. It has the structure that serving gives it (`GrpcPolicy`): the first span is the
    user's message, and all later ones are one assistant message.

    `mask` is 1 for sampled ids and 0 for the environment's; both lists and `logprobs` are as long as
    `response_ids`. Two places differ from serving, where the text is tokenised anew:

    - A stop string may end inside a token, as in ">\\n". The id is kept as sampled; the text ends with the string.
    - A sampled end of message is kept where it ends the episode. Where the dialogue goes on after it, serving's
      prompt does not have it, and it is taken out of the ids.
    """

    def __init__(self, tokenizer: Tokenizer, generate: Generate, limits: Limits) -> None:
        self.prompt_ids: list[int] = []
        self.response_ids: list[int] = []
        self.mask: list[int] = []
        self.logprobs: list[float] = []
        self._tokenizer, self._generate, self._limits = tokenizer, generate, limits
        self._chat = ChatTokenizer(tokenizer)
        self._special = frozenset(tokenizer.all_special_ids)
        self._read = 0  # number of spans that the ids cover
        self._said = ""  # the text of the last completion

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        """Returns the next completion. Raises SearcherError, also if a limit leaves no room to write."""
        if sampling.grammar:
            raise SearcherError(Failure.UNSUPPORTED, "training samples without a grammar", "grammar")
        for span in spans[self._read :]:
            self._take(span)
        self._read = len(spans)
        context = self.prompt_ids + self.response_ids
        left = self._limits.response - len(self.response_ids)
        if left < 1:
            message = f"the dialogue fills data.max_response_length, {self._limits.response} tokens"
            raise SearcherError(Failure.INVALID, message)
        ids, logprobs = await self._generate(context, replace(sampling, max_tokens=min(sampling.max_tokens, left)))
        if not ids or len(logprobs) != len(ids):
            message = f"{len(ids)} tokens with {len(logprobs)} log-probabilities came from the engine"
            raise SearcherError(Failure.BROKEN, message)
        self.response_ids += ids
        self.mask += [1] * len(ids)
        self.logprobs += logprobs
        text, stop = _cut(_decoded(self._tokenizer, list(ids)), sampling.stop)
        self._said = text + stop
        ended = bool(stop) or ids[-1] in self._special
        return Completion(text, FinishReason.STOP if ended else FinishReason.LENGTH, len(context), len(ids), stop=stop)

    def _take(self, span: Span) -> None:
        if not self.prompt_ids:
            assert span.author is Author.ENVIRONMENT
            ids, limit = self._chat.chat([Message("user", span.text)]), self._limits.prompt
            if len(ids) > limit:
                told = f"the prompt has {len(ids)} of {limit} tokens (data.max_prompt_length)"
                raise SearcherError(Failure.TOO_LONG, told, excess=len(ids) / limit)
            self.prompt_ids = ids
            return
        text = span.text
        if span.author is Author.POLICY:
            # Written here; the core may have closed a tag that its message ended in.
            assert text.startswith(self._said)
            text = text.removeprefix(self._said)
        if self.response_ids and self.mask[-1] and self.response_ids[-1] in self._special:
            for kept in (self.response_ids, self.mask, self.logprobs):
                kept.pop()
        ids = self._chat.text(text) if text else []
        self.response_ids += ids
        self.mask += [0] * len(ids)
        self.logprobs += [0.0] * len(ids)


# (ids so far, ids that follow) -> the log-probability of each that follows
Logprobs = Callable[[list[int], list[int]], Awaitable[Sequence[float]]]


class Dictation:
    """Writes a player's moves in place of the model's samples, with the probabilities that the model gives them.

    A move is tokenised whole, as in the examples of a warm start. It is said in pieces, each up to the token that ends
    a stop string, as the model would say it.
    """

    def __init__(self, player: Policy, tokenizer: Tokenizer, logprobs: Logprobs) -> None:
        self._player, self._tokenizer, self._logprobs = player, tokenizer, logprobs
        self._chat = ChatTokenizer(tokenizer)
        self._unsaid: list[tuple[int, float]] = []  # the rest of the move: ids with their log-probabilities

    async def generate(self, ids: list[int], sampling: Sampling) -> tuple[Sequence[int], Sequence[float]]:
        if not self._unsaid:
            move = list(self._chat.text((await self._player.complete((), sampling)).text))
            self._unsaid = list(zip(move, await self._logprobs(ids, move), strict=True))
        said: list[tuple[int, float]] = []
        while self._unsaid and not _cut(_decoded(self._tokenizer, [each for each, _ in said]), sampling.stop)[1]:
            said.append(self._unsaid.pop(0))
        return [each for each, _ in said], [logprob for _, logprob in said]


def _decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _cut(text: str, stops: Sequence[str]) -> tuple[str, str]:
    """Returns the text before the first stop string, and that string, as engines do."""
    found = [(where, stop) for stop in stops if (where := text.find(stop)) >= 0]
    if not found:
        return text, ""
    where, stop = min(found)
    return text[:where], stop
