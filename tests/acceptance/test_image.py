"""The image, built for real, and what runs in it: two containers that have a Redis in common do a run.

Slow, and only where buildah may work (root). The base is made of Debian's packages, as no registry need be
there. `BASE_CA` and `PIP_CONF` of the environment go to the build.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers.cli import git, repository
from helpers.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]
TAG = "agentflow-worker-test"
MAX_MB = 400
SPEC = """\
feature: In the image
tasks:
  - {id: one, role: backend, prompt: x, artifacts: [one.txt], runner: {command: [sh, -c, 'id -u > one.txt']}}
  - {id: two, role: docs, prompt: x, needs: [one], artifacts: [two.txt], acceptance: [test -s two.txt],
     runner: {command: [cp, one.txt, two.txt]}}
validate: [test -s two.txt]
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not all(map(shutil.which, ("buildah", "mmdebstrap", "redis-server"))) or os.geteuid() != 0,
        reason="needs root, buildah, mmdebstrap and redis-server",
    ),
]


def buildah(*words: str) -> str:
    done = subprocess.run(["buildah", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"buildah {words}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The image; the one that was built is taken away again."""
    done = subprocess.run(
        [ROOT / "deploy" / "build-image", TAG], env={**os.environ, "BASE": "debian"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    yield TAG
    buildah("rmi", "--force", TAG)


@pytest.fixture
def containers(image: str) -> Iterator[list[str]]:
    """A worker's and a submitter's."""
    made = [buildah("from", image) for _ in range(2)]
    yield made
    for one in made:
        buildah("rm", one)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A Redis with a password on a port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--requirepass", "word", "--dir", str(tmp_path), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    yield f"redis://:word@127.0.0.1:{port}/0"
    server.terminate()
    server.wait()


def words(container: str, url: str, *command: str, volume: Path | None = None) -> list[str]:
    """A command in a container, as `docker run` would start it."""
    mount = ["--volume", f"{volume}:/project", "--workingdir", "/project"] if volume else []
    return [
        "buildah", "run", "--isolation", "chroot", "--env", f"AGENTFLOW_REDIS_URL={url}", *mount, container,
        "--", *command,
    ]  # fmt: skip


def test_it_is_small_and_says_how_it_is_run(image):
    (size,) = re.findall(r"([\d.]+) MB", buildah("images", "--format", "{{.Size}}", image))
    assert float(size) < MAX_MB
    config = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["tini", "--", "agentflow", "worker"]
    assert config["Healthcheck"]["Test"] == ["CMD", "agentflow", "health"]
    assert config["StopSignal"] == "SIGTERM"


def test_two_containers_do_a_run(containers, url, tmp_path):
    worker, submitter = containers
    project = repository(tmp_path / "project", {"feature.yaml": SPEC})
    subprocess.run(["chown", "-R", "10001:10001", project], check=True)
    log = tmp_path / "worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            words(worker, url, "tini", "--", "agentflow", "worker", "--slots", "4"), stdout=out, stderr=out
        )
    try:

        def health(container: str) -> int:
            return subprocess.run(
                words(container, url, "agentflow", "health"), capture_output=True, check=False
            ).returncode

        assert health(submitter) == 1
        wait_until(lambda: health(worker) == 0, timeout=60)
        done = subprocess.run(
            words(submitter, url, "agentflow", "run", "feature.yaml", volume=project),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
        subprocess.run(["chown", "-R", "0:0", project], check=True)
        assert git(project, "show", "agentflow/in-the-image:two.txt") == "10001\n"
    finally:
        (tini,) = _children_named(process.pid, "tini")
        os.kill(tini, 15)
        process.wait(60)
    assert "Warm shutdown" in log.read_text()


def _children_named(pid: int, name: str) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True) if child.name() == name]
