"""The shape of the package: no circles of imports, one meaning a class name, no folder too full to take in."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

import aprtui

PACKAGE = Path(aprtui.__file__).parent
MOST_FILES = 25
"""Python files side by side in a folder: more than that nobody takes in at once."""

SAME_NAME: Mapping[str, str] = {}
"""Class names that stand twice at the top of a module, with the reason for each."""

TYPES_ONLY = ("aprtui/cli/", "aprtui/engine/backends/", "aprtui/tui/widgets/contracts.py")
"""Where `--help` is answered without numpy and engines, and where the app's first frame would wait for all checks of
contracts: what annotations need is imported for type checkers alone."""


@cache
def graph() -> grimp.ImportGraph:
    """All imports, those inside functions and behind `TYPE_CHECKING` too."""
    return grimp.build_graph("aprtui", exclude_type_checking_imports=False)


def circle(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """One circle, from its first member back to it; empty where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE.parent), ast.parse(path.read_text())


def test_no_module_imports_itself_through_others() -> None:
    found = graph()
    assert circle({name: found.find_modules_directly_imported_by(name) for name in found.modules}) == []


def test_no_package_has_siblings_that_need_each_other() -> None:
    found = graph()
    circles = []
    for package in sorted(found.modules):
        children = found.find_children(package)
        imports: dict[str, set[str]] = defaultdict(set)
        for child in children:
            for module in {child, *found.find_descendants(child)}:
                for imported in found.find_modules_directly_imported_by(module):
                    target = next((c for c in children if imported == c or imported.startswith(f"{c}.")), child)
                    if target != child:
                        imports[child].add(target)
        if around := circle(imports):
            circles.append(f"{package}: {' -> '.join(around)}")
    assert circles == []


def test_a_class_name_means_one_thing() -> None:
    """Of classes at the top of a module: messages are nested in widgets (`Table.Chosen`), as in Textual itself."""
    owners: dict[str, list[str]] = defaultdict(list)
    for path, tree in modules():
        for statement in tree.body:
            if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_"):
                owners[statement.name].append(str(path))
    twice = {name: places for name, places in owners.items() if len(places) > 1 and name not in SAME_NAME}
    assert twice == {}
    assert [name for name in SAME_NAME if len(owners[name]) < 2] == [], "excused, and not needed any more"


def test_a_folder_can_be_taken_in_at_once() -> None:
    counts = Counter(path.parent for path in PACKAGE.rglob("*.py"))
    assert {str(folder.relative_to(PACKAGE)): count for folder, count in counts.items() if count > MOST_FILES} == {}


@pytest.mark.gate
def test_no_import_hides_from_the_interpreter() -> None:
    hidden = [
        f"{path}:{line}"
        for path, tree in modules()
        if not str(path).startswith(TYPES_ONLY)
        for line in hidden_imports(tree)
    ]
    assert hidden == []


def test_the_app_maps_no_capture() -> None:
    """A mapped file that another program writes again meanwhile would kill the app (SIGBUS)."""
    mapped = [
        f"{path}:{call.lineno}"
        for path, tree in modules()
        if path.is_relative_to("aprtui/tui")
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Capture.open" and not call.keywords
    ]
    assert mapped == []


def hidden_imports(tree: ast.Module) -> Iterator[int]:
    """Lines of imports of this package behind `TYPE_CHECKING`."""
    for branch in ast.walk(tree):
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test):
            for statement in ast.walk(branch):
                if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("aprtui"):
                    yield statement.lineno
