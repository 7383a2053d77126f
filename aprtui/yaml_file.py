"""YAML files: contracts, check mappings, policies, stage mappings and prompts are all read here.

The tree is built from the parser's events rather than by a loader: a loader turns dates and versions into objects,
ignores duplicate keys, forgets lines, and recurses. Here scalars stay text (`version: 1.0` stays "1.0"), no tag makes
an object, size and depth are bounded, and an alias counts as much as what it repeats, so that a bomb of aliases is
refused as soon as it grows too large.

    file = read_yaml(path)                       # a tree with the line of every key
    document = read_settings(path)               # plain values of a small file that a user writes
    fields = fields_of(document, path, "the file", {"rules"}, needed={"rules"})

PyYAML is imported on first use: `--help` needs no YAML.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprtui.errors import UnreadableError, UsageError

if TYPE_CHECKING:
    from yaml.events import Event

MOST_BYTES = 1 << 20
MOST_NODES = 100_000
MOST_DEPTH = 64
"""Real contracts have about 40 kB, 1500 nodes and 8 levels; policies and mappings are a page of text."""

_TEXT_PER_NODE = 100
_LONGEST_NUMBER = 40
_CORE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))
_STRING = "tag:yaml.org,2002:str"
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


class YamlError(UnreadableError):
    """A YAML file that cannot be used; `line` counts from 1 and is None where the error concerns the whole file."""

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        super().__init__(f"{path}:{line}: {problem}" if line is not None else f"{path}: {problem}")
        self.path = path
        self.line = line
        self.problem = problem


@dataclass(frozen=True, slots=True)
class YamlScalar:
    """A text of the file; `plain` where it was written without quotes and may mean a number or a truth value."""

    text: str
    plain: bool
    line: int

    @property
    def size(self) -> int:
        """What it counts against `MOST_NODES`: long texts count more, since aliases may repeat them."""
        return 1 + len(self.text) // _TEXT_PER_NODE

    @property
    def value(self) -> str | int | float | bool | None:
        """The value by YAML 1.2: null, truth values and numbers; everything else, dates too, is text."""
        if not self.plain or len(self.text) > _LONGEST_NUMBER:
            return self.text
        if self.text in _WORDS:
            return _WORDS[self.text]
        if _INTEGER.fullmatch(self.text):
            return int(self.text)
        return float(self.text) if _FLOAT.fullmatch(self.text) else self.text


@dataclass(frozen=True, slots=True)
class YamlList:
    items: tuple[YamlNode, ...]
    line: int
    size: int


@dataclass(frozen=True, slots=True)
class YamlMapping:
    """A mapping; `lines` holds the line of each key. Of a key that occurs twice, the last occurrence counts."""

    fields: Mapping[str, YamlNode]
    lines: Mapping[str, int]
    line: int
    size: int


YamlNode = YamlScalar | YamlList | YamlMapping


@dataclass(frozen=True, slots=True)
class DuplicateKey:
    """A key at `line` that its mapping already had at line `first`."""

    key: str
    line: int
    first: int


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A YAML file as read. `root` is None for a file without a value."""

    path: Path
    root: YamlNode | None
    duplicates: tuple[DuplicateKey, ...]

    def mapping(self, expected: str) -> YamlMapping:
        """The root, which must be a mapping. Raises `YamlError` that says what was `expected`."""
        if self.root is None or (isinstance(self.root, YamlScalar) and self.root.value is None):
            raise YamlError(self.path, None, f"is empty: expected {expected}")
        if not isinstance(self.root, YamlMapping):
            raise YamlError(self.path, self.root.line, f"expected {expected}")
        return self.root


