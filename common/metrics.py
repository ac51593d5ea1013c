"""Every metric of every service: names, labels and meanings in one place."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

# gRPC servers
RPC_SECONDS = Histogram(
    "search_agent_rpc_seconds", "Time to serve a gRPC call", ["service", "method", "code"], buckets=_SECONDS
)
RPC_IN_FLIGHT = Gauge("search_agent_rpc_in_flight", "gRPC calls being served", ["service"])

# gRPC clients
BREAKER = Gauge(
    "search_agent_breaker",
    "A backend's circuit breaker: 0 closed, 1 half open, 2 open (not called). generator/reader#2 is the "
    "second of several services that hold a model",
    ["backend"],
)

# Retriever
RETRIEVER_BATCH_QUERIES = Histogram(
    "search_agent_retriever_batch_queries",
    "Queries merged into one encode and one search",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
RETRIEVER_STAGE_SECONDS = Histogram(
    "search_agent_retriever_stage_seconds",
    "Time of one merged batch by stage: encode, dense, bm25, passages, rerank",
    ["stage"],
    buckets=_SECONDS,
)
RETRIEVER_QUEUED_QUERIES = Gauge("search_agent_retriever_queued_queries", "Queries waiting for a batch")
RETRIEVER_INDEX_PASSAGES = Gauge(
    "search_agent_retriever_index_passages", "Passages of a served index", ["index", "version"]
)
RETRIEVER_BUILDING = Gauge("search_agent_retriever_building", "Indexes whose changes are being built")
RETRIEVER_BUILD_SECONDS = Histogram(
    "search_agent_retriever_build_seconds",
    "Time to build the waiting changes into a version, by outcome: built, failed",
    ["outcome"],
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 10800),
)
RETRIEVER_ENCODED_PASSAGES = Counter(
    "search_agent_retriever_encoded_passages_total", "Passages encoded by builds of changes"
)
RETRIEVER_SOURCE_UP = Gauge(
    "search_agent_retriever_source_up", "An index that is a server: 1 if it answered its last search", ["index"]
)

# Generator (searcher and generator). `name` is the model's name in its service.
GENERATOR_TOKENS = Counter(
    "search_agent_generator_tokens_total", "Tokens read (prompt) and written (completion)", ["name", "kind"]
)
GENERATOR_FINISHED = Counter(
    "search_agent_generator_finished_total",
    "Generations by finish reason: stop, length, cancelled",
    ["name", "reason"],
)
GENERATOR_FIRST_TOKEN_SECONDS = Histogram(
    "search_agent_generator_first_token_seconds", "Time to the first piece of text", ["name"], buckets=_SECONDS
)
GENERATOR_MODEL = Gauge(
    "search_agent_generator_model_info", "The served models by name, value 1", ["name", "model", "engine"]
)

# Gateway
HTTP_SECONDS = Histogram(
    "search_agent_http_seconds", "Time to serve an HTTP request", ["route", "status"], buckets=_SECONDS
)
HTTP_IN_FLIGHT = Gauge("search_agent_http_in_flight", "Questions being answered")
ADMISSIONS = Counter(
    "search_agent_admissions_total",
    "Requests by kind of work (a method, retrieve, embed) and outcome: admitted; refused until there is room; hopeless "
    "in the time they have; shared with the same question in progress",
    ["work", "outcome"],
)
ADMISSION_AT_ONCE = Gauge(
    "search_agent_admission_at_once", "Requests that may be in progress for one more to finish in time", ["work"]
)
ADMISSION_WAIT_SECONDS = Gauge(
    "search_agent_admission_wait_seconds",
    "Time after which the last refused request was told to return; 0 once a request is admitted",
    ["work"],
)
AGENT_FAILURES = Counter(
    "search_agent_failures_total", "Failed backend calls, each counted once", ["boundary", "failure"]
)
AGENT_QUESTIONS = Counter(
    "search_agent_questions_total", "Questions by method and stop reason", ["method", "stop_reason"]
)
AGENT_STAGE_SECONDS = Histogram(
    "search_agent_stage_seconds",
    "Time of a question by stage: total, retrieve, search, generate",
    ["method", "stage"],
    buckets=_SECONDS,
)
AGENT_SEARCHES = Histogram(
    "search_agent_searches", "Retrievals per question", ["method"], buckets=(0, 1, 2, 3, 4, 5, 8)
)
AGENT_DOCUMENTS = Histogram(
    "search_agent_documents", "Passages kept per question", ["method"], buckets=(0, 1, 2, 3, 4, 6, 9, 12)
)
AGENT_INVALID_TURNS = Counter("search_agent_invalid_turns_total", "Malformed searcher turns", ["method"])
AGENT_REWRITTEN_TURNS = Counter(
    "search_agent_rewritten_turns_total", "Searcher turns written freely, then again under the grammar", ["method"]
)
AGENT_DROPPED_PASSAGES = Counter(
    "search_agent_dropped_passages_total", "Passages that the guard withheld from the models", ["method"]
)
CACHE_LOOKUPS = Counter(
    "search_agent_cache_lookups_total", "Naive-RAG cache look-ups: hit, miss, unavailable", ["result"]
)
SHADOW_QUESTIONS = Counter(
    "search_agent_shadow_questions_total",
    "Questions drawn for naive RAG to answer too, by whose answer the judge finds right: both, only_method, "
    "only_naive_rag, neither; or dropped for lack of room, capped by the daily tokens, failed",
    ["method", "outcome"],
)
SHADOW_TOKENS = Counter(
    "search_agent_shadow_tokens_total",
    "Tokens of shadow RAG's finished answers (naive_rag) and of their judgements (judge)",
    ["by"],
)

# Trainer
TRAINER_RUNS = Gauge("search_agent_trainer_runs", "Known training runs by state", ["state"])
TRAINING_STEP = Gauge("search_agent_training_step", "The last step that a run has finished", ["run"])
TRAINING_REWARD = Gauge(
    "search_agent_training_reward",
    "Mean over a step's samples by part: reward, gain, accuracy, rag_accuracy, penalty; of gold passages, coverage "
    "(the share kept), all_kept and all_seen",
    ["run", "part"],
)
TRAINING_CONDUCT = Gauge(
    "search_agent_training_conduct",
    "Mean over a step's samples: searches, selected, malformed, repeated, wasted and tokens are counts; "
    "everything, copied and idle are shares",
    ["run", "what"],
)
TRAINING_SAMPLES = Gauge(
    "search_agent_training_samples",
    "Samples of a step that are not trained on: dropped, dropped_by_BOUNDARY, and lonely (without siblings)",
    ["run", "what"],
)
TRAINING_POLICY = Gauge(
    "search_agent_training_policy",
    "The optimisation: entropy of a token and choice_entropy of the first choice in nats, mixed_groups and "
    "mixed_searches (shares of questions whose samples differ in reward, in number of searches), kl_to_base, "
    "kl_of_update, clipped, loss, gradient_norm, learning_rate, critic_…",
    ["run", "what"],
)
TRAINING_SECONDS = Gauge(
    "search_agent_training_seconds", "Time of a step by phase, as verl names it; step is the total", ["run", "phase"]
)
TRAINING_GPU = Gauge(
    "search_agent_training_gpu",
    "GPU use: share_of_peak_flops, allocated_gb, reserved_gb, tokens_per_second",
    ["run", "what"],
)
TRAINING_VALIDATION = Gauge(
    "search_agent_training_validation", "Mean over the validation questions by part", ["run", "part"]
)
