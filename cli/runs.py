"""A run's configuration for commands that work beside a run, such as `teach` and `headroom`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evaluation.errors import EvaluateProblem

if TYPE_CHECKING:
    from common.run_config import RunConfig
    from search_agent.agents.s3 import S3Params


def load(name_or_path: str, **fields: Any) -> RunConfig:
    """Loads the configuration with `fields` replaced where they are given. Raises ConfigProblem."""
    from common import run_config

    return run_config.load(name_or_path, {name.replace("__", "."): value for name, value in fields.items() if value})


def s3_parameters(run: RunConfig) -> S3Params:
    """Returns the parameters of a run that trains s3. Raises EvaluateProblem for another agent."""
    from search_agent.agents.s3 import S3Params

    if not isinstance(params := run.method.params, S3Params):
        raise EvaluateProblem(f"agent: this needs a run of s3, not {run.agent}")
    return params
