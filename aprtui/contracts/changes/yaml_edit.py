"""Edits of a YAML text in place: single values are replaced and lines added, and every other byte stays.

A dumper that keeps comments still reflows the text (it would change three of 45 real contracts, one of them in 59
lines), so texts are cut at the marks of PyYAML's nodes instead. Edits that this cannot do are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from yaml import SafeLoader, compose
from yaml.nodes import MappingNode, Node, ScalarNode

from aprtui.contracts.documents.document import ContractError

_STYLES = {None: "{}", "'": "'{}'", '"': '"{}"'}


@dataclass(frozen=True, slots=True)
class Edit:
    """The characters from `start` up to `end` become `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class EditableYaml:
    """A YAML text with its nodes; `path` is for messages."""

    path: Path
    text: str
    root: MappingNode

    @property
    def newline(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    def refuse(self, node: Node, problem: str) -> ContractError:
        """The error for a node that cannot be edited in place."""
        return ContractError(self.path, node.start_mark.line + 1, f"{problem}: edit it by hand")

    def replaced(self, node: Node, word: str) -> Edit:
        """Replace a value by `word`, which holds no quotes or backslashes, in the quotes that the value has."""
        if not isinstance(node, ScalarNode) or node.style not in _STYLES:
            raise self.refuse(node, "the value is not written in one line")
        start, end = node.start_mark.index, node.end_mark.index
        quoted = _STYLES['"' if node.style is None and _reads_as_number(word) else node.style].format(word)
        return Edit(start, end, quoted if end > start else f" {quoted}")

    def added_after(self, mapping: MappingNode, key: str, lines: Iterable[str]) -> Edit:
        """Add `lines`, indented as the keys of `mapping`, after its entry `key`, whose value is in one line."""
        if not has(mapping, key):
            raise self.refuse(mapping, f"the entry {key} is not there")
        key_node, value = entry(mapping, key)
        if mapping.flow_style or not isinstance(value, ScalarNode) or value.style not in _STYLES:
            raise self.refuse(mapping, f"the entry {key} has no line of its own")
        return self.line_after(value.end_mark.index, " " * key_node.start_mark.column, lines)

    def line_after(self, index: int, indent: str, lines: Iterable[str]) -> Edit:
        """Add `lines` after the line that holds `index`."""
        end = self.text.find("\n", index)
        added = "".join(f"{indent}{line}{self.newline}" for line in lines)
        return Edit(len(self.text), len(self.text), self.newline + added) if end < 0 else Edit(end + 1, end + 1, added)


def parsed(text: str, path: Path) -> EditableYaml:
    """Parse a text that the reader has accepted as one bounded YAML mapping."""
    root = compose(text, Loader=SafeLoader)
    assert isinstance(root, MappingNode), "the reader has read it as a mapping"
    return EditableYaml(path, text, root)


def entry(mapping: MappingNode, key: str) -> tuple[ScalarNode, Node]:
    """Key and value nodes. Raises `KeyError`."""
    for key_node, value in mapping.value:
        if isinstance(key_node, ScalarNode) and key_node.value == key:
            return key_node, value
    raise KeyError(key)


def has(mapping: MappingNode, key: str) -> bool:
    return any(isinstance(found, ScalarNode) and found.value == key for found, _ in mapping.value)


def edited(text: str, edits: Iterable[Edit]) -> str:
    """`text` with all `edits`, which do not overlap."""
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def quoted(text: str) -> str:
    """`text` as a scalar in double quotes: YAML reads the strings of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _reads_as_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
