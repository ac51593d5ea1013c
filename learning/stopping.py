"""Decides when a run stops by itself because it no longer learns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from common.run_config import StopConfig


def reason_to_stop(steps: Sequence[Mapping[str, float]], rules: StopConfig) -> str:
    """Returns the rule that the latest steps break, with their figures, or "" if none is broken.

    `steps` are the metrics of the training steps so far, in order. Figures are means over `rules.window` steps, so that
    a single odd step does not stop the run. A metric that the run does not log breaks no rule.
    """

    def mean(name: str, end: int) -> float | None:
        """Returns the metric's mean over the window that ends before `end`; None unless every step has it."""
        values = [step[name] for step in steps[max(0, end - rules.window) : end] if name in step]
        return statistics.fmean(values) if len(values) == rules.window else None

    def broken(least: float | None, figure: float | None) -> bool:
        return least is not None and figure is not None and figure < least

    now = len(steps)
    mixed, entropy, coverage = (mean(f"search/{name}", now) for name in ("mixed_groups", "choice_entropy", "coverage"))
    before = mean("search/coverage", now - rules.coverage_steps)
    rise = coverage - before if coverage is not None and before is not None else None
    if broken(rules.mixed_groups, mixed):
        return f"stop.mixed_groups: the samples of only {mixed:.0%} of the questions differ in worth"
    if broken(rules.choice_entropy, entropy):
        return f"stop.choice_entropy: the first choice has {entropy:.2f} nat left"
    if broken(rules.coverage_rise, rise):
        return f"stop.coverage_rise: coverage went from {before:.1%} to {coverage:.1%} in {rules.coverage_steps} steps"
    return ""
