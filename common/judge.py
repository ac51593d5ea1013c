"""A judge behind an OpenAI-compatible endpoint: does an answer say what a gold answer says, or what passages say?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from common.control_tokens import neutralised
from common.http import TooLarge, fetch
from common.openai_endpoint import Dialect, answer_of
from common.patience import TEMPORARY_STATUSES, Patience
from search_agent import prompts
from search_agent.errors import Failure, JudgeError
from search_agent.grading.judge import Ruling, judge_prompt, passages_prompt
from search_agent.types import Passage, Question

_MAX_TOKENS = (2048, 256, 16)  # one word is asked for; models that reason first need room, which small contexts lack
_PATIENCE_S = 120.0
_CHARS_A_TOKEN = 4  # about, in English, where an endpoint does not count
_ATTEMPTS = 6  # an endpoint may refuse several parameters, one at a time


class _Busy(Exception):
    """The endpoint says that it is busy. `pause_s` is its Retry-After, 0.0 if it sends none."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"it answers {response.status_code}")
        after = response.headers.get("retry-after", "")
        self.response, self.pause_s = response, float(after) if after.isdecimal() else 0.0


class JudgeEndpoint:
    """`url` is the endpoint's base, as in https://llm.example.org/v1. Its key appears in no error."""

    def __init__(
        self, http: httpx.AsyncClient, url: str, model: str, key: str = "", patience_s: float = _PATIENCE_S
    ) -> None:
        """An endpoint that is busy is asked again for up to `patience_s`."""
        self._http, self._url, self._model, self._key = http, url.rstrip("/"), model, key
        self._dialect = Dialect()
        self._patience = Patience(
            patience_s, "judge", self._url, lambda error: error.pause_s if isinstance(error, _Busy) else None
        )
        self._max_tokens = list(_MAX_TOKENS)  # the first is asked for; those that were refused are gone

    @property
    def facts(self) -> dict[str, str]:
        """Names the judge, for the record."""
        return {"url": self._url, "model": self._model, "prompt": prompts.version("judge")}

    async def __call__(self, question: Question, answer: str) -> bool:
        """Returns the verdict. Raises JudgeError; a judge that fails has not said no."""
        ruling, finish = await self._rule(judge_prompt(question, answer))
        if not ruling.reply.strip() and finish == "length":
            raise JudgeError(Failure.BROKEN, f"the judge was still thinking after {self._max_tokens[0]:,} tokens")
        return ruling.is_right

    async def by_passages(self, question: Question, passages: Sequence[Passage], answer: str) -> Ruling:
        """Returns the ruling on whether the answer is right by what the passages say. Raises JudgeError."""
        ruling, _ = await self._rule(passages_prompt(question, passages, answer))
        return ruling

    async def _rule(self, prompt: str) -> tuple[Ruling, object]:
        """Returns the ruling, and why it ended."""
        response = await self._ask(neutralised(prompt))
        try:
            body = response.json()
            choice, usage = body["choices"][0], body.get("usage") or {}
            told = int(usage.get("total_tokens") or 0)
            tokens = told if told > 0 else len(prompt) // _CHARS_A_TOKEN
            return Ruling(answer_of(choice["message"]), tokens), choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            raise JudgeError(Failure.BROKEN, "the judge's answer is not a chat completion") from None

    async def close(self) -> None:
        """Closes the connections to the endpoint."""
        await self._http.aclose()

    async def _ask(self, prompt: str) -> httpx.Response:
        body = {"model": self._model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        for _ in range(_ATTEMPTS):
            limit = self._max_tokens[0]
            sent = self._dialect.fit({**body, "max_tokens": limit})
            response = await self._post(sent)
            if response.status_code == 200:
                return response
            if self._dialect.learn(response.status_code, response.text, sent):
                continue
            if not self._dialect.is_too_long(response.status_code, response.text) or len(self._max_tokens) == 1:
                break
            if self._max_tokens[0] == limit:  # another question may have learned it meanwhile
                del self._max_tokens[0]
        raise self._refusal(response)

    async def _post(self, body: dict[str, Any]) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            return await self._patience(lambda: self._sent(json=body, headers=headers))
        except _Busy as busy:
            return busy.response
        except httpx.TimeoutException:
            raise JudgeError(Failure.TIMEOUT, "the judge did not answer in time") from None
        except TooLarge as error:
            raise JudgeError(Failure.BROKEN, f"the judge's answer is too long: {error}") from None
        except httpx.HTTPError as error:
            raise JudgeError(Failure.UNAVAILABLE, f"the judge cannot be reached: {error}") from None

    async def _sent(self, **request: Any) -> httpx.Response:
        response = await fetch(self._http, "POST", f"{self._url}/chat/completions", **request)
        if response.status_code in TEMPORARY_STATUSES:
            raise _Busy(response)
        return response

    def _refusal(self, response: httpx.Response) -> JudgeError:
        status = response.status_code
        failure = Failure.OVERLOADED if status == 429 else Failure.UNAVAILABLE
        if status in (401, 403):  # such answers like to repeat the key, whole or in part
            return JudgeError(failure, f"the judge refused the API key ({status})")
        try:
            reason = str(response.json()["error"]["message"])
        except (ValueError, LookupError, TypeError):
            reason = response.text
        reason = " ".join(reason.split()).replace(self._key or "\0", "***")[:300]
        return JudgeError(failure, f"the judge answered {status}{f': {reason}' if reason else ''}")