def read_yaml(path: Path, *, aliases: bool = True) -> YamlFile:
    """The document in `path`. Raises `YamlError` for anything but a single, bounded YAML document in UTF-8.

    Without `aliases`, a file that contains one is refused.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise YamlError(path, None, f"cannot be read: {error.strerror or error}: give a readable YAML file") from error
    except ValueError as error:
        raise YamlError(path, None, f"cannot be read: {error}") from error
    if len(data) > MOST_BYTES:
        raise YamlError(path, None, f"larger than {MOST_BYTES} bytes: split it, or give another file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError(path, line, "not UTF-8: save it as UTF-8 text") from error
    return parse_yaml(text, path, aliases=aliases)


def parse_yaml(text: str, path: Path, *, aliases: bool = True) -> YamlFile:
    """The document that `text` holds; `path` is for messages. Raises `YamlError` as `read_yaml` does."""
    import yaml

    builder = _Builder(path, aliases)
    try:
        for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.take(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
        raise YamlError(path, mark.line + 1 if mark else None, f"not YAML ({problem}): correct it") from error
    except UnicodeEncodeError as error:
        raise YamlError(path, None, "holds characters that are not Unicode text: correct it") from error
    return YamlFile(path, builder.root, tuple(builder.duplicates))


def read_settings(path: Path) -> Any:
    """The plain values in a small file that a user writes, such as a policy. Raises `UsageError`.

    Aliases are refused: no such file needs them. So is a key that stands twice: all but the last would be lost.
    """
    try:
        file = read_yaml(path, aliases=False)
    except YamlError as error:
        where = "" if error.line is None else f"line {error.line}: "
        raise UsageError(f"{path}: {where}{error.problem}") from error
    if file.duplicates:
        twice = file.duplicates[0]
        raise UsageError(
            f"{path}: line {twice.line}: the key {twice.key!r:.80} stands in line {twice.first}, too: leave one out, "
            "or write a list under it"
        )
    return plain(file.root)


def fields_of(
    value: Any, path: Path, where: str, known: Collection[str], needed: Collection[str] = ()
) -> Mapping[str, Any]:
    """The fields of a mapping. Raises `UsageError` for an unknown field, and for a `needed` one that is missing."""
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {where}: expected the fields {', '.join(sorted(known))}")
    unknown = value.keys() - set(known)
    if unknown:
        raise UsageError(f"{path}: {where}: no field {min(unknown)!r}: there are {', '.join(sorted(known))}")
    missing = set(needed) - value.keys()
    if missing:
        raise UsageError(f"{path}: {where}: the field {min(missing)} is missing")
    return value


def texts_of(value: Any, path: Path, where: str, what: str = "names or globs of stages") -> Sequence[str]:
    """A list of texts that are not empty. Raises `UsageError` that says `what` was expected."""
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise UsageError(f"{path}: {where}: expected {what}")
    return value


def plain(node: YamlNode | None) -> Any:
    """`node` as lists, dictionaries, texts, numbers, truth values and None: the values of JSON."""
    if node is None:
        return None
    if isinstance(node, YamlScalar):
        return node.value
    if isinstance(node, YamlList):
        return [plain(item) for item in node.items]
    return {key: plain(value) for key, value in node.fields.items()}


def texts(node: YamlNode | None) -> tuple[str, ...]:
    """The texts in `node`: one for each entry of a list, one for a scalar, none where nothing is written."""
    if node is None or (isinstance(node, YamlScalar) and node.value is None):
        return ()
    if isinstance(node, YamlList):
        return tuple(text(item) for item in node.items)
    return (text(node),)


def text(node: YamlNode | None) -> str:
    """`node` as one text, with a line for each entry of a list or mapping; empty where nothing is written."""
    if node is None:
        return ""
    if isinstance(node, YamlScalar):
        return "" if node.value is None else node.text.strip()
    if isinstance(node, YamlList):
        return "\n".join(map(text, node.items))
    return "\n".join(f"{key}: {text(value)}" for key, value in node.fields.items())


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been reached; `key` is the key that waits for its value."""

    line: int
    anchor: str | None
    is_mapping: bool
    items: list[YamlNode] = field(default_factory=list)
    fields: dict[str, YamlNode] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    key: YamlScalar | None = None
    size: int = 1

    def finished(self) -> YamlNode:
        if self.is_mapping:
            return YamlMapping(self.fields, self.lines, self.line, self.size)
        return YamlList(tuple(self.items), self.line, self.size)


class _Builder:
    """Builds the tree from events, with open nodes on a stack of its own: no file can exhaust the recursion limit."""

    def __init__(self, path: Path, aliases: bool) -> None:
        self.path = path
        self.aliases = aliases
        self.root: YamlNode | None = None
        self.duplicates: list[DuplicateKey] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, YamlNode] = {}
        self._nodes = 0
        self._documents = 0

    def take(self, event: Event) -> None:
        """Take the next event. Raises `YamlError` where the tree grows beyond its bounds."""
        import yaml

        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise YamlError(self.path, line, "a second document begins here: one document a file")
        elif isinstance(event, yaml.AliasEvent):
            self._add(self._anchored(event.anchor, line), line)
        elif isinstance(event, yaml.ScalarEvent):
            self._check_tag(event.tag, line)
            scalar = YamlScalar(event.value, event.implicit[0] and event.tag != _STRING, line)
            self._remember(event.anchor, scalar)
            self._add(scalar, line)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._check_tag(event.tag, line)
            if len(self._open) >= MOST_DEPTH:
                raise YamlError(self.path, line, f"nested deeper than {MOST_DEPTH} levels: flatten it")
            self._open.append(_Open(line, event.anchor, isinstance(event, yaml.MappingStartEvent)))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            closed = self._open.pop()
            node = closed.finished()
            self._remember(closed.anchor, node)
            self._add(node, closed.line)

    def _check_tag(self, tag: str | None, line: int) -> None:
        if tag not in (None, "!") and tag not in _CORE_TAGS:
            raise YamlError(self.path, line, f"the tag {tag!r:.60} is not allowed: write plain values")

    def _remember(self, anchor: str | None, node: YamlNode) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _anchored(self, anchor: str | None, line: int) -> YamlNode:
        if not self.aliases:
            raise YamlError(self.path, line, "YAML aliases are not allowed: write it out")
        if anchor is None or anchor not in self._anchors:
            raise YamlError(self.path, line, f"the alias {anchor!r:.60} stands for nothing before it: correct it")
        return self._anchors[anchor]

    def _add(self, node: YamlNode, line: int) -> None:
        self._nodes += 1
        size = node.size
        if not self._open:
            self.root = node
        else:
            parent = self._open[-1]
            self._put(parent, node, line)
            parent.size += size
            size = parent.size
        if max(size, self._nodes) > MOST_NODES:
            raise YamlError(self.path, line, f"more than {MOST_NODES} values, aliases written out: shorten it")

    def _put(self, parent: _Open, node: YamlNode, line: int) -> None:
        if not parent.is_mapping:
            parent.items.append(node)
        elif parent.key is None:
            if not isinstance(node, YamlScalar):
                raise YamlError(self.path, line, "a list or mapping as a key: expected a name")
            parent.key = node
        else:
            key, parent.key = parent.key, None
            if key.text in parent.fields:
                self.duplicates.append(DuplicateKey(key.text, key.line, parent.lines[key.text]))
            parent.fields[key.text] = node
            parent.lines[key.text] = key.line
