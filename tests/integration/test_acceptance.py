"""Acceptance cannot be talked into green: real pytest in real checkouts."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

import pytest
from helpers.stores import environ, make_bench

from agentflow.environment import Stop
from agentflow.errors import AttemptCancelled, AttemptError, AttemptTimeout
from agentflow.workspace import acceptance

PYTEST = ("{python}", "-m", "pytest", "-q")
TESTS = """\
from shop import price

def test_price():
    assert price(2) == 4

def test_zero():
    assert price(0) == 0
"""
GREEN = {"shop.py": "def price(n):\n    return n * 2\n", "test_shop.py": TESTS}
RED = {"shop.py": "def price(n):\n    return 0\n"}


@dataclass(frozen=True)
class Setup:
    commands: tuple[tuple[str, ...], ...]
    key: tuple[str, ...] = ()
    keep: tuple[str, ...] = field(default=("kept",))


@pytest.fixture
def bench(tmp_path):
    return make_bench(tmp_path, GREEN | {"data.txt": "1\n", ".gitignore": "ignored.py\n__pycache__/\n"})


@pytest.fixture
def judge(bench, tmp_path):
    """Judge a commit, or files on top of the base, with the options of `acceptance.judge`."""

    def call(what, *, base="", commands=(PYTEST,), expect="green", **options):
        commit = what if isinstance(what, str) else bench.commit(what, base=base)
        terms = {
            "setup": None,
            "env": environ(AGENTFLOW_NODE="node-1"),
            "data_dir": tmp_path / "data",
            "scratch": tmp_path / "scratch",
            "deadline": time.monotonic() + 60,
            "stop": Stop(),
            "cache": tmp_path / "verdicts",
        }
        verdict = acceptance.judge(
            bench.store,
            commit=commit,
            base=base or bench.base,
            commands=commands,
            expect=expect,
            **(terms | options),
        )
        assert not (tmp_path / "scratch").exists()
        return verdict

    return call


def test_green_counts_its_tests(judge):
    verdict = judge({"shop.py": "def price(n):\n    return n + n\n"})
    assert (verdict.ok, dict(verdict.tests)) == (True, {"passed": 2})


def test_red_says_which_command_and_shows_the_assertion(judge):
    verdict = judge(RED)
    assert not verdict.ok
    assert "ended with exit code 1, 1 of 2 tests failed" in verdict.reason
    assert "assert 0 == 4" in verdict.output


def test_an_ignored_file_does_not_help(judge):
    verdict = judge({"shop.py": "from ignored import price\n", "ignored.py": GREEN["shop.py"]})
    assert not verdict.ok
    assert "No module named 'ignored'" in verdict.output


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"conftest.py": "import os\nos._exit(0)\n"}, "left no report"),
        ({"shop.py": "import os\nos._exit(0)\n"}, "left no report"),
        (RED | {"conftest.py": "def pytest_sessionfinish(session):\n    session.exitstatus = 0\n"}, "but"),
        ({"pytest.ini": "[pytest]\naddopts = --collect-only\n"}, "ran no test"),
        ({"pytest.ini": "[pytest]\naddopts = -p no:junitxml\n"}, "left no report"),
        (
            {"test_shop.py": TESTS.replace("def test_zero", "def zero")},
            "tests were lost: test_shop.py::test_shop::test_zero",
        ),
        (
            {
                "test_shop.py": "import pytest\n"
                + TESTS.replace("def test_zero", "@pytest.mark.skip\ndef test_zero")
            },
            "are skipped now",
        ),
        (
            {
                "test_shop.py": "import pytest\n"
                + TESTS.replace("def test_zero", "@pytest.mark.xfail\ndef test_zero").replace("== 0", "== 1")
            },
            "are skipped now",
        ),
        ({"test_shop.py": "def test_other():\n    pass\n"}, "tests were lost"),
    ],
    ids=[
        "conftest exits",
        "code exits",
        "sessionfinish",
        "collect-only",
        "no junit",
        "lost",
        "skipped",
        "xfail",
        "replaced",
    ],
)
def test_ways_around_a_test_run(judge, files, said):
    verdict = judge(files)
    assert not verdict.ok
    assert said in verdict.reason


def test_new_tests_and_new_files_are_welcome(judge):
    assert judge({"test_more.py": "def test_more():\n    pass\n"}).tests == {"passed": 3}
    assert judge(
        {"tests/test_new.py": "def test_n():\n    pass\n"}, commands=[(*PYTEST, "tests/test_new.py")]
    ).ok


def test_red_then_green(judge, bench):
    broken = bench.commit(RED)
    assert judge({"shop.py": GREEN["shop.py"]}, base=broken, expect="red_then_green").ok
    proves_nothing = judge({"data.txt": "2\n"}, expect="red_then_green")
    assert not proves_nothing.ok
    assert "green on the base already" in proves_nothing.reason
    still_red = judge({"data.txt": "2\n"}, base=broken, expect="red_then_green")
    assert "1 of 2 tests failed" in still_red.reason
    skipping = {
        "test_shop.py": "import pytest\n"
        + TESTS.replace("def test_price", "@pytest.mark.skip\ndef test_price")
    }
    assert "are skipped now" in judge(skipping, base=broken, expect="red_then_green").reason


def test_a_base_that_cannot_even_be_collected(judge, bench):
    broken = bench.commit({"shop.py": "syntax error here\n"})
    assert judge({"shop.py": GREEN["shop.py"]}, base=broken, expect="red_then_green").ok
    assert judge({"shop.py": GREEN["shop.py"]}, base=broken).ok


def test_none_judges_nothing(judge):
    assert judge(RED, expect="none").ok
    assert judge(RED, commands=()).ok


def test_commands_that_are_not_pytest_go_by_their_exit_code(judge):
    assert judge(
        {"data.txt": "2\n"}, commands=[("grep", "-q", "2", "data.txt"), ("sh", "-c", "test {task} = node-1")]
    ).ok
    verdict = judge({"data.txt": "2\n"}, commands=[("true",), ("sh", "-c", "echo why; exit 3")])
    assert (verdict.ok, verdict.output) == (False, "why\n")
    assert "exit code 3" in verdict.reason
    assert "exit code 127" in judge({"data.txt": "3\n"}, commands=[("no-such-program",)]).reason


def test_workspace_and_python_are_filled_in(judge):
    assert judge(
        {"data.txt": "2\n"}, commands=[("test", "-e", "{workspace}/data.txt"), ("{python}", "-c", "pass")]
    ).ok


def test_a_users_own_pytest_options_stay(judge):
    env = environ(PYTEST_ADDOPTS="-k price")
    assert judge({"data.txt": "2\n"}, env=env).tests == {"passed": 1}


def counting(tmp_path):
    """A command that leaves a line each time it runs, and the number of lines."""
    mark = tmp_path / "runs"
    return ("sh", "-c", f"echo x >> {mark}; grep -q good data.txt"), lambda: len(mark.read_text().split())


def test_a_red_verdict_is_cached_by_tree_and_command_a_green_one_runs_again(judge, bench, tmp_path):
    command, runs = counting(tmp_path)
    red = [bench.commit({"data.txt": "bad\n"}, message=m) for m in ("one", "two")]
    assert [judge(c, commands=[command]).ok for c in red] == [False, False]
    assert runs() == 1
    good = bench.commit({"data.txt": "good\n"})
    assert [judge(good, commands=[command]).ok for _ in range(2)] == [True, True]
    assert runs() == 3
    assert not judge(red[0], commands=[command], cache=tmp_path / "next-generation").ok
    assert runs() == 4


def test_the_base_is_tried_once(judge, bench, tmp_path):
    mark = tmp_path / "runs"
    base = bench.commit({"conftest.py": f"open({str(mark)!r}, 'a').write('x')\n"})
    for text in "abc":
        assert judge({"data.txt": text}, base=base).ok
    assert len(mark.read_text()) == 4


def test_a_test_that_hangs_ends_at_the_deadline_and_is_not_cached(judge, tmp_path):
    with pytest.raises(AttemptTimeout) as caught:
        judge(
            {"test_shop.py": "import time\ndef test_zero():\n    time.sleep(600)\n"},
            deadline=time.monotonic() + 1.5,
        )
    assert "did not end" in caught.value.what
    assert not list((tmp_path / "verdicts").glob("*.json"))


def test_a_stop_is_a_cancel(judge):
    stop = Stop()
    stop.set("cancelled")
    with pytest.raises(AttemptCancelled):
        judge({"data.txt": "2\n"}, stop=stop)


def test_the_log_names_the_commands(judge, tmp_path):
    judge({"data.txt": "2\n"}, commands=[("echo", "hello")], log=tmp_path / "logs" / "log")
    assert (tmp_path / "logs" / "log").read_text() == "$ echo hello\nhello\n"


def test_the_setup_is_there_and_made_once(judge, tmp_path):
    count = tmp_path / "count"
    setup = Setup(commands=(("sh", "-c", f"echo x >> {count}; mkdir kept; echo 7 > kept/n"),))
    for text in "ab":
        assert judge({"data.txt": text}, commands=[("grep", "-q", "7", "kept/n")], setup=setup).ok
    assert count.read_text() == "x\n"


def test_a_setup_that_fails_is_said_with_its_output(judge):
    with pytest.raises(AttemptError, match="setup failed") as caught:
        judge({"data.txt": "2\n"}, setup=Setup(commands=(("sh", "-c", "echo broken; exit 1"),)))
    assert "broken" in caught.value.feedback


def test_a_billion_laughs_report_is_no_report(judge):
    text = '<!DOCTYPE a [<!ENTITY b "c">]><testsuite><testcase name="&b;"/></testsuite>'
    evil = (
        "import os, shlex\n"
        "def pytest_unconfigure(config):\n"
        "    words = shlex.split(os.environ['PYTEST_ADDOPTS'])\n"
        "    path = next(w for w in words if 'junitxml' in w).split('=')[1]\n"
        f"    open(path, 'w').write({text!r})\n"
        "    os._exit(0)\n"
    )
    assert "left no report" in judge({"conftest.py": evil}).reason


def test_it_is_this_python(judge):
    assert judge(
        {"data.txt": "2\n"},
        commands=[("{python}", "-c", f"import sys; assert sys.executable == {sys.executable!r}")],
    ).ok
