"""From a YAML file to a `Document`: both shapes of every section, the aliases of fields, the older dialect.

A section may be a list of entries, or a mapping from their names; an entry may be a text alone. A field of the wrong
kind (a list instead of a text) is read as text, so that it can be displayed; a section that is neither list nor mapping
is an error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aprtui.contracts.documents.document import (
    Blocker,
    CheckCall,
    Claim,
    ContractError,
    Document,
    Equation,
    Extras,
    Falsifier,
    Harness,
    Maturity,
    Metadata,
    Obligation,
    QaGate,
    StatedEvidence,
)
from aprtui.contracts.documents.shape import refusal
from aprtui.yaml_file import YamlFile, YamlList, YamlMapping, YamlNode, YamlScalar, plain, read_yaml, text, texts

METADATA, EQUATIONS, OBLIGATIONS = "metadata", "equations", "proof_obligations"
TESTS, LEGACY_TESTS = "falsification_tests", "falsification"
HARNESSES, QA_GATE = "kani_harnesses", "qa_gate"

_READ = (METADATA, EQUATIONS, OBLIGATIONS, TESTS, LEGACY_TESTS, HARNESSES, QA_GATE)
_BLOCKS_ON = "full_discharge_blocks_on"
_VOUCHES_FOR = "vouches_for"
_RESOLVED = re.compile(r"\bRESOLVED\b")
"""In the text of a blocker: it no longer blocks."""


def read_document(path: Path) -> Document:
    """The contract in `path`. Raises `YamlError`, naming file and line."""
    return document_of(read_yaml(path))


def document_of(file: YamlFile) -> Document:
    """The contract that `file` holds. Raises `YamlError` where the file, or a section of it, is of the wrong kind."""
    root = file.mapping("a mapping with metadata, equations, falsification_tests, …")
    entries = _Sections(file.path, root)
    metadata = _metadata(entries.mapping(METADATA))
    default = metadata.vouches_for
    return Document(
        line=1,
        lines=root.lines,
        extras=_extras(root, _READ),
        path=file.path,
        keys=tuple(root.fields),
        metadata=metadata,
        equations=tuple(_equation(found) for found in entries.of(EQUATIONS, "formula")),
        obligations=tuple(_obligation(found) for found in entries.of(OBLIGATIONS, "property")),
        falsifiers=(
            *(_falsifier(found, default) for found in entries.of(TESTS, "test")),
            *(_falsifier(found, default, legacy=True) for found in entries.of(LEGACY_TESTS, "description")),
        ),
        harnesses=tuple(_harness(found) for found in entries.of(HARNESSES, "harness")),
        qa_gate=_qa_gate(entries.mapping(QA_GATE)) if QA_GATE in root.fields else None,
        duplicates=file.duplicates,
        refusal=refusal(root),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """An entry of a section, with its name there (empty in a list)."""

    name: str
    tree: YamlMapping

    def first(self, *keys: str) -> str:
        """The text of the first of `keys` that holds one."""
        return next((found for key in keys if (found := text(self.tree.fields.get(key)))), "")

    def written(self, key: str) -> str | None:
        """The text of `key`; None where it is not written."""
        return text(self.tree.fields[key]) if key in self.tree.fields else None


@dataclass(frozen=True, slots=True)
class _Sections:
    path: Path
    root: YamlMapping

    def mapping(self, section: str) -> YamlMapping:
        """A section that is one record; a text alone is its description. Empty where it is missing."""
        node = self.root.fields.get(section)
        line = self.root.lines.get(section, 1)
        if node is None or (isinstance(node, YamlScalar) and node.value is None):
            return YamlMapping({}, {}, line, 1)
        if isinstance(node, YamlScalar):
            return YamlMapping({"description": node}, {"description": line}, line, 1)
        if isinstance(node, YamlList):
            raise ContractError(self.path, line, f"{section}: expected a mapping, found a list: correct it")
        return YamlMapping(node.fields, node.lines, line, node.size)

    def of(self, section: str, of_text: str) -> Iterator[_Found]:
        """The entries of `section`; an entry that is a text alone becomes the field `of_text`."""
        node = self.root.fields.get(section)
        if node is None or (isinstance(node, YamlScalar) and node.value is None):
            return
        if isinstance(node, YamlList):
            named = [("", item, item.line) for item in node.items]
        elif isinstance(node, YamlMapping):
            named = [(name, value, node.lines[name]) for name, value in node.fields.items()]
        else:
            raise ContractError(
                self.path, node.line, f"{section}: expected a list or a mapping, found a text: correct it"
            )
        for name, entry, line in named:
            if isinstance(entry, YamlMapping):
                yield _Found(name, YamlMapping(entry.fields, entry.lines, line, entry.size))
            else:
                yield _Found(name, YamlMapping({of_text: entry}, {of_text: entry.line}, line, 1))


def _extras(tree: YamlMapping, known: Collection[str]) -> Extras:
    return {key: plain(value) for key, value in tree.fields.items() if key not in known}


def _metadata(tree: YamlMapping) -> Metadata:
    found = _Found("", tree)
    fields = tree.fields
    known = ("version", "description", "status", "kind", "registry", "references", "depends_on", "binds_to",
             _VOUCHES_FOR)  # fmt: skip
    registry = fields.get("registry")
    return Metadata(
        tree.line, tree.lines, _extras(tree, known),
        version=found.first("version"),
        description=found.first("description"),
        status=found.first("status"),
        kind=found.first("kind") or None,
        registry=isinstance(registry, YamlScalar) and registry.value is True,
        references=texts(fields.get("references")),
        depends_on=texts(fields.get("depends_on")),
        binds_to=texts(fields.get("binds_to")),
        vouches_for=texts(fields.get(_VOUCHES_FOR)),
    )  # fmt: skip


def _equation(found: _Found) -> Equation:
    known = ("name", "id", "formula", "domain", "codomain", "invariants")
    return Equation(
        found.tree.line, found.tree.lines, _extras(found.tree, known),
        name=found.name or found.first("name", "id"),
        formula=found.first("formula"),
        domain=found.first("domain"),
        codomain=found.first("codomain"),
        invariants=texts(found.tree.fields.get("invariants")),
    )  # fmt: skip


def _obligation(found: _Found) -> Obligation:
    known = (
        "id", "type", "property", "statement", "formal", "verification", "applies_to", "requires", "applies_to_phase",
        "parent_contract", "na_reason", "na_owner",
    )  # fmt: skip
    lean = found.tree.fields.get("lean")
    return Obligation(
        found.tree.line, found.tree.lines, _extras(found.tree, known),
        id=found.first("id") or found.name,
        type=found.first("type") or "invariant",
        property=found.first("property", "statement"),
        formal=found.first("formal", "verification"),
        applies_to=found.first("applies_to"),
        requires=found.written("requires"),
        applies_to_phase=found.written("applies_to_phase"),
        parent_contract=found.written("parent_contract"),
        lean_status=text(lean.fields.get("status")) if isinstance(lean, YamlMapping) else None,
        na_reason=found.written("na_reason"),
        na_owner=found.written("na_owner"),
    )  # fmt: skip


def _falsifier(found: _Found, vouches_for: tuple[str, ...], legacy: bool = False) -> Falsifier:
    fields, lines = found.tree.fields, found.tree.lines
    claims = tuple(Claim(key, text(fields[key]), lines[key]) for key in fields if _is_claim(key) and text(fields[key]))
    evidence = tuple(_evidence(key, value, lines[key]) for key, value in fields.items() if _is_evidence(key))
    known = {
        "id", "rule", "description", "name", "prediction", "expected", "test", "command", "if_fails", "fails_if",
        "binds_to", "check", _VOUCHES_FOR, *(claim.key for claim in claims), *(entry.key for entry in evidence),
    }  # fmt: skip
    return Falsifier(
        found.tree.line, lines, _extras(found.tree, known),
        id=found.first("id") or found.name,
        rule=found.first("rule", "description"),
        name=found.first("name"),
        prediction=found.first("prediction", "expected"),
        test=found.first("test", "command"),
        if_fails=found.first("if_fails", "fails_if"),
        claims=claims,
        binds_to=texts(fields.get("binds_to")),
        evidence=evidence,
        check=_check(fields.get("check"), lines.get("check", found.tree.line)),
        blockers=tuple(_blockers(claims, fields, lines)),
        vouches_for=texts(fields.get(_VOUCHES_FOR)) or vouches_for,
        legacy=legacy,
    )  # fmt: skip


def _is_claim(key: str) -> bool:
    return key in ("status", "discharge_status") or key.startswith("status_v")


def _is_evidence(key: str) -> bool:
    return key in ("live_discharge", "evidence") or key.endswith("_evidence") or key.startswith("evidence_")


def _evidence(key: str, tree: YamlNode, line: int) -> StatedEvidence:
    if isinstance(tree, YamlMapping):
        return StatedEvidence(key, (), {name: texts(value) for name, value in tree.fields.items()}, line)
    return StatedEvidence(key, texts(tree), {}, line)


def _blockers(claims: tuple[Claim, ...], fields: Mapping[str, YamlNode], lines: Mapping[str, int]) -> Iterator[Blocker]:
    for claim in claims:
        if claim.maturity is Maturity.BLOCKED:
            yield Blocker(claim.key, claim.status, claim.line)
    for waited in texts(fields.get(_BLOCKS_ON)):
        if _RESOLVED.search(waited):
            continue
        yield Blocker(_BLOCKS_ON, waited, lines[_BLOCKS_ON])


def _check(tree: YamlNode | None, line: int) -> CheckCall | None:
    """`check: name`, or a mapping with `name` and parameters."""
    if isinstance(tree, YamlMapping):
        return CheckCall(text(tree.fields.get("name")), _extras(tree, ("name",)), line)
    name = text(tree)
    return CheckCall(name, {}, line) if name else None


def _harness(found: _Found) -> Harness:
    return Harness(
        found.tree.line, found.tree.lines, _extras(found.tree, ("id", "obligation", "bound")),
        id=found.first("id") or found.name,
        obligation=found.first("obligation"),
        bound=found.first("bound"),
    )  # fmt: skip


def _qa_gate(tree: YamlMapping) -> QaGate:
    found = _Found("", tree)
    return QaGate(
        tree.line, tree.lines, _extras(tree, ("id", "name", "checks", "pass_criteria")),
        id=found.first("id"),
        name=found.first("name"),
        checks=texts(tree.fields.get("checks")),
        pass_criteria=found.first("pass_criteria"),
    )  # fmt: skip
