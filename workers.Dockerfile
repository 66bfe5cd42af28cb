# A worker: `celery -A agentflow worker` as an unprivileged user. Build it from the top of the project:
#   docker build -f workers.Dockerfile -t agentflow-worker .
#   docker run -e AGENTFLOW_REDIS_URL=redis://HOST:6379/0 agentflow-worker -Q backend,docs -c 32
# Work does not travel through Redis yet: until then a worker has to see the submitter's repository and
# data directory (AGENTFLOW_HOME) under the same paths.
FROM python:3.12-slim

# TLS uses the trust store of the system; git must be 2.38 or newer. The base image decides their versions.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/agentflow
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md CHANGELOG.md LICENSE celeryconfig.py ./
COPY agentflow agentflow
COPY examples examples
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

RUN useradd --uid 10001 --user-group --create-home agentflow \
    && install --directory --owner 10001 --group 10001 --mode 0700 /data
USER 10001:10001
WORKDIR /data
ENV AGENTFLOW_HOME=/data PYTHONUNBUFFERED=1
VOLUME /data

# Warm shutdown: the worker gives running attempts their grace period, then releases them.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=15s --start-period=20s --retries=3 \
    CMD ["sh", "-c", "celery -A agentflow inspect ping --timeout 10 --destination celery@$(hostname)"]
ENTRYPOINT ["celery", "-A", "agentflow", "worker", "--loglevel", "INFO"]
