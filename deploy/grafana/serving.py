"""The dashboard "Search agent": questions, objectives and every service."""

from __future__ import annotations

from grafana_foundation_sdk.models.common import BigValueTextMode

from deploy.grafana.panels import Query, band, choice, dashboard, graph, light, mean, quantile, rate, stack, value
from search_agent.agents import AGENTS

_METHOD = 'method=~"$method"'  # the methods chosen at the top of the dashboard
_LOOKUPS = "search_agent_cache_lookups_total"
_HITS, _UNANSWERED = (rate(_LOOKUPS, where=f'result="{result}"') for result in ("hit", "unavailable"))


def _per_question(counter: str) -> str:
    questions = rate("search_agent_questions_total", "method", where=_METHOD)
    return f"{rate(counter, 'method', where=_METHOD)} / {questions}"


_STATE = [
    light(
        "Up",
        "Whether Prometheus reaches each service.",
        Query('up{job="search-agent"}', "{{service}}"),
        {"0": ("down", "red"), "1": ("up", "green")},
    ),
    value(
        "Models",
        "What the generator services serve by name.",
        Query("search_agent_generator_model_info", "{{service}} {{name}}: {{model}} ({{engine}})"),
        text=BigValueTextMode.NAME,
    ),
    value(
        "Passages",
        "Passages of each served index.",
        Query("search_agent_retriever_index_passages", "{{index}} {{version}}"),
        unit="locale",
        text=BigValueTextMode.VALUE_AND_NAME,
    ),
]

_OBJECTIVES = [
    graph(
        "Answered questions",
        "Share of questions that no failed call ended; 99 % are the objective.",
        Query("search_agent:answered:ratio_rate5m", "5 minutes"),
        Query("search_agent:answered:ratio_rate1h", "1 hour"),
        unit="percentunit",
        high=1,
    ),
    graph(
        "Slowest questions",
        "Total time; 19 of 20 questions took less. 30 s are the objective.",
        Query(f"method:search_agent_seconds:p95_rate5m{{{_METHOD}}}", "{{method}}"),
        unit="s",
    ),
    graph(
        "Breakers",
        "The breaker of each backend: 0 closed, 1 half open, 2 open: it failed repeatedly and is not asked. "
        "#2 is the second of several services that hold a model.",
        Query("max by (instance, backend) (search_agent_breaker)", "{{instance}} {{backend}}"),
        fill=0,
    ),
]

_SHADOW = [
    band(
        "Gain over naive RAG",
        "Share of the last week's questions that the judge found answered rightly, minus the same share for naive RAG "
        "with as many passages. The band is the 95 % interval. Only where GATEWAY_SHADOW_SHARE is above 0.",
        AGENTS,
        *(
            Query(f"method:search_agent_shadow_gain:{part}7d{{{_METHOD}}}", f"{{{{method}}}}{name}")
            for part, name in (("mean", ""), ("low", ", low"), ("high", ", high"))
        ),
        unit="percentunit",
    ),
    stack(
        "Questions of the shadow",
        "Questions of the last week by whose answer the judge called right, and those dropped for want of room, capped "
        "by the tokens of a day, or failed.",
        Query(
            f"sum by (outcome) (method_outcome:search_agent_shadow_questions:increase7d{{{_METHOD}}})", "{{outcome}}"
        ),
        unit="short",
    ),
    graph(
        "Tokens of the shadow",
        "Tokens a second that naive RAG and the judge use for the comparison.",
        Query(rate("search_agent_shadow_tokens_total", "by"), "{{by}}"),
        unit="cps",
    ),
]

_QUESTIONS = [
    stack(
        "Questions by method",
        "Finished questions a second.",
        Query(rate("search_agent_questions_total", "method", where=_METHOD), "{{method}}"),
    ),
    stack(
        "Stop reasons",
        "Why questions ended, a second.",
        Query(rate("search_agent_questions_total", "stop_reason", where=_METHOD), "{{stop_reason}}"),
    ),
    graph(
        "Questions in flight",
        "Questions that the gateway is working on now.",
        Query("search_agent_http_in_flight", "in flight"),
    ),
    graph(
        "Median time by stage",
        "Half of the questions took less. A question's stages: retrieve, search (the searcher's turns), generate "
        "(the answer).",
        Query(quantile(0.5, "search_agent_stage_seconds", "stage", where=_METHOD), "{{stage}}"),
        unit="s",
    ),
    graph(
        "95th percentile by stage",
        "19 of 20 questions took less.",
        Query(quantile(0.95, "search_agent_stage_seconds", "stage", where=_METHOD), "{{stage}}"),
        unit="s",
    ),
    graph(
        "95th percentile by method",
        "Total time; 19 of 20 questions took less.",
        Query(quantile(0.95, "search_agent_stage_seconds", "method", where=f'{_METHOD}, stage="total"'), "{{method}}"),
        unit="s",
    ),
    graph(
        "Searches per question",
        "Mean number of retrievals.",
        Query(mean("search_agent_searches", "method", where=_METHOD), "{{method}}"),
    ),
    graph(
        "Documents per question",
        "Mean number of passages kept for the answer.",
        Query(mean("search_agent_documents", "method", where=_METHOD), "{{method}}"),
    ),
    graph(
        "Invalid turns and dropped passages per question",
        "Malformed searcher turns; near 0 with a grammar or a trained searcher. Rewritten: malformed without the "
        "grammar, and written again under it. Dropped: passages that the guard kept from the models.",
        Query(_per_question("search_agent_invalid_turns_total"), "{{method}}"),
        Query(_per_question("search_agent_rewritten_turns_total"), "{{method}}, rewritten"),
        Query(_per_question("search_agent_dropped_passages_total"), "{{method}}, dropped"),
    ),
]

