FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="search-agent retriever" \
      org.opencontainers.image.description="search over passages (E5 + FAISS, BM25)" \
      org.opencontainers.image.licenses="Apache-2.0"

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /app
RUN useradd --uid 10001 --home-dir /app --no-create-home app && install -d -o app /var/cache/search-agent
# "retriever-lucene" adds Lucene for BM25 and the Java that runs it; "retriever-gpu" has torch and FAISS for GPUs.
ARG LOCK=retriever
RUN if [ "$LOCK" = retriever-lucene ]; then \
        apt-get update -qq && mkdir -p /usr/share/man/man1 && \
        apt-get install -y -qq --no-install-recommends default-jre-headless && rm -rf /var/lib/apt/lists/*; \
    fi
ENV JAVA_HOME=/usr/lib/jvm/default-java
COPY requirements/$LOCK.txt requirements.txt
# The lock is complete and hashed; a package without a wheel would need a compiler, so it is an error.
RUN python3 -m pip install --no-cache-dir --no-deps --only-binary :all: -r requirements.txt
COPY --chown=app data/demo/indexes /var/lib/search-agent/indexes
RUN install -d -o app /var/lib/search-agent/changing
ENV RETRIEVER_INDEXES=/var/lib/search-agent/indexes RETRIEVER_WRITABLE=/var/lib/search-agent/changing
COPY contracts contracts
COPY search_agent search_agent
COPY services/__init__.py services/__init__.py
COPY common common
COPY services/retriever services/retriever
# search-agent index
COPY cli cli

USER app
ENV RETRIEVER_HOST=0.0.0.0 RETRIEVER_PORT=50051 RETRIEVER_METRICS_PORT=9101
EXPOSE 50051 9101
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD python3 -m common.healthcheck "127.0.0.1:$RETRIEVER_PORT"
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "services.retriever"]
