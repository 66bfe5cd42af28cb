import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.paths import pattern_problem, plain_path_problem
from agentflow.spec.artifacts import lock_path, matches, twin_key


@pytest.mark.parametrize(
    ("pattern", "locked"),
    [
        ("src/a/**", "src/a"),
        ("src/*.py", "src"),
        ("a/b.py", "a/b.py"),
        ("**", ""),
        ("*.md", ""),
        ("README", "README"),
    ],
)
def test_what_a_pattern_locks(pattern, locked):
    assert lock_path(pattern) == locked


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("**", ["a", "a/b/c"], []),
        ("src/**", ["src/a", "src/a/b"], ["src", "srcs/a", "x/src/a"]),
        ("src/*.py", ["src/a.py"], ["src/a/b.py", "src/a.pyc", "a.py"]),
        ("*.md", ["README.md"], ["docs/README.md"]),
        ("a/b.py", ["a/b.py"], ["a/B.py", "a/b.py/c", "b.py"]),
        ("docs/ch*.md", ["docs/ch1.md"], ["docs/x/ch1.md", "docs/Ch1.md"]),
    ],
)
def test_what_a_pattern_matches(pattern, yes, no):
    assert all(matches(pattern, path) for path in yes)
    assert not any(matches(pattern, path) for path in no)


names = st.text("ab.", min_size=1, max_size=3).filter(lambda s: not s.endswith("."))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


@given(paths, st.sampled_from(["", "/**", "/*.a", "/*"]))
def test_what_a_pattern_matches_lies_at_or_below_what_it_locks(path, tail):
    pattern = path + tail
    inside = path if not tail else f"{path}/b.a"
    assert matches(pattern, inside)
    assert f"{inside}/".startswith(f"{lock_path(pattern)}/")


def test_twins():
    assert twin_key("README.md") == twin_key("readme.MD")
    assert twin_key("caf\u00e9") == twin_key("cafe\u0301")
    assert twin_key("a") != twin_key("b")


@pytest.mark.parametrize(
    "good",
    [
        "a",
        "src/app.py",
        "src/**",
        "**",
        "docs/*.md",
        ".github/workflows/ci.yml",
        ".gitignore",
        "a b/c",
        "caf\u00e9",
    ],
)
def test_patterns_that_may_be_written(good):
    assert pattern_problem(good) is None


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("", "empty"),
        ("../x", "leaves the repository"),
        ("a/../../x", "leaves the repository"),
        ("/etc/x", "absolute"),
        ("~/x", "absolute"),
        ("/", "absolute"),
        (".git/hooks/x", "belongs to git"),
        (".GIT/config", "belongs to git"),
        ("a/.git/x", "belongs to git"),
        (".git ./x", "belongs to git"),
        ("git~1/x", "belongs to git"),
        (".gitmodules", "belongs to git"),
        ("src/.gitattributes", "belongs to git"),
        (".g\u200cit/x", "control or invisible"),
        ("C:\\x", "Windows"),
        ("C:x", "Windows"),
        ("a\\b", "Windows"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\u202eb", "control or invisible"),
        ("x" * 5000, "longer than 1024"),
        ("x" * 300, "longer than 255 bytes"),
        ("x.", "ends in a dot or a space"),
        ("a /b", "ends in a dot or a space"),
        (" a", "starts with a space"),
        ("-rf", "starts with a dash"),
        ("a//b", "empty component"),
        ("./a", "empty component"),
        ("dir/", r"written with \*\*"),
        ("src/[a].py", "only"),
        ("src/?.py", "only"),
        ("src/{a,b}", "only"),
        ("src/*/a.py", "last component only"),
        ("src/**/a.py", "last component only"),
        ("src/a**", "stands alone"),
        ("cafe\u0301.py", "NFC"),
    ],
)
def test_patterns_that_are_refused(bad, reason):
    import re

    problem = pattern_problem(bad)
    assert problem is not None
    assert re.search(reason, problem[0])
    assert problem[1]


def test_a_plain_path_holds_no_star():
    assert plain_path_problem("node_modules") is None
    assert plain_path_problem("src/*.py")
    assert plain_path_problem("../x")
