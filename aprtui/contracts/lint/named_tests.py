"""The tests that a falsifier's command names, as far as a source tree can tell whether they exist.

Of `cargo test` the filter (any test or module whose name contains it) and the integration test that `--test` names; of
`pytest` the files and the names behind `::`. Other commands, and prose around these, are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from aprtui.contracts.lint.source_tree import SourceTree

_CARGO = re.compile(r"\bcargo\s+(?:nextest\s+run|test)\b([^\n;|&`]*)")
_PYTEST = re.compile(r"\bpytest\b([^\n;|&`]*)")
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:::[A-Za-z_][A-Za-z0-9_]*)*")
_WITH_VALUE = frozenset({
    "-p", "--package", "--features", "--bin", "--example", "--bench", "--target", "--manifest-path", "--profile", "-j",
})  # fmt: skip


def missing_tests(text: str, source: SourceTree) -> Iterator[str]:
    """What `text` names as a test and `source` lacks, each in words."""
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
            # One filter; what follows it, and a word that is no path, is prose.
            part = word.rpartition("::")[2]
            if _PATH.fullmatch(word) and not source.has_name_with(part) and not source.has_stem(part):
                yield f"no code names a test with {part:.80}"
            return
