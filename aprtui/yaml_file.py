"""YAML as a tree that knows its lines: safe, bounded in size, depth and time, and loud about duplicate keys.

Built from the parser's events rather than by a loader: a loader turns dates and versions into objects, keeps silent
about duplicate keys, forgets lines, and recurses. Here scalars stay text (`version: 1.0` stays "1.0"), no tag makes an
object, and an alias counts as much as what it repeats, so that a bomb of aliases ends as soon as it grows too large.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprtui.errors import UnreadableError

if TYPE_CHECKING:
    from yaml.events import Event

MOST_BYTES = 1 << 20
MOST_NODES = 100_000
MOST_DEPTH = 64
"""Real contracts have some 40 kB, 1500 nodes and 8 levels."""

_TEXT_PER_NODE = 100
_LONGEST_NUMBER = 40
_CORE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))
_STRING = "tag:yaml.org,2002:str"
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


class ContractError(UnreadableError):
    """A contract that cannot be read; `line` counts from 1 and is None where the whole file is meant."""

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        super().__init__(f"{path}:{line}: {problem}" if line is not None else f"{path}: {problem}")
        self.path = path
        self.line = line


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text of the file; `plain` where it was written without quotes and may mean a number or a truth value."""

    text: str
    plain: bool
    line: int

    @property
    def size(self) -> int:
        """What it counts against `MOST_NODES`: long texts more, since aliases may repeat them."""
        return 1 + len(self.text) // _TEXT_PER_NODE

    @property
    def value(self) -> str | int | float | bool | None:
        """What it means by YAML 1.2: null, truth values and numbers; everything else, dates too, is text."""
        if not self.plain or len(self.text) > _LONGEST_NUMBER:
            return self.text
        if self.text in _WORDS:
            word: bool | None = _WORDS[self.text]
            return word
        if _INTEGER.fullmatch(self.text):
            return int(self.text)
        return float(self.text) if _FLOAT.fullmatch(self.text) else self.text


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[Tree, ...]
    line: int
    size: int


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping; of a key that occurs twice, the last. `lines` says where each key stands."""

    fields: Mapping[str, Tree]
    lines: Mapping[str, int]
    line: int
    size: int


Tree = Scalar | Items | Fields


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A key that its mapping already had at line `first`."""

    key: str
    line: int
    first: int


@dataclass(frozen=True, slots=True)
class Source:
    """A YAML file as read."""

    path: Path
    root: Fields
    duplicates: tuple[Duplicate, ...]


def plain(tree: Tree) -> Any:
    """`tree` as lists, dictionaries, texts, numbers, truth values and None: what JSON can say."""
    if isinstance(tree, Scalar):
        return tree.value
    if isinstance(tree, Items):
        return [plain(item) for item in tree.items]
    return {key: plain(value) for key, value in tree.fields.items()}


def read_tree(path: Path) -> Source:
    """The mapping in `path`. Raises `ContractError` for what is no single, bounded YAML mapping in UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ContractError(path, None, f"cannot be read: {error.strerror}: give a readable YAML file") from error
    except ValueError as error:
        raise ContractError(path, None, f"cannot be read: {error}") from error
    if len(data) > MOST_BYTES:
        raise ContractError(path, None, f"larger than {MOST_BYTES} bytes: split the contract")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ContractError(path, line, "not UTF-8: save it as UTF-8 text") from error
    return parse_tree(text, path)


def parse_tree(text: str, path: Path) -> Source:
    """The mapping that `text` holds; `path` is for messages. Raises `ContractError`."""
    import yaml

    builder = _Builder(path)
    try:
        for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.take(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
        raise ContractError(path, mark.line + 1 if mark else None, f"not YAML ({problem}): correct it") from error
    except UnicodeEncodeError as error:
        raise ContractError(path, None, "holds characters that are not Unicode text: correct it") from error
    root = builder.root
    if root is None or (isinstance(root, Scalar) and root.value is None):
        raise ContractError(path, None, "is empty: expected a contract, a mapping with metadata")
    if not isinstance(root, Fields):
        raise ContractError(path, root.line, "expected a mapping with metadata, equations, falsification_tests, …")
    return Source(path, root, tuple(builder.duplicates))


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end was not met yet; `key` is the one that waits for its value."""

    line: int
    anchor: str | None
    is_mapping: bool
    items: list[Tree] = field(default_factory=list)
    fields: dict[str, Tree] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    key: Scalar | None = None
    size: int = 1

    def finished(self) -> Tree:
        if self.is_mapping:
            return Fields(self.fields, self.lines, self.line, self.size)
        return Items(tuple(self.items), self.line, self.size)


