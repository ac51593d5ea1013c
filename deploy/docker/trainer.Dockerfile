FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="search-agent trainer" \
      org.opencontainers.image.description="training runs, and promotion of their checkpoints; training itself runs on a Ray cluster" \
      org.opencontainers.image.licenses="Apache-2.0"

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /app
# libgomp1: llama.cpp's wheel expects the system's OpenMP.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --home-dir /app --no-create-home app
COPY requirements/trainer.txt requirements.txt
# The lock is complete and hashed; a package without a wheel would need a compiler, so it is an error.
RUN python3 -m pip install --no-cache-dir --no-deps --only-binary :all: -r requirements.txt
RUN install -d -o app /var/lib/search-agent/runs
ENV TRAINER_RUNS=/var/lib/search-agent/runs TRAINER_FOLDERS=/usr/share/search-agent
COPY contracts contracts
COPY search_agent search_agent
COPY services/__init__.py services/__init__.py
COPY common common
COPY evaluation evaluation
COPY services/generator services/generator
COPY services/trainer services/trainer
COPY data/demo/qa_*.jsonl.gz data/demo/
COPY data/demo/adapters/searcher/search_agent.json data/demo/adapters/searcher/
COPY data/universe/qa_*.jsonl.gz data/universe/

USER app
ENV TRAINER_HOST=0.0.0.0 TRAINER_PORT=50054 TRAINER_METRICS_PORT=9104
EXPOSE 50054 9104
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD python3 -m common.healthcheck "127.0.0.1:$TRAINER_PORT"
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "services.trainer"]
