"""The line and its words; roles and their aliases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.config import Config
from agentflow.errors import UsageError
from agentflow.spec.lines import (
    Word,
    check_mistyped,
    is_line,
    is_role,
    line_data,
    named_files,
    verbs,
    words_of,
)
from agentflow.spec.reader import parse_spec
from agentflow.spec.writer import write_spec

CONFIG = Config(default_runner="noop")
FILES = frozenset({"auth.py", "src/a.py", "src/b.py", "docs/x.md", "Makefile"})


def line(text, *more):
    return line_data(words_of([text, *more]), FILES, CONFIG)


def test_the_line_of_the_issue():
    data = line('review "security issues" auth.py AND test auth.py AND docs auth.py')
    assert [(t["id"], t["role"], t["output"], t["reads"]) for t in data["tasks"]] == [
        ("review", "reviewer", "report", ["auth.py"]),
        ("test", "tester", "change", ["auth.py"]),
        ("docs", "docs", "change", ["auth.py"]),
    ]
    assert data["tasks"][0]["prompt"] == "Review: security issues"
    assert all("needs" not in task for task in data["tasks"])


@pytest.mark.parametrize(
    ("text", "role", "reads", "prompt"),
    [
        ("fix src AND test x Makefile", "implementer", ["src/**"], verbs()["fix"].prompt),
        ("build the login page src/*.py AND test x", "implementer", ["src/*.py"], "Build: the login page"),
        ("backend-engineer 'no auth.py here' AND test x", "backend", [], "no auth.py here"),
        ("Security ./auth.py AND test x", "security", ["auth.py"], verbs()["audit"].prompt),
        ("qa don't break it AND test x", "tester", [], "don't break it"),
        ("design \u201cthe API\u201d AND test x", "architect", [], "Design: the API"),
        ("backend 'gone.py' AND test x", "backend", [], "gone.py"),
        ("mobile x AND test x", None, [], ""),
    ],
)
def test_parts_of_a_line(text, role, reads, prompt):
    if role is None:
        with pytest.raises(UsageError, match="neither a verb nor a role"):
            line(text)
        return
    task = line(text)["tasks"][0]
    assert (task["role"], task["reads"], task["prompt"]) == (role, reads, prompt)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["test auth.py"], "line"),
        (["test auth.py gone.py"], "line"),
        (["test 'the login' auth.py"], "line"),
        (["backend 'add a login'"], "line"),
        (["test the login"], "words"),
        (["Implement user auth with frontend, backend and tests"], "words"),
        (["Sign in and out"], "words"),
        (["test"], "words"),
        (["a AND b"], "line"),
        (["this and that"], "words"),
        (["'a AND b'"], "words"),
        (["backend", "add a login"], "role"),
        (["qa-engineer", "auth.py"], "role"),
        (["Build", "a", "login"], "words"),
        (["review", "security issues", "auth.py", "AND", "test", "auth.py"], "line"),
    ],
)
def test_what_words_are(words, expected):
    found = words_of(words)
    if is_line(found, FILES, CONFIG):
        kind = "line"
    else:
        kind = "role" if len(words) > 1 and is_role(found, CONFIG) else "words"
    if expected == "role":
        assert is_role(found, CONFIG)
    else:
        assert kind == expected


def test_a_role_that_is_mistyped_is_no_matter_for_the_planner():
    with pytest.raises(UsageError, match="bakend") as caught:
        check_mistyped(words_of(["bakend", "Add POST /login"]), CONFIG)
    assert "'backend'" in caught.value.fix
    for words in (["Add", "a", "login page"], ["Add a login page"], ["zebra", "a login page"], [""]):
        check_mistyped(words_of(words), CONFIG)


def test_one_verb_twice_has_two_ids():
    assert [task["id"] for task in line("test auth.py AND test src AND test docs")["tasks"]] == [
        "test", "test-2", "test-3",
    ]  # fmt: skip


def test_files_by_name_directory_and_pattern():
    assert named_files(["src,auth.py", "docs/*.md"], FILES) == ("src/**", "auth.py", "docs/*.md")
    assert named_files(["src", "./auth.py"], FILES, each=True) == ("src/a.py", "src/b.py", "auth.py")
    with pytest.raises(UsageError, match="no file"):
        named_files(["src/c.py"], FILES)


@given(st.text(max_size=80))
def test_a_single_argument_is_split_into_the_words_it_holds(text):
    found = words_of([text])
    assert "".join("".join(word.text.split()) for word in found if not word.quoted) in "".join(text.split())
    assert all(word.text and not any(map(str.isspace, word.text)) for word in found if not word.quoted)


@given(
    st.lists(
        st.sampled_from([*FILES, "AND", "test", "docs", "review", "'a b'", "x", "-", '"', "{item}", "#"])
    )
)
def test_every_line_is_a_spec_or_an_error(words):
    try:
        data = line(" ".join(words))
    except UsageError:
        return
    spec = parse_spec(write_spec(data), name="the line", config=CONFIG)
    # An AND between quotes is a word like any other.
    found = words_of([" ".join(words)])
    assert len(spec.tasks) == sum(word.text == "AND" and not word.quoted for word in found) + 1


def test_every_verb_has_a_role_and_a_word_is_one_verbs():
    assert {verb.role for verb in verbs().values()} <= set(CONFIG.roles)
    words = [word for name, verb in verbs().items() for word in verb.also if name not in verb.also]
    assert len(set(words)) == len({(word, verbs()[word].role) for word in words})
    assert Word("AND") not in verbs()


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("architect", "architect software-architect architecture Software_Architect"),
        ("product", "product product-manager"),
        ("backend", "backend backend-engineer backend-developer"),
        ("frontend", "frontend frontend-engineer ui"),
        ("api", "api api-engineer"),
        ("database", "database database-engineer db"),
        ("data", "data data-engineer data-scientist"),
        ("ux", "ux ux-designer"),
        ("implementer", "implementer developer software-engineer fullstack-engineer"),
        ("tester", "tester test qa quality qa-engineer test-engineer quality-engineer"),
        ("security", "security security-engineer"),
        ("devops", "devops deployment devops-engineer"),
        ("docs", "docs writer documentation technical-writer"),
        ("reviewer", "reviewer review code-reviewer"),
    ],
)
def test_roles_have_the_names_that_people_use(role, words):
    assert {CONFIG.role_name(word) for word in words.split()} == {role}
