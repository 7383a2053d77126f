"""The documents are wrapped, and what they name exists: files, headings, commands, modules, make targets."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from aprtui.cli.main import cli
from tests.conftest import CHECKOUT

WIDTH = 120

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "docs/skill/*.md", "contracts/*.md", "kernels/*.md", "tests/data/*.md")
    for path in CHECKOUT.glob(pattern)
)

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))

_FENCE = re.compile(r"^ *```")
_LONG_SPAN = re.compile(r"`[^`]{60,}`")  # code that cannot be broken
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"(?:^|[|;(]|&&|\s)aprtui((?: [a-z][a-z-]*)+)")
_PATH = re.compile(r"(?:aprtui|tests|kernels|contracts|docs)/[\w./-]+")
_ROOMS = ("", "aprtui", "aprtui/tui", "aprtui/compare", "aprtui/engine", "aprtui/engine/cpu", "aprtui/engine/process")
"""Where paths in `docs/architecture.md` begin: at the top, or in the room of their paragraph."""
_MODULE = re.compile(r"python3? -m ([a-z_][\w.]*)")
_MAKE = re.compile(r"^make ([a-z][a-z-]*)")


def lines(document: Path) -> Iterator[tuple[int, str, bool]]:
    """Number and text of each line, and whether it stands in a block of code."""
    code = False
    for number, line in enumerate(document.read_text().splitlines(), 1):
        fence = _FENCE.match(line) is not None
        code ^= fence
        yield number, line, code or fence


def code_of(document: Path) -> list[str]:
    """Lines of blocks of code, and spans of code in prose."""
    blocks = [line.partition("#")[0].strip() for _, line, code in lines(document) if code]
    prose = "\n".join(line for _, line, code in lines(document) if not code)
    return blocks + _SPAN.findall(prose)


def anchors(document: Path) -> set[str]:
    """Fragments of the headings, as GitHub makes them."""
    headings = [line.lstrip("#").strip().lower() for _, line, code in lines(document) if not code and line[:1] == "#"]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@every_document
def test_prose_is_wrapped(document: Path) -> None:
    long = [
        f"{document.name}:{number}: {len(line)} characters"
        for number, line, code in lines(document)
        if not code and not line.startswith("|") and len(_LONG_SPAN.sub("", _LINK.sub("]", line))) > WIDTH
    ]
    assert not long, f"longer than {WIDTH}"


@every_document
def test_links_lead_to_files_and_headings_that_exist(document: Path) -> None:
    broken = []
    for number, line, code in lines(document):
        for target in () if code else _LINK.findall(line):
            path, _, fragment = target.partition("#")
            file = document.parent / path if path else document
            if "://" in target or target.startswith("mailto:"):
                continue
            if not file.exists() or (fragment and file.suffix == ".md" and fragment not in anchors(file)):
                broken.append(f"{document.name}:{number}: {target}")
    assert not broken


def command_exists(words: list[str]) -> bool:
    """Whether `aprtui` has the command that `words` begin with; words behind a command are its arguments."""
    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group):
            return True
        found = command.get_command(click.Context(command), word)
        if found is None:
            return False
        command = found
    return True


@every_document
def test_commands_that_are_named_exist(document: Path) -> None:
    if document.name == "extending.md":
        return  # it names the commands that its examples add; tests/test_extending.py carries them out
    targets = set(re.findall(r"^([a-z][a-z-]*):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    missing = []
    for code in code_of(document):
        missing += [found for found in _COMMAND.findall(code) if not command_exists(found.split())]
        missing += [found for found in _MODULE.findall(code) if importlib.util.find_spec(found) is None]
        missing += [found for found in _MAKE.findall(code) if found not in targets]
    assert not missing


def test_files_of_the_code_that_are_named_exist() -> None:
    for document in DOCUMENTS:
        if document.name not in ("extending.md", "CHANGELOG.md"):
            named = [span for span in code_of(document) if _PATH.fullmatch(span) and "/data/" not in span]
            assert [path for path in named if not (CHECKOUT / path).exists()] == [], document.name
    walks = [span for span in code_of(CHECKOUT / "docs" / "architecture.md") if re.fullmatch(r"[\w/]+\.py", span)]
    assert len(walks) > 30
    assert [path for path in walks if not any((CHECKOUT / room / path).exists() for room in _ROOMS)] == []


def test_every_document_of_the_checkout_is_looked_at() -> None:
    if not (CHECKOUT / ".git").exists():
        pytest.skip("not a checkout")
    done = subprocess.run(["git", "ls-files", "*.md"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert {str(path.relative_to(CHECKOUT)) for path in DOCUMENTS} >= set(done.stdout.split())