class _Builder:
    """Takes events, keeps what is open on a stack of its own: no recursion that a file could exhaust."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root: Tree | None = None
        self.duplicates: list[Duplicate] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, Tree] = {}
        self._nodes = 0
        self._documents = 0

    def take(self, event: Event) -> None:
        """Take the next event. Raises `ContractError` where the tree grows beyond its bounds."""
        import yaml

        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise ContractError(self.path, line, "a second document begins here: one contract a file")
        elif isinstance(event, yaml.AliasEvent):
            self._add(self._anchored(event.anchor, line), line)
        elif isinstance(event, yaml.ScalarEvent):
            self._check_tag(event.tag, line)
            scalar = Scalar(event.value, event.implicit[0] and event.tag != _STRING, line)
            self._keep(event.anchor, scalar)
            self._add(scalar, line)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._check_tag(event.tag, line)
            if len(self._open) >= MOST_DEPTH:
                raise ContractError(self.path, line, f"nested deeper than {MOST_DEPTH} levels: flatten it")
            self._open.append(_Open(line, event.anchor, isinstance(event, yaml.MappingStartEvent)))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            closed = self._open.pop()
            tree = closed.finished()
            self._keep(closed.anchor, tree)
            self._add(tree, closed.line)

    def _check_tag(self, tag: str | None, line: int) -> None:
        if tag not in (None, "!") and tag not in _CORE_TAGS:
            raise ContractError(self.path, line, f"the tag {tag!r:.60} is not allowed: write plain values")

    def _keep(self, anchor: str | None, tree: Tree) -> None:
        if anchor is not None:
            self._anchors[anchor] = tree

    def _anchored(self, anchor: str | None, line: int) -> Tree:
        if anchor is None or anchor not in self._anchors:
            raise ContractError(self.path, line, f"the alias {anchor!r:.60} stands for nothing before it: correct it")
        return self._anchors[anchor]

    def _add(self, tree: Tree, line: int) -> None:
        self._nodes += 1
        size = tree.size
        if not self._open:
            self.root = tree
        else:
            parent = self._open[-1]
            self._put(parent, tree, line)
            parent.size += size
            size = parent.size
        if max(size, self._nodes) > MOST_NODES:
            raise ContractError(self.path, line, f"more than {MOST_NODES} values, aliases written out: shorten it")

    def _put(self, parent: _Open, tree: Tree, line: int) -> None:
        if not parent.is_mapping:
            parent.items.append(tree)
        elif parent.key is None:
            if not isinstance(tree, Scalar):
                raise ContractError(self.path, line, "a list or mapping as a key: expected a name")
            parent.key = tree
        else:
            key, parent.key = parent.key, None
            if key.text in parent.fields:
                self.duplicates.append(Duplicate(key.text, key.line, parent.lines[key.text]))
            parent.fields[key.text] = tree
            parent.lines[key.text] = key.line


def texts(tree: Tree | None) -> tuple[str, ...]:
    """The texts in `tree`: one for each entry of a list, one for a scalar, none where nothing is written."""
    if tree is None or (isinstance(tree, Scalar) and tree.value is None):
        return ()
    if isinstance(tree, Items):
        return tuple(text(item) for item in tree.items)
    return (text(tree),)


def text(tree: Tree | None) -> str:
    """`tree` as one text: entries of lists and mappings a line each; empty where nothing is written."""
    if tree is None:
        return ""
    if isinstance(tree, Scalar):
        return "" if tree.value is None else tree.text.strip()
    return "\n".join(_lines(tree))


def _lines(tree: Tree) -> Iterator[str]:
    if isinstance(tree, Items):
        for item in tree.items:
            yield text(item)
    elif isinstance(tree, Fields):
        for key, value in tree.fields.items():
            yield f"{key}: {text(value)}"
