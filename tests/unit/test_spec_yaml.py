"""YAML with places: what is read, where it stands, and what is no document at all."""

import contextlib
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agentflow.places import FILE_MAX_BYTES, Source, Unreadable, read_json, read_text, read_yaml, scalar

SOURCE = Source("f.yaml", "AF-SPEC")


def read(text):
    node, problems = read_yaml(text, SOURCE)
    assert not problems
    return node


def refused(text, reader=read_yaml):
    with pytest.raises(Unreadable) as caught:
        reader(text, SOURCE)
    (problem,) = caught.value.problems
    return str(problem)


def test_places_of_keys_and_values():
    node = read("a: 1\nb:\n  - x\n  - c: {d: 5}\n")
    assert node.plain() == {"a": 1, "b": ["x", {"c": {"d": 5}}]}
    assert node.place(("a",)) == (1, 4)
    assert node.place(("a",), of_key=True) == (1, 1)
    assert node.place(("b", 0)) == (3, 5)
    assert node.place(("b", 1, "c", "d")) == (4, 12)
    assert node.place(("b", 1, "c", "d"), of_key=True) == (4, 9)
    assert node.place(("b", 1, "a tag of a union", "c")) == (4, 8)
    assert node.place(("nowhere",)) == (1, 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("10:30", "10:30"),
        ("2026-11-21", "2026-11-21"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("12", 12),
        ("-3", -3),
        ("007", "007"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.2.3", "1.2.3"),
        (".", "."),
        ("e", "e"),
        (".e1", ".e1"),
        (".nan", ".nan"),
        ("1_000", "1_000"),
        ("0x1f", "0x1f"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_quotes_make_a_string():
    assert read("a: '12'\nb: \"true\"\nc: |\n  1\n").plain() == {"a": "12", "b": "true", "c": "1\n"}


def test_tags_of_yaml_itself():
    assert read("a: !!str 12\nb: !!int 12\nc: !!seq [x]\nd: ! 12\n").plain() == {
        "a": "12",
        "b": 12,
        "c": ["x"],
        "d": "12",
    }


def test_anchors_and_merge_keys():
    text = "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: [*a]\n"
    assert read(text).plain() == {"a": {"x": 1, "y": 2}, "b": {"y": 3, "x": 1}, "c": [{"x": 1, "y": 2}]}


def test_a_key_that_stands_twice_is_a_problem_with_both_places():
    node, problems = read_yaml("a: 1\nb: 2\na: 3\n", SOURCE)
    assert node.plain() == {"a": 1, "b": 2}
    assert str(problems[0]) == "f.yaml:3:1: AF-SPEC-007: the key 'a' stands here twice (got first in line 1)"


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**9), 10**9)
        | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("abc", min_size=1), inner),
        max_leaves=15,
    )
)
def test_what_was_written_is_read_again(value):
    import json

    from hypothesis import assume

    assume(value is not None)
    assert read(yaml.safe_dump(value, allow_unicode=True)).plain() == value
    node, _ = read_json(json.dumps(value), SOURCE)
    assert node.plain() == value


@given(st.text())
def test_any_text_is_a_document_or_refused(text):
    for reader in (read_yaml, read_json):
        with contextlib.suppress(Unreadable):
            assert reader(text, SOURCE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1:1: AF-SPEC-006: the file is empty"),
        ("# only a comment\n", "1:1: AF-SPEC-006: the file is empty"),
        ("---\n", "1:1: AF-SPEC-006: the file is empty"),
        ("a: 1\n---\nb: 2\n", "2:1: AF-SPEC-004: the file holds a second document"),
        ("a:\n\t- b\n", "2:1: AF-SPEC-005: a tab indents this line"),
        ("a:\n  b: 1\n \tc: 2\n", "3:2: AF-SPEC-005: a tab indents this line"),
        ("a: [1, 2\nb: 3\n", "AF-SPEC-004: not YAML"),
        ("a: 'x\n", "AF-SPEC-004: not YAML"),
        ("a: b: c\n", "1:5: AF-SPEC-004: not YAML"),
        ("a: *x\n", "1:4: AF-SPEC-004: the alias *x has no anchor"),
        ("a: &a [*a]\n", "1:8: AF-SPEC-008: the alias *a holds itself"),
        ("a: !!python/object/apply:os.system [x]\n", "1:4: AF-SPEC-004: tags such as"),
        ("a: !!python/name:os.system x\n", "1:4: AF-SPEC-004: tags such as"),
        ("{a: 1}: b\n", "1:1: AF-SPEC-004: a key must be a word"),
        ("a: 1\nb: \0\n", "2:4: AF-SPEC-003: a control character"),
        ("a: \x1b[2J\n", "1:4: AF-SPEC-003: a control character"),
        ("a: " + "[" * 60 + "]" * 60, "AF-SPEC-008: nested more than 40 deep"),
        ("x" * (FILE_MAX_BYTES + 1), "AF-SPEC-002"),
    ],
)
def test_what_is_no_document(text, said):
    assert said in refused(text)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "- " * 200_000, "{a: " * 100_000], ids=["flow", "block", "map"]
)
def test_deep_nesting_ends_in_a_message_not_in_the_process(text):
    assert "nested more than 40 deep" in refused(text)


def test_a_yaml_bomb_is_refused_before_it_is_expanded():
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    began = time.monotonic()
    assert "AF-SPEC-008: more than 100000 values" in refused("\n".join(levels))
    assert time.monotonic() - began < 5


def test_json():
    node, _ = read_json('{\n\t"a": "\\ud83d\\ude00\\/",\n\t"b": [1, 2.5, null, true]\n}', SOURCE)
    assert node.plain() == {"a": "\N{GRINNING FACE}/", "b": [1, 2.5, None, True]}
    assert node.place(("b", 1)) == (3, 11)
    assert "f.yaml:2:3: AF-SPEC-004: not JSON: expecting" in refused('{"a": 1,\n  b: 2}', read_json)
    assert "AF-SPEC-008" in refused("[" * 100_000, read_json)


def test_files(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_text(path, SOURCE) == "a: 1\n"
    for content, said in [(b"a: 1\nb: \xff\n", "f.yaml:2:4: AF-SPEC-003"), (b"x" * 2_000_000, "AF-SPEC-002")]:
        path.write_bytes(content)
        with pytest.raises(Unreadable, match=said):
            read_text(path, SOURCE)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(Unreadable, match="AF-SPEC-001"):
            read_text(missing, SOURCE)
