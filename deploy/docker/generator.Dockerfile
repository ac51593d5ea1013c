FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="search-agent generator" \
      org.opencontainers.image.description="one language model, as searcher or as generator" \
      org.opencontainers.image.licenses="Apache-2.0"

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /app
# libgomp1: llama.cpp's wheel expects the system's OpenMP.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --home-dir /app --no-create-home app
COPY requirements/generator.txt requirements.txt
# The lock is complete and hashed; a package without a wheel would need a compiler, so it is an error.
RUN python3 -m pip install --no-cache-dir --no-deps --only-binary :all: -r requirements.txt
COPY data/demo/adapters /usr/share/search-agent/adapters
COPY contracts contracts
COPY search_agent search_agent
COPY services/__init__.py services/__init__.py
COPY services/common services/common
COPY services/generator services/generator

RUN install -d -o app /var/lib/search-agent/state

USER app
ENV GENERATOR_HOST=0.0.0.0 GENERATOR_PORT=50053 GENERATOR_METRICS_PORT=9103
EXPOSE 50053 9103
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD python3 -m services.common.healthcheck "127.0.0.1:$GENERATOR_PORT"
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "services.generator"]
