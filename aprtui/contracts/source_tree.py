"""A source tree: whether the files, names and tests that a contract mentions exist in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from aprtui.contracts.evidence.project import BUILD_FOLDERS
from aprtui.errors import UsageError

_MOST_BYTES = 4 << 20

# Patterns of text that is no code. Each takes an unclosed quote or comment up to the end, so that scanning never
# goes back over a file.
_PYTHON = re.compile(
    rb"#[^\n]*"
    rb'|"""(?:\\.|[^\\])*?(?:"""|\Z)' rb"|'''(?:\\.|[^\\])*?(?:'''|\Z)"
    rb'|"(?:\\.|[^"\\\n])*"?' rb"|'(?:\\.|[^'\\\n])*'?",
    re.DOTALL,
)  # fmt: skip
_BRACES = re.compile(
    rb"//[^\n]*|/\*.*?(?:\*/|\Z)"
    rb'|R"(?P<mark>[^()\\\s]{0,16})\(.*?(?:\)(?P=mark)"|\Z)'
    rb'|\br(?P<fence>\#{1,8})".*?(?:"(?P=fence)|\Z)|\br"[^"]*"?'
    rb"|'(?:\\[^\n]{1,8}|[^'\\\n])'" rb'|"(?:\\.|[^"\\])*(?:"|\Z)',
    re.DOTALL,
)  # fmt: skip
"""Rust, C and C++: a single quote that closes after one character is a character, else the mark of a Rust lifetime."""
_HASH = re.compile(rb"(?:^|(?<=\s))#[^\n]*", re.MULTILINE)
"""Shell and TOML: a text in quotes may be a command, or the name of a test, so it counts as code."""

_NO_CODE = {
    ".py": _PYTHON, ".sh": _HASH, ".toml": _HASH,
    **dict.fromkeys((".rs", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".cuh"), _BRACES),
}  # fmt: skip
_WORD = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
_DEFINED = re.compile(rb"\b(?:fn|def|class|struct|enum|trait)\s+([A-Za-z_][A-Za-z0-9_]*)")
_DEFINING = frozenset({".rs", ".py"})
"""Languages in which a word before it says that a name is defined."""
_CARGO = re.compile(r"\bcargo\s+(?:nextest\s+run|test)\b([^\n;|&`]*)")
_PYTEST = re.compile(r"\bpytest\b([^\n;|&`]*)")
NAME_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:::[A-Za-z_][A-Za-z0-9_]*)*")
_WITH_VALUE = frozenset({
    "-p", "--package", "--features", "--bin", "--example", "--bench", "--target", "--manifest-path", "--profile", "-j",
})  # fmt: skip


class SourceTree:
    """The files below `root`. Every word of its sources is collected once, on the first question about a name."""

    def __init__(self, root: Path) -> None:
        """Raises `UsageError` where there is no such directory."""
        if not root.is_dir():
            raise UsageError(f"{root}: is not a directory: give the root of a source tree")
        self.root = root
        self._words: frozenset[bytes] | None = None
        self._joined = b""
        self._defined: frozenset[bytes] = frozenset()
        self._stems: frozenset[str] = frozenset()

    def has_file(self, path: str) -> bool:
        """Whether `path`, relative to the root, is a file or folder in the tree."""
        try:
            found = (self.root / path).resolve()
            return found.exists() and found.is_relative_to(self.root.resolve())
        except (OSError, ValueError):
            return False

    def has_name(self, name: str) -> bool:
        """Whether the code of some source below the root contains `name` as a whole word.

        Comments and texts in quotes are no code.
        """
        return name.encode() in self._read()

    def defines(self, name: str) -> bool:
        """Whether the code of some source defines `name`; in languages without a word for that, whether it has it."""
        self._read()
        return name.encode() in self._defined

    def nearest_name(self, name: str) -> str:
        """The name in the code that `name` most resembles; empty where it resembles none."""
        alike = [word.decode() for word in self._read() if word[:3] == name.encode()[:3] and len(word) > len(name) // 2]
        near = get_close_matches(name, alike, 1, 0.75)
        return near[0] if near else ""

    def has_name_with(self, part: str) -> bool:
        """Whether some name in the code contains `part`."""
        self._read()
        return part.encode() in self._joined

    def has_stem(self, stem: str) -> bool:
        """Whether some source below the root has this stem."""
        self._read()
        return stem in self._stems

    def _read(self) -> frozenset[bytes]:
        if self._words is None:
            paths = tuple(self._sources())
            self._stems = frozenset(path.stem for path in paths)
            words: set[bytes] = set()
            defined: set[bytes] = set()
            for path in paths:
                code = _code_of(path)
                words.update(_WORD.findall(code))
                defined.update((_DEFINED if path.suffix in _DEFINING else _WORD).findall(code))
            self._words, self._defined = frozenset(words), frozenset(defined)
            self._joined = b"\n".join(self._words)
        return self._words

    def _sources(self) -> Iterator[Path]:
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(".") and name not in BUILD_FOLDERS]
            for name in files:
                path = Path(folder, name)
                if path.suffix in _NO_CODE and not path.is_symlink():
                    yield path


def _code_of(path: Path) -> bytes:
    """The text of a source without comments and quotes; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return _NO_CODE[path.suffix].sub(b" ", file.read(_MOST_BYTES))
    except OSError:
        return b""


def missing_tests(text: str, source: SourceTree) -> Iterator[str]:
    """The tests that `text` names and `source` lacks, each in words.

    Of `cargo test` these are the filter (any test or module whose name contains it) and the integration test that
    `--test` names; of `pytest` the files and the names behind `::`. Other commands and prose are skipped.
    """
    for match in _CARGO.finditer(text):
        yield from _missing_of_cargo(match[1].split(), source)
    for match in _PYTEST.finditer(text):
        for word in match[1].split():
            path, *names = word.strip("'\"").split("::")
            if not path.endswith(".py"):
                continue
            if not source.has_file(path):
                yield f"there is no test file {path:.80}"
                continue
            for name in (name.partition("[")[0] for name in names):
                if not source.has_name(name):
                    yield f"no code names the test {name:.80}"


def _missing_of_cargo(words: list[str], source: SourceTree) -> Iterator[str]:
    rest = iter(words)
    for word in rest:
        if word == "--":
            return
        if word == "--test":
            name = next(rest, "")
            if not source.has_stem(name):
                yield f"there is no integration test {name:.80}"
        elif word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            # Only the first word is a filter: words after it, and a word that is no path, are prose.
            part = word.rpartition("::")[2]
            if NAME_PATH.fullmatch(word) and not source.has_name_with(part) and not source.has_stem(part):
                yield f"no code names a test with {part:.80}"
            return