_FAILURES = [
    stack(
        "Failures by boundary",
        "Failed backend calls a second, each counted once at the boundary where it failed.",
        Query(rate("search_agent_failures_total", "boundary", "failure"), "{{boundary}}: {{failure}}"),
    ),
    stack(
        "HTTP answers by status",
        "Requests a second to the gateway, by route and status.",
        Query(rate("search_agent_http_seconds_count", "route", "status"), "{{route}} {{status}}"),
        unit="reqps",
    ),
    graph(
        "Cache",
        "Share of naive-RAG look-ups found in Redis, and share that Redis did not answer.",
        Query(f"({_HITS} or vector(0)) / {rate(_LOOKUPS)}", "hit"),
        Query(f"({_UNANSWERED} or vector(0)) / {rate(_LOOKUPS)}", "unavailable"),
        unit="percentunit",
        high=1,
    ),
]

_ADMISSION = [
    stack(
        "Admitted and refused",
        "Requests a second by outcome: refused until there is room, hopeless in the time they have, shared with the "
        "same question under way.",
        Query(rate("search_agent_admissions_total", "work", "outcome"), "{{work}} {{outcome}}"),
    ),
    graph(
        "Wait of who is refused",
        "Time after which the newest refused request was told to come again; 0 once one is admitted.",
        Query("search_agent_admission_wait_seconds", "{{work}}"),
        unit="s",
        fill=0,
    ),
    graph(
        "Requests that end in time",
        "Requests that may be under way at once for one more to end in time.",
        Query("search_agent_admission_at_once", "{{work}}"),
        fill=0,
    ),
]

_SERVICES = [
    graph(
        "Median gRPC latency",
        "Half of the calls took less, as the server measures it.",
        Query(quantile(0.5, "search_agent_rpc_seconds", "service", "method"), "{{service}} {{method}}"),
        unit="s",
    ),
    graph(
        "95th percentile of gRPC latency",
        "19 of 20 calls took less, as the server measures it.",
        Query(quantile(0.95, "search_agent_rpc_seconds", "service", "method"), "{{service}} {{method}}"),
        unit="s",
    ),
    graph(
        "gRPC calls in flight",
        "Calls that each service is working on now.",
        Query("search_agent_rpc_in_flight", "{{service}}"),
    ),
    stack(
        "gRPC calls",
        "Calls a second.",
        Query(rate("search_agent_rpc_seconds_count", "service", "method"), "{{service}} {{method}}"),
        unit="reqps",
    ),
    stack(
        "gRPC errors",
        "Calls a second that ended with another code than OK.",
        Query(rate("search_agent_rpc_seconds_count", "service", "code", where='code!="OK"'), "{{service}} {{code}}"),
        unit="reqps",
    ),
    graph("Training runs", "Known runs by state.", Query("search_agent_trainer_runs", "{{state}}")),
]

_RETRIEVER = [
    graph(
        "Queries per batch",
        "Concurrent queries are merged into one encode and one search.",
        Query(mean("search_agent_retriever_batch_queries"), "mean"),
        Query(quantile(0.95, "search_agent_retriever_batch_queries"), "95th percentile"),
    ),
    stack(
        "Mean time of a batch by stage",
        "Encoding, dense search, BM25 and reading the passages.",
        Query(mean("search_agent_retriever_stage_seconds", "stage"), "{{stage}}"),
        unit="s",
    ),
    graph("Queued queries", "Queries waiting for a batch.", Query("search_agent_retriever_queued_queries", "waiting")),
    stack(
        "Builds of changes",
        "Builds a minute by outcome, and those under way. A failed build is tried again every few seconds.",
        Query(f"60 * {rate('search_agent_retriever_build_seconds_count', 'outcome')}", "{{outcome}}"),
        Query("sum(search_agent_retriever_building)", "under way"),
    ),
    graph(
        "Time of a build",
        "Mean time to build the changes that wait into a version.",
        Query(mean("search_agent_retriever_build_seconds", "outcome"), "{{outcome}}"),
        unit="s",
    ),
    graph(
        "Passages encoded by builds",
        "Passages a second.",
        Query(rate("search_agent_retriever_encoded_passages_total"), "encoded"),
    ),
]

_MODELS = [
    graph(
        "Tokens",
        "Tokens a second read (prompt) and written (completion).",
        Query(rate("search_agent_generator_tokens_total", "service", "name", "kind"), "{{service}} {{name}} {{kind}}"),
        unit="cps",
    ),
    graph(
        "Time to the first token",
        "95th percentile: 19 of 20 generations began sooner.",
        Query(quantile(0.95, "search_agent_generator_first_token_seconds", "service", "name"), "{{service}} {{name}}"),
        unit="s",
    ),
    stack(
        "Finish reasons",
        "Generations a second by why they ended; many at length mean a limit that is too low.",
        Query(
            rate("search_agent_generator_finished_total", "service", "name", "reason"),
            "{{service}} {{name}} {{reason}}",
        ),
    ),
]

DASHBOARD = dashboard(
    "search-agent",
    "Search agent",
    "now-30m",
    choice("method", "search_agent_questions_total"),
    {
        "": _STATE,
        "Objectives": _OBJECTIVES,
        "Questions": _QUESTIONS,
        "Gain in production": _SHADOW,
        "Failures and cache": _FAILURES,
        "Admission": _ADMISSION,
        "Services": _SERVICES,
        "Retriever": _RETRIEVER,
        "Searcher and generator": _MODELS,
    },
)
