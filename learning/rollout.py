"""Runs our agents in verl's agent loop. No other file touches `verl.experimental.agent_loop`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

from common import run_config
from common.by_steps import at
from common.run_config import RunConfig, TeacherConfig
from learning import wiring
from learning.episodes import Example, Played, Stage, example_of
from learning.groups import first_choice
from learning.policy import Dictation, Limits, TokenPolicy
from learning.samples import CHOICE, DROPPED, TAUGHT
from search_agent.errors import BoundaryError, Failure, SearcherError
from search_agent.types import Sampling

log = structlog.get_logger()

NAME = "search_agent"  # in rows and in the registry


def registry(run: Path) -> list[dict[str, str]]:
    """Returns the registry that verl reads from `agent_loop_config_path`, for the run in that folder."""
    return [{"name": NAME, "_target_": f"{__name__}.SearchAgentLoop", "run": str(run)}]


class SearchAgentLoop(AgentLoopBase):
    """Plays one sample: an episode of the run's agent with its reward, so that verl needs no reward worker.

    If every attempt fails at a boundary, the sample becomes a mark that holds the reason. `Sampler` removes it from the
    batch before anything is computed from it.
    """

    def __init__(self, *args: Any, run: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stage, self._settings = _wired(run)

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        example = example_of(json.loads(row["reward_model"]["ground_truth"]))
        step, sample = int(row["global_steps"]), int(row["session_id"])
        taught = _is_taught(self._settings.teacher, example, step, sample)
        for attempt in range(1, self._settings.reward.attempts + 1):
            server = _Server(self.server_manager, sampling_params)
            limits = Limits(self.rollout_config.prompt_length, self.rollout_config.response_length)
            teacher = self._stage.teacher(example) if taught else None
            generate = Dictation(teacher, self.tokenizer, server.logprobs).generate if teacher else server.generate
            policy = TokenPolicy(self.tokenizer, generate, limits)
            try:
                return _output(await self._stage.play(policy, example, step, teacher), policy, server, taught)
            except BoundaryError as error:
                reason = f"{error.boundary}: {error.failure}: {error}"
                log.warning("episode failed", question=example.question.id, attempt=attempt, reason=reason)
        return _dropped(reason, self.tokenizer.eos_token_id)


@cache
def _wired(run: str) -> tuple[Stage, RunConfig]:
    """Returns the run's stage and configuration. One stage serves all episodes of a process."""
    settings = run_config.load(f"{run}/config.yaml")
    return wiring.stage_of(settings), settings


def _is_taught(rules: TeacherConfig | None, example: Example, step: int, sample: int) -> bool:
    """Returns whether the teacher plays a sample. Only rows of questions that it plays have gold passages."""
    return rules is not None and bool(example.gold) and sample < at(step, rules.samples)


class _Server:
    """verl's engine as `TokenPolicy` asks it: one episode stays on one replica, whose prefix cache it fills."""

    def __init__(self, manager: Any, sampling_params: dict[str, Any]) -> None:
        self._manager, self._params = manager, sampling_params
        self._episode = uuid4().hex
        self.steps: list[int] = []  # of the weights that were sampled from

    async def generate(self, ids: list[int], sampling: Sampling) -> tuple[Sequence[int], Sequence[float]]:
        # Temperature and top-p are verl's: the actor computes its log-probabilities at the same temperature.
        params = {**self._params, "max_tokens": sampling.max_tokens}
        if sampling.stop:
            params["stop"] = list(sampling.stop)
        output = await self._manager.generate(request_id=self._episode, prompt_ids=ids, sampling_params=params)
        self._note(output)
        return output.token_ids, output.log_probs or ()

    async def logprobs(self, ids: list[int], said: list[int]) -> Sequence[float]:
        """Returns the log-probability of each id of `said` after `ids`."""
        params = {**self._params, "max_tokens": 1, "prompt_logprobs": 0}
        output = await self._manager.generate(request_id=self._episode, prompt_ids=ids + said, sampling_params=params)
        self._note(output)
        # an entry for each id of the prompt but the first, and one that stands for the next
        return [logprob for (logprob,) in output.extra_fields["prompt_logprobs"][len(ids) - 1 : -1]]

    def _note(self, output: Any) -> None:
        """Notes the weights that answered. Raises SearcherError if the engine did not answer."""
        if output.stop_reason == "aborted":
            raise SearcherError(Failure.UNAVAILABLE, "the engine aborted the request")
        self.steps += [output.extra_fields[edge] or 0 for edge in ("min_global_steps", "max_global_steps")]


def _output(played: Played, policy: TokenPolicy, server: _Server, taught: bool) -> AgentLoopOutput:
    timings = played.trajectory.timings
    return AgentLoopOutput(
        prompt_ids=policy.prompt_ids,
        response_ids=policy.response_ids,
        response_mask=policy.mask,
        response_logprobs=policy.logprobs,
        reward_score=played.reward,
        num_turns=len(played.trajectory.turns),
        metrics=AgentLoopMetrics(
            generate_sequences=timings.search / 1e3,
            tool_calls=timings.retrieve / 1e3,
            compute_score=timings.generate / 1e3,
        ),
        extra_fields={
            "reward_extra_info": played.parts,
            CHOICE: first_choice(played.trajectory),
            TAUGHT: taught,
            "min_global_steps": min(server.steps),
            "max_global_steps": max(server.steps),
        },
    )


def _dropped(reason: str, token: int) -> AgentLoopOutput:
    """Returns a mark in place of a sample: one masked token, and NaN as its reward.

    NaN keeps a group of marks from looking like a group of equal rewards.
    """
    return AgentLoopOutput(
        prompt_ids=[token],
        response_ids=[token],
        response_mask=[0],
        response_logprobs=[0.0],
        reward_score=math.nan,
        num_turns=0,
        metrics=AgentLoopMetrics(),
        extra_fields={
            DROPPED: reason,
            CHOICE: "",
            TAUGHT: False,
            "reward_extra_info": {},
            "min_global_steps": 0,
            "max_global_steps": 0,
        },
    )
