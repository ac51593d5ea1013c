FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="search-agent generator" \
      org.opencontainers.image.description="one language model, as searcher or as generator" \
      org.opencontainers.image.licenses="Apache-2.0"

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /app
# "generator-gpu" has vLLM instead of llama.cpp. llama.cpp's wheel expects the system's OpenMP; vLLM needs a C compiler
# at its start.
ARG LOCK=generator
RUN apt-get update && \
    if [ "$LOCK" = generator-gpu ]; then set -- gcc g++ libc6-dev; else set -- libgomp1; fi && \
    apt-get install -y --no-install-recommends "$@" && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --home-dir /app --no-create-home app
COPY requirements/$LOCK.txt requirements.txt
# The lock is complete and hashed; a package without a wheel would need a compiler, so it is an error.
RUN python3 -m pip install --no-cache-dir --no-deps --only-binary :all: -r requirements.txt
COPY data/demo/adapters /usr/share/search-agent/adapters
COPY contracts contracts
COPY search_agent search_agent
COPY services/__init__.py services/__init__.py
COPY common common
COPY services/generator services/generator
COPY cli/__init__.py cli/problems.py cli/base_model.py cli/
# the embedded model in the format that vLLM reads
RUN if [ "$LOCK" = generator-gpu ]; then \
        python3 -m cli.base_model /usr/share/search-agent/models/smollm2-135m-instruct && \
        chmod -R a+rX /usr/share/search-agent/models; \
    fi
RUN install -d -o app /var/lib/search-agent/state /var/cache/search-agent

USER app
ENV GENERATOR_FOLDERS=/usr/share/search-agent,/var/lib/search-agent/runs
ENV GENERATOR_HOST=0.0.0.0 GENERATOR_PORT=50053 GENERATOR_METRICS_PORT=9103
EXPOSE 50053 9103
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD python3 -m common.healthcheck "127.0.0.1:$GENERATOR_PORT"
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "services.generator"]
