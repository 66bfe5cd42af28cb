# A worker, and Flower: agentflow as an unprivileged user, nothing of its development tools. From the top of
# the project:
#   docker build -f workers.Dockerfile -t agentflow-worker .
#   docker run -e AGENTFLOW_REDIS_URL=redis://HOST:6379/0 agentflow-worker --roles backend,docs --slots 32
# BASE is anything of Debian's kind with python3 (3.11 or newer, with venv); `deploy/build-image` makes one
# where no registry can be reached. Agents that are programs (codex, claude) and the tools that a project's
# tests need are not in it: put them on top, `FROM agentflow-worker`.
ARG BASE=python:3.12.11-slim-bookworm

FROM ${BASE} AS build
SHELL ["/bin/sh", "-eu", "-c"]
WORKDIR /src
# A pip.conf for an index or a certificate of your own: `--secret id=pip,src=pip.conf`; it stays out of the image.
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/agentflow
COPY requirements.lock pyproject.toml README.md CHANGELOG.md LICENSE celeryconfig.py flowerconfig.py ./
COPY deploy/runtime_lock.py deploy/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 deploy/runtime_lock.py requirements.lock pyproject.toml hatchling > runtime.lock \
    && /opt/tools/bin/pip --python /opt/agentflow/bin/python install \
        --no-cache-dir --disable-pip-version-check --require-hashes --requirement runtime.lock
COPY agentflow agentflow
COPY examples examples
RUN /opt/tools/bin/pip --python /opt/agentflow/bin/python install \
        --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
    && /opt/tools/bin/pip --python /opt/agentflow/bin/python uninstall --yes --quiet \
        hatchling trove-classifiers pathspec

FROM ${BASE}
# TLS uses the trust store of the system; git must be 2.38 or newer; tini reaps what agents leave behind.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git tini \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin \
    && useradd --uid 10001 --user-group --create-home agentflow \
    && install --directory --owner 10001 --group 10001 --mode 0700 /data
COPY --from=build /opt/agentflow /opt/agentflow
ENV PATH=/opt/agentflow/bin:$PATH AGENTFLOW_HOME=/data PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
VOLUME /data

# Warm shutdown: the worker gives running attempts AGENTFLOW_GRACE_S, then releases them.
STOPSIGNAL SIGTERM
# By progress: a process that lives but renews no lease or takes no message is not healthy.
HEALTHCHECK --interval=30s --timeout=20s --start-period=30s --retries=3 \
    CMD ["agentflow", "health"]
ENTRYPOINT ["tini", "--", "agentflow", "worker"]
