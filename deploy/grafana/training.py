"""The dashboard "Training": rewards, conduct and optimisation of each run."""

from __future__ import annotations

from grafana_foundation_sdk.models.common import BigValueTextMode

from deploy.grafana.panels import Query, choice, dashboard, graph, stack, value


def _of_runs(metric: str, where: str = "") -> str:
    """Returns a metric of the runs chosen at the top of the dashboard."""
    chosen = ", ".join(filter(None, ['run=~"$run"', where]))
    return f"search_agent_training_{metric}{{{chosen}}}"


def _reward(parts: str, legend: str) -> Query:
    return Query(_of_runs("reward", f"part{parts}"), legend)


def _named(metric: str, *what: str) -> Query:
    """Returns the query of a metric's kinds, which the legend names if they are several."""
    return Query(_of_runs(metric, f'what=~"{"|".join(what)}"'), "{{what}} {{run}}" if len(what) > 1 else "{{run}}")


_STATE = [
    value(
        "Runs",
        "Known runs by state.",
        Query("search_agent_trainer_runs > 0", "{{state}}"),
        text=BigValueTextMode.VALUE_AND_NAME,
    ),
    value(
        "Step",
        "The step that each run has done.",
        Query(_of_runs("step"), "{{run}}"),
        text=BigValueTextMode.VALUE_AND_NAME,
    ),
    value(
        "Searcher",
        "What the generator services serve now: a promotion shows here.",
        Query('search_agent_generator_model_info{name!="base"}', "{{service}} {{name}}: {{model}}"),
        text=BigValueTextMode.NAME,
    ),
]

_REWARD = [
    graph(
        "Gain and reward",
        "Mean over a step's samples: GenAcc beyond naive RAG, and what is trained on after penalties.",
        *(_reward(f'="{part}"', f"{part} {{{{run}}}}") for part in ("gain", "reward", "penalty")),
        low=None,
    ),
    graph(
        "Accuracy and gold passages",
        "Mean GenAcc of a step's samples, and of naive RAG on the same questions; the mean share of the gold passages "
        "that were kept (coverage), and the shares of samples that kept, and that saw, all of them.",
        _reward('="accuracy"', "searcher {{run}}"),
        _reward('="rag_accuracy"', "naive RAG {{run}}"),
        _reward('=~"coverage|all_kept|all_seen"', "{{part}} {{run}}"),
        unit="percentunit",
    ),
    graph(
        "Validation",
        "Means over the held-out validation questions.",
        Query(_of_runs("validation", 'part=~"accuracy|gain|reward|coverage|all_kept"'), "{{part}} {{run}}"),
        low=None,
    ),
]

_CONDUCT = [
    graph(
        "Searches and passages",
        "Means over a step's samples: searches made, and passages kept.",
        _named("conduct", "searches", "selected"),
    ),
    graph(
        "Malformed, repeated and wasted",
        "Turns that could not be read, and searches made before, per sample.",
        _named("conduct", "malformed", "repeated", "wasted"),
    ),
    graph(
        "Gaming",
        "Shares of samples that keep everything, search with the question itself, or follow the protocol and keep "
        "nothing.",
        _named("conduct", "everything", "copied", "idle"),
        unit="percentunit",
    ),
    graph("Tokens", "Tokens of a sample's response, the environment's included.", _named("conduct", "tokens")),
    graph(
        "Samples not trained on",
        "Dropped because a service failed, by boundary, and lonely ones whose group was dropped. With filter_groups "
        "also questions (not samples) that were replaced, because all of their samples were worth the same; means of "
        "a step are then over what was not replaced.",
        Query(_of_runs("samples"), "{{what}} {{run}}"),
    ),
]

_OPTIMISATION = [
    graph(
        "Entropy and mixed groups",
        "Mean entropy of the policy's next token and of its first choice among a question's samples, nats; the shares "
        "of questions whose samples differ in worth and in their number of searches. Where all search as often, none "
        "learns to stop earlier.",
        _named("policy", "entropy", "choice_entropy", "mixed_groups", "mixed_searches"),
    ),
    graph(
        "KL",
        "Divergence from the base model, and of each update from the policy that was sampled.",
        _named("policy", "kl_to_base", "kl_of_update"),
        low=None,
    ),
    graph(
        "Clipping and gradient",
        "Share of tokens whose ratio was clipped, and the norm of the gradient.",
        _named("policy", "clipped", "gradient_norm"),
    ),
    graph(
        "Losses",
        "Of the policy, and of the critic where there is one.",
        _named("policy", "loss", "critic_loss", "critic_explained"),
        low=None,
    ),
    graph("Learning rate", "Of the actor.", _named("policy", "learning_rate")),
]

_TIME = [
    stack(
        "Time of a step by phase",
        "Seconds by phase, as verl names it.",
        Query(_of_runs("seconds", 'phase!="step"'), "{{phase}} {{run}}"),
        unit="s",
    ),
    graph(
        "Time of a step",
        "Seconds from one step to the next.",
        Query(_of_runs("seconds", 'phase="step"'), "{{run}}"),
        unit="s",
    ),
    graph(
        "GPU use",
        "Share of the GPU's peak arithmetic that the actor's update reaches.",
        _named("gpu", "share_of_peak_flops"),
        unit="percentunit",
    ),
    graph(
        "GPU memory",
        "Most that the training process has allocated and reserved.",
        _named("gpu", "allocated_gb", "reserved_gb"),
        unit="decgbytes",
    ),
    graph(
        "Throughput",
        "Tokens a second on each GPU, over the whole step.",
        _named("gpu", "tokens_per_second"),
    ),
]

DASHBOARD = dashboard(
    "training",
    "Training",
    "now-3h",
    choice("run", "search_agent_training_step"),
    {
        "": _STATE,
        "Reward": _REWARD,
        "What the searcher does": _CONDUCT,
        "Optimisation": _OPTIMISATION,
        "Time and GPU": _TIME,
    },
)
