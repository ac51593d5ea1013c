FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="search-agent trainer-gpu" \
      org.opencontainers.image.description="a node of the Ray cluster that trains: verl, with vLLM for its rollouts" \
      org.opencontainers.image.licenses="Apache-2.0"

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /app
# Triton and vLLM need a C compiler at their start.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --home-dir /app --no-create-home app
COPY requirements/trainer-gpu.txt requirements.txt
# The lock is complete and hashed; a package without a wheel would need a compiler, so it is an error. There are two
# layers, torch with CUDA and the rest, because a layer takes twice its size on disk while it is written.
RUN awk '/^[a-z]/ { first = /^(cuda|nvidia|setuptools|torch|triton)/ } first' requirements.txt >first.txt && \
    python3 -m pip install --no-cache-dir --no-deps --only-binary :all: -r first.txt && rm first.txt
# antlr4's runtime has no wheel, only Python source; the lock's setuptools builds one.
RUN python3 -m pip install --no-cache-dir --no-deps --only-binary :all: --no-binary antlr4-python3-runtime \
    --no-build-isolation -r requirements.txt
COPY data/demo/adapters /usr/share/search-agent/adapters
COPY contracts contracts
COPY search_agent search_agent
COPY services/__init__.py services/__init__.py
COPY common common
COPY evaluation evaluation
COPY services/generator services/generator
COPY cli/__init__.py cli/problems.py cli/base_model.py cli/
COPY learning learning
COPY data/demo/qa_*.jsonl.gz data/demo/
COPY data/universe/qa_*.jsonl.gz data/universe/
# the embedded model in the format that verl and vLLM read
RUN python3 -m cli.base_model /usr/share/search-agent/models/smollm2-135m-instruct && \
    chmod -R a+rX /usr/share/search-agent/models
RUN install -d -o app /var/lib/search-agent/runs /var/cache/search-agent

USER app
EXPOSE 6379 8265
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8265/api/version', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["ray", "start", "--block"]
CMD ["--head", "--dashboard-host=0.0.0.0"]
