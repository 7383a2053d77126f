"""YAML is read as text with lines, within bounds of size, depth and time."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.errors import UsageError
from aprtui.yaml_file import YamlError, YamlMapping, parse_yaml, plain, read_settings, read_yaml
from tests.hangs import no_hang

PATH = Path("x.yaml")


def mapping(text: str) -> YamlMapping:
    return parse_yaml(text, PATH).mapping("a mapping")


def value(text: str) -> object:
    return plain(mapping(text))


def test_dates_and_versions_stay_text() -> None:
    tree = mapping("created: 2026-05-12\nversion: 1.0\n")
    assert plain(tree)["created"] == "2026-05-12"
    assert tree.fields["version"].text == "1.0"  # type: ignore[union-attr]


def test_plain_scalars_mean_what_yaml_1_2_says_and_quoted_ones_are_text() -> None:
    assert value("a: true\nb: 'true'\nc: 12\nd: '12'\ne: 1.5e3\nf: ~\ng:\nh: yes\ni: !!str 12\nj: 0x10\n") == {
        "a": True, "b": "true", "c": 12, "d": "12", "e": 1500.0, "f": None, "g": None, "h": "yes", "i": "12",
        "j": "0x10",
    }  # fmt: skip


def test_a_duplicate_key_is_found_with_both_lines() -> None:
    source = parse_yaml("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", PATH)
    (duplicate,) = source.duplicates
    assert (duplicate.key, duplicate.line, duplicate.first) == ("c", 5, 3)


def test_a_key_knows_its_line_not_that_of_its_value() -> None:
    tree = mapping("---\na:\n\n  b: |\n    text\n")
    assert tree.lines["a"] == 2
    inner = tree.fields["a"]
    assert isinstance(inner, YamlMapping) and inner.lines["b"] == 4


def test_an_alias_repeats_its_anchor() -> None:
    assert value("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
LONG_TEXTS = f"a: &a {'x' * 500_000}\nb: [{', '.join(['*a'] * 100_000)}]\n"

HOSTILE = {
    "a bomb of aliases": (BOMB, "aliases written out"),
    "a long text repeated": (LONG_TEXTS, "aliases written out"),
    "deep flow nesting": ("a: " + "[" * 100_000, "deeper|not YAML"),
    "deep block nesting": ("\n".join(" " * n + f"k{n}:" for n in range(500)), "deeper"),
    "an alias to itself": ("a: &a [*a]", "nothing before it"),
    "an unknown alias": ("a: *b", "nothing before it"),
    "a Python object": ("a: !!python/object/apply:os.system ['true']", "tag"),
    "a binary": ("a: !!binary aGVsbG8=", "tag"),
    "a list as key": ("? [a, b]\n: c\n", "as a key"),
    "two documents": ("a: 1\n---\nb: 2\n", "second document"),
    "a list": ("- a\n", "expected a mapping"),
    "nothing": ("", "is empty"),
    "a comment alone": ("# nothing\n", "is empty"),
    "broken flow": ("a: [1, 2\nb: 3\n", "not YAML"),
    "a control character": ("a: \x07\n", "not YAML"),
    "many values": ("a: [" + "1," * 200_000 + "]", "more than"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_one_clear_error(case: str) -> None:
    text, expected = HOSTILE[case]
    with no_hang(), pytest.raises(YamlError, match=expected) as caught:
        mapping(text)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("x.yaml")
    assert len(str(caught.value)) < 300


def test_an_alias_in_a_settings_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("a: &x [1, 2]\n")
    assert read_settings(path) == {"a": [1, 2]}
    path.write_text("a: &x [1, 2]\nb: *x\n")
    with pytest.raises(UsageError, match=r"settings\.yaml: line 2: YAML aliases are not allowed"):
        read_settings(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(YamlError, match=r"gone\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "gone.yaml")
    with pytest.raises(YamlError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(YamlError, match=r"latin\.yaml:2: not UTF-8"):
        read_yaml(latin)
