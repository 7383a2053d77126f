"""The digest of a source file by what it says: comments, docstrings and formatting do not count.

Python, C, C++, CUDA, Rust, YAML, TOML and JSON are parsed; any other file, and one that its parser refuses, is taken by
its bytes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from aprtui.yaml_file import YamlError, parse_yaml, plain

_MOST_BYTES = 4 << 20
"""A larger file is data, and is taken by its bytes."""

_BRACES = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<text>R"(?P<mark>[^()\\\s]{0,16})\(.*?(?:\)(?P=mark)"|\Z) | "(?:\\.|[^"\\])*(?:"|\Z)
          | '(?:\\[^\n]{1,8}|[^'\\\n])')
      | (?P<line>\n) | (?P<word>\w+) | (?P<bracket>[](){}[;,]) | (?P<operator>[^]\w\s"'/(){}[;,]+|['/])""",
    re.DOTALL | re.VERBOSE,
)  # fmt: skip


def source_file_digest(path: Path) -> str | None:
    """SHA-256 in hexadecimal of a file as parsed; None where there is none. Remembered while the file is unchanged.

    Raises `OSError`.
    """
    if not path.is_file():
        return None
    found = path.stat()
    return _digest(path, found.st_size, found.st_mtime_ns, found.st_ino)


@lru_cache(maxsize=8192)
def _digest(path: Path, size: int, mtime: int, inode: int) -> str:
    parse = _PARSERS.get(path.suffix)
    if parse is None or size > _MOST_BYTES:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    data = path.read_bytes()
    try:
        said = parse(data.decode("utf-8"), path)
    except (ValueError, SyntaxError, RecursionError, MemoryError, YamlError):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha256(f"{path.suffix}\0{said}".encode("utf-8", "surrogatepass")).hexdigest()


def _python(text: str, path: Path) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                node.body = node.body[1:]
    return "".join(_dumped(tree))


def _dumped(value: object) -> Iterator[str]:
    """A syntax tree as text. Empty fields are left out, so that a newer Python with more of them says the same."""
    if isinstance(value, ast.AST):
        yield f"{type(value).__name__}("
        for name in value._fields:
            inner = getattr(value, name, None)
            if inner is not None and inner != []:
                yield f"{name}="
                yield from _dumped(inner)
        yield ")"
    elif isinstance(value, list):
        yield "["
        for inner in value:
            yield from _dumped(inner)
        yield "]"
    else:
        yield f"{value!r},"


def _braces(text: str, path: Path) -> str:
    """Words, texts and marks of C, C++, CUDA and Rust; the end of a line counts only where it ends a directive."""
    said, directive, fresh = [], False, True
    for found in _BRACES.finditer(text):
        kind = found.lastgroup
        if kind == "line":
            if directive and text[found.start() - 1] != "\\":
                said.append("\n")
                directive = False
            fresh = True
        elif kind != "comment":
            directive = directive or (fresh and found[0].startswith("#"))
            fresh = False
            said.append(found[0])
    return "\0".join(said)


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


_BRACED = (".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".cuh", ".rs")
_PARSERS: Mapping[str, Callable[[str, Path], str]] = {
    ".py": _python,
    **dict.fromkeys(_BRACED, _braces),
    ".json": lambda text, path: _as_json(json.loads(text)),
    ".toml": lambda text, path: _as_json(tomllib.loads(text)),
    **dict.fromkeys((".yaml", ".yml"), lambda text, path: _as_json(plain(parse_yaml(text, path).root))),
}
