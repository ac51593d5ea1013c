"""A judge behind an OpenAI-compatible endpoint: does an answer say what a gold answer says?"""

from __future__ import annotations

import httpx

from common import retry
from search_agent import prompts
from search_agent.errors import Failure, JudgeError
from search_agent.grading.judge import judge_prompt, verdict
from search_agent.types import Question


class JudgeEndpoint:
    """`url` is the endpoint's base, as in https://llm.example.org/v1. Its key appears in no error."""

    def __init__(self, http: httpx.AsyncClient, url: str, model: str, key: str = "") -> None:
        self._http, self._url, self._model, self._key = http, url.rstrip("/"), model, key

    @property
    def facts(self) -> dict[str, str]:
        """Which judge this is, for the record."""
        return {"url": self._url, "model": self._model, "prompt": prompts.version("judge")}

    async def __call__(self, question: Question, answer: str) -> bool:
        """Raises JudgeError; a judge that fails has not said no."""
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": judge_prompt(question, answer)}],
            "temperature": 0,
            "max_tokens": 16,
        }
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            response = await retry.post(self._http, f"{self._url}/chat/completions", json=body, headers=headers)
        except httpx.TimeoutException:
            raise JudgeError(Failure.TIMEOUT, "the judge did not answer in time") from None
        except httpx.HTTPError as error:
            raise JudgeError(Failure.UNAVAILABLE, f"the judge cannot be reached: {error}") from None
        if response.status_code != 200:
            failure = Failure.OVERLOADED if response.status_code == 429 else Failure.UNAVAILABLE
            raise JudgeError(failure, f"the judge answered {response.status_code}")
        try:
            reply = response.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            raise JudgeError(Failure.BROKEN, "the judge's answer is no chat completion") from None
        return verdict(reply or "")
