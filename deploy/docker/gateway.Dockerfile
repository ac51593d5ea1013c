FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="search-agent gateway" \
      org.opencontainers.image.description="the public REST API" \
      org.opencontainers.image.licenses="Apache-2.0"

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /app
RUN useradd --uid 10001 --home-dir /app --no-create-home app
COPY requirements/gateway.txt requirements.txt
# The lock is complete and hashed; a package without a wheel would need a compiler, so it is an error.
RUN python3 -m pip install --no-cache-dir --no-deps --only-binary :all: -r requirements.txt
COPY contracts contracts
COPY search_agent search_agent
COPY services/__init__.py services/__init__.py
COPY common common
COPY services/gateway services/gateway
COPY cli cli

USER app
ENV GATEWAY_HOST=0.0.0.0 GATEWAY_PORT=8080
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['GATEWAY_PORT'] + '/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "services.gateway"]
