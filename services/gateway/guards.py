"""Guards, which judge passages before a model reads them: built-in rules, or a service over HTTP."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import structlog

from common import http, stored
from common.control_tokens import has_control_tokens
from search_agent import tags
from search_agent.errors import Failure, GuardError
from search_agent.types import Passage, Verdict
from services.gateway.observed import count_failure

log = structlog.get_logger()

_HIDING = re.compile("[\u202d\u202e\u2066-\u2069]|[\U000e0000-\U000e007f]{8}")  # a flag has fewer
_READER = r"(?:question|instructions?|documents?|passages?|prompt|context)"
_RULES = {
    "turns of a conversation": r"^\W{0,3}(?:assistant|human|ai|system)\W?\s?:"
    r"|^\W{0,3}\[(?:system|assistant|user)\]|^#{2,4} ?(?:instruction|response|system|assistant|human)\b",
    "instructions to the reader": rf"\b(?:ignore|disregard|forget)\b[^.\n]{{0,40}}\b{_READER}\b"
    r"|\b(?:answer|reply|respond|output|write|say)\b[^.\n]{0,20}\b(?:exactly|only|nothing else)\b"
    r"|\b(?:an?|to the|dear) (?:ai )?(?:language model|ai model|assistant)\b[^.\n]{0,40}"
    r"\b(?:you|answer|output|operator|reply|write|when)"
    rf"|\byour (?:new task|previous instructions)\b|\bselect\b[^.\n]{{0,20}}\b{_READER}\b",
    "claims about other passages": r"\b(?:trust|only)\b[^.\n]{0,10}\b(?:this|right) (?:document|passage)\b"
    r"|\ball (?:the |earlier |other )*(?:others?|documents|passages)\b[^.\n]{0,25}\b(?:wrong|false|forg\w+)\b"
    r"|\b(?:document|passage) replaces\b|\bother documents\b[^.\n]{0,40}\bforgeries\b",
}
_COMPILED = {reason: re.compile(rule, re.IGNORECASE | re.MULTILINE) for reason, rule in _RULES.items()}


def reason_against(passage: Passage) -> str:
    """Returns why the rules drop a passage, or ""."""
    text = f"{passage.title}\n{passage.text}"
    if _HIDING.search(text):
        return "hidden characters"
    plain = tags.plain(text)
    if has_control_tokens(plain):
        return "control tokens of a model"
    if tags.as_text(plain) != plain:
        return "tags and headers of the prompt"
    return next((reason for reason, rule in _COMPILED.items() if rule.search(plain)), "")


class RuleGuard:
    """Drops passages that contain control tokens, parts of our prompts, or instructions to a model."""

    reads_answers = False

    async def check(self, question: str, passages: Sequence[Passage], answer: str = "") -> Verdict:
        reasons = {passage.id: reason_against(passage) for passage in passages}
        return Verdict({id: reason for id, reason in reasons.items() if reason})


@dataclass(frozen=True)
class HttpGuard:
    """Asks a service, by POST of {"question", "passages": [{"id", "title", "text"}], "answer"}, for a verdict.

    It answers {"dropped": {id: reason}, "refused": reason}; both may be left out. A guard that fails lets everything
    pass if it `fails_open`, which is logged and counted; otherwise the question fails.
    """

    client: httpx.AsyncClient
    url: str
    fails_open: bool
    reads_answers: bool = True

    async def check(self, question: str, passages: Sequence[Passage], answer: str = "") -> Verdict:
        shown = [{"id": each.id, "title": each.title, "text": each.text} for each in passages]
        try:
            return await self._ask({"question": question, "passages": shown, "answer": answer})
        except GuardError as error:
            if not self.fails_open:
                raise
            count_failure(error)
            log.warning("the guard failed, and is not heard", failure=error.failure, error=error.message)
            return Verdict()

    async def _ask(self, body: dict[str, object]) -> Verdict:
        try:
            response = await http.fetch(self.client, "POST", self.url, json=body)
        except httpx.TimeoutException:
            raise GuardError(Failure.TIMEOUT, "it did not answer in time") from None
        except http.TooLarge:
            raise GuardError(Failure.BROKEN, "its answer is too long") from None
        except httpx.HTTPError as error:
            raise GuardError(Failure.UNAVAILABLE, "it cannot be reached") from error
        if response.status_code != 200:
            raise GuardError(Failure.BROKEN, f"it answered {response.status_code}")
        verdict = stored.read(Verdict, response.content)
        if verdict is None:
            raise GuardError(Failure.BROKEN, "its answer is not a verdict")
        return verdict

    async def close(self) -> None:
        await self.client.aclose()
