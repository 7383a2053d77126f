"""Binding registries: which function implements which equation of which contract.

    registry = read_bindings(Path("contracts/aprender/binding.yaml"))
    registry.status(document, equation)

A registry says of itself what is implemented. With a source tree, an equation counts as implemented only if the code
defines its function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path

from aprtui.contracts.documents.document import ContractError, Document, Equation
from aprtui.contracts.source_tree import SourceTree
from aprtui.yaml_file import YamlList, YamlMapping, read_yaml, text

BINDINGS = "bindings"


class ImplementationStatus(StrEnum):
    """How far a function implements an equation, in the words of a registry."""

    IMPLEMENTED = "implemented"
    PARTIAL = "partial"
    NOT_IMPLEMENTED = "not_implemented"
    PENDING = "pending"


CREDIT: Mapping[ImplementationStatus, float] = {
    ImplementationStatus.IMPLEMENTED: 1.0,
    ImplementationStatus.PARTIAL: 0.5,
    ImplementationStatus.NOT_IMPLEMENTED: 0.0,
    ImplementationStatus.PENDING: 0.0,
}


@dataclass(frozen=True, slots=True)
class BoundEquation:
    """An entry of a registry. `contract` is the contract's name without suffix, `missing` the function that is claimed
    to be implemented although the source tree does not have it; empty where there is none."""

    contract: str
    equation: str
    function: str
    status: ImplementationStatus
    missing: str = ""


@dataclass(frozen=True, slots=True)
class BindingRegistry:
    """The entries of a registry file, of which the first for an equation counts."""

    path: Path
    entries: tuple[BoundEquation, ...]

    def of(self, document: Document) -> tuple[BoundEquation, ...]:
        """The entries for a contract."""
        return tuple(entry for entry in self.entries if entry.contract == document.name)

    def find(self, document: Document, equation: Equation) -> BoundEquation | None:
        """The entry for an equation of a contract; None where there is none."""
        return next((entry for entry in self.of(document) if entry.equation == equation.name), None)

    def implements(self, document: Document) -> bool:
        """Whether the contract has equations and every one of them is implemented."""
        found = [self.find(document, equation) for equation in document.equations]
        done = (entry is not None and entry.status is ImplementationStatus.IMPLEMENTED for entry in found)
        return bool(found) and all(done)


def read_bindings(path: Path, source: SourceTree | None = None) -> BindingRegistry:
    """The registry in `path`, held against `source` where that is given.

    Raises `YamlError` for a file without a list of bindings, and for an entry without contract, equation or a known
    status.
    """
    root = read_yaml(path).mapping(f"a registry: a mapping with {BINDINGS}")
    entries = root.fields.get(BINDINGS)
    if not isinstance(entries, YamlList):
        line = root.lines.get(BINDINGS, 1)
        raise ContractError(path, line, f"{BINDINGS}: expected a list of contract, equation, function and status")
    return BindingRegistry(path, tuple(_entry(path, item, source) for item in entries.items))


def _entry(path: Path, item: object, source: SourceTree | None) -> BoundEquation:
    if not isinstance(item, YamlMapping):
        line = getattr(item, "line", 1)
        raise ContractError(path, line, "a binding: expected the fields contract, equation, function and status")
    said = {name: text(item.fields.get(name)) for name in ("contract", "equation", "function", "status")}
    for name in ("contract", "equation", "status"):
        if not said[name]:
            raise ContractError(path, item.line, f"a binding: {name} is missing: write it")
    status = _status(path, item, said["status"])
    function, missing = said["function"].rpartition("::")[2], ""
    if source is not None and status is ImplementationStatus.IMPLEMENTED and not source.defines(function):
        status, missing = ImplementationStatus.NOT_IMPLEMENTED, function or "no function at all"
    return BoundEquation(_stem(said["contract"]), said["equation"], said["function"], status, missing)


def _status(path: Path, item: YamlMapping, word: str) -> ImplementationStatus:
    known = [str(status) for status in ImplementationStatus]
    if word not in known:
        near = get_close_matches(word.lower(), known, 1)
        offered = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        raise ContractError(path, item.lines["status"], f"a binding: status {word!r:.40}: {offered}")
    return ImplementationStatus(word)


def _stem(contract: str) -> str:
    return contract.removesuffix(".yaml").removesuffix(".yml")
