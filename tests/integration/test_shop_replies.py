"""The example's scripted replies, node by node: they must work in whichever order the nodes run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.jobs import ENVIRON, make_job

from agentflow.environment import Outcome, PlainEnvironment
from agentflow.errors import ProviderError
from agentflow.runners.openai_agent import OpenAIRunner
from agentflow.runners.scripted import load_script
from agentflow.runners.scripted_server import ScriptedServer

SHOP = Path(__file__).parents[2] / "examples" / "shop"
TOLD_OF_CONFLICT = 'FEATURES was changed by another node.\n-FEATURES = ("catalogue",)'


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(load_script(SHOP / "replies.yaml")) as started:
        yield started


class Shop:
    """The example in a directory, and what its nodes have handed over."""

    def __init__(self, tmp_path: Path, server: ScriptedServer) -> None:
        self.tmp_path = tmp_path
        self.server = server
        self.root = tmp_path / "shop"
        shutil.copytree(SHOP, self.root)
        spec = yaml.safe_load((SHOP / "feature.yaml").read_text())
        self.env = {**ENVIRON, **spec["env"], "PYTHONDONTWRITEBYTECODE": "1"}
        self.setup = spec["setup"]["commands"]
        self.validate = spec["validate"]
        self.tasks = {task["id"]: task for task in spec["tasks"]}
        self.texts: dict[str, str] = {}

    def command(self, text: str, root: Path | None = None) -> subprocess.CompletedProcess[str]:
        argv = [word.replace("{python}", sys.executable) for word in text.split()]
        return subprocess.run(
            argv, cwd=root or self.root, env=self.env, capture_output=True, text=True, check=False
        )

    def work(self, node: str, *, root: Path | None = None, without: str = "", **sections: str) -> Outcome:
        """One attempt of a node, with the prompt that an attempt gets."""
        task = self.tasks[node]
        told = {n: self.texts[n] for n in task.get("needs", ()) if n != without}
        prompt = f"# Your task ({node}, role {task['role']})\n\n{task['prompt']}\n\n"
        prompt += "# From the nodes you depend on\n\n" + "\n".join(told.values())
        prompt += "".join(f"\n\n# {title}\n\n{text}" for title, text in sections.items())
        facts: dict[str, Any] = {
            "prompt": prompt,
            "workspace": root or self.root,
            "output": task.get("output", "change"),
            "artifacts": tuple(task.get("artifacts", ())),
        }
        job = make_job(self.tmp_path, {"model": "scripted", "base_url": self.server.url}, **facts)
        outcome = OpenAIRunner().run(job, PlainEnvironment(job.workspace))
        assert "error: " not in job.log.read_text()
        self.texts[node] = outcome.handoff
        return outcome

    def accept(self, node: str, root: Path | None = None) -> subprocess.CompletedProcess[str]:
        (command,) = self.tasks[node]["acceptance"]
        return self.command(command, root)


@pytest.fixture
def shop(tmp_path: Path, server: ScriptedServer) -> Shop:
    shop = Shop(tmp_path, server)
    for command in shop.setup:
        assert shop.command(command).returncode == 0
    return shop


def test_there_are_seven_tasks_and_no_task_is_done_on_the_base(shop: Shop) -> None:
    assert len(shop.tasks) == 7
    for node, task in shop.tasks.items():
        if task.get("expect") != "none":
            assert shop.accept(node).returncode == 1, node


def test_without_the_set_up_everything_is_red(shop: Shop) -> None:
    assert shop.command("{python} -m pytest -q tests/test_catalogue.py").returncode == 0
    shutil.rmtree(shop.root / ".prepared")
    done = shop.command("{python} -m pytest -q tests/test_catalogue.py")
    assert "the set-up did not run" in done.stdout
    for _ in range(2):
        shop.command(shop.setup[0])
    assert "more than once" in shop.command("{python} -m pytest -q tests/test_catalogue.py").stdout


@pytest.mark.parametrize(
    ("pricing", "features"),
    [(["discounts", "taxes"], ["cart", "receipt"]), (["taxes", "discounts"], ["receipt", "cart"])],
)
def test_the_feature_comes_out_in_either_order(shop: Shop, pricing: list[str], features: list[str]) -> None:
    assert shop.work("survey").verdict == "approve"
    for node in pricing:
        shop.work(node)
        assert shop.accept(node).returncode == 0, node

    before = (shop.root / "shop/money.py").read_text()
    shop.work("money")
    red = shop.accept("money")
    assert red.returncode == 1
    (shop.root / "shop/money.py").write_text(before)
    shop.work("money", **{"Your previous attempt failed": red.stdout})
    assert shop.accept("money").returncode == 0

    first, later = features
    apart = shop.tmp_path / "apart"
    shutil.copytree(shop.root, apart)
    shop.work(first)
    assert shop.accept(first).returncode == 0
    shop.work(later, root=apart)
    assert shop.accept(later, apart).returncode == 0
    shop.work(later, **{"Another node changed the same lines": TOLD_OF_CONFLICT})
    assert shop.accept(later).returncode == 0

    shop.work("checkout")
    assert shop.command(shop.validate[0]).returncode == 0


def test_a_second_attempt_that_is_not_told_is_wrong_again(shop: Shop) -> None:
    shop.work("survey")
    shop.work("money", **{"Your previous attempt failed": "It was red."})
    assert shop.accept("money").returncode == 1


@pytest.mark.parametrize(
    ("node", "giver"),
    [
        ("money", "survey"),
        ("discounts", "survey"),
        ("cart", "money"),
        ("cart", "discounts"),
        ("receipt", "money"),
        ("receipt", "taxes"),
        ("checkout", "cart"),
        ("checkout", "receipt"),
    ],
)
def test_a_dependent_is_answered_only_if_it_is_told(
    tmp_path: Path, server: ScriptedServer, node: str, giver: str
) -> None:
    shop = Shop(tmp_path, server)
    script = server.script
    finishes = {
        rule.name.partition(",")[0]: call["finish"]["handoff"]
        for rule in reversed(script.replies)
        for turn in rule.turns
        for call in turn.calls
        if "finish" in call
    }
    shop.texts = dict(finishes)
    with pytest.raises(ProviderError, match="refused the request"):
        shop.work(node, without=giver)
