"""Promoting a falsifier: its status, the contract's version and changelog, edited in place and checked afterwards."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from aprtui.compare.verdict import Verdict
from aprtui.contracts.changes.yaml_edit import Edit, EditableYaml, edited, entry, has, parsed, quoted
from aprtui.contracts.documents.document import ContractError, Document, Falsifier, Maturity
from aprtui.contracts.documents.reader import LEGACY_TESTS, METADATA, TESTS
from aprtui.contracts.evidence.assessment import Assessment, Standing, missing_provenance
from aprtui.yaml_file import YamlError, parse_yaml, plain

STATUS, DISCHARGE_STATUS, VERSION, CHANGELOG = "status", "discharge_status", "version", "changelog"
DISCHARGED_NEEDS = (
    "a PASS against an oracle on the same weights, or PASSes of the same model and version on two machines (hardware "
    "and driver differ); with clean revisions and known models"
)
_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})(\.\d{1,6})?")


def missing_evidence(assessment: Assessment, level: Maturity) -> Iterator[str]:
    """What is missing for evidence to carry `level`; nothing where it does, or where the level claims nothing."""
    if level < Maturity.ALGORITHM or assessment.now >= level:
        return
    newest = assessment.newest
    if newest is None:
        yield "a PASS that is recorded: aprtui contracts check --id ID --record"
        return
    if assessment.against is not None:
        failed = assessment.against.record
        words = f"the FAIL of {failed.date[:10]}: {failed.reason}"
        if newest.record.verdict is Verdict.PASS:
            yield f"a PASS on other sources than {words}; what holds and fails by turns is refuted"
        else:
            yield f"a PASS after {words}"
        return
    fresh = [piece.record for piece in assessment.evidence if piece.standing is Standing.FRESH]
    for piece in assessment.evidence:
        if piece.standing is not Standing.FRESH:
            yield f"evidence that holds: that of {piece.record.date[:10]} is {piece.words}"
    live = [evidence for evidence in fresh if evidence.live]
    if level >= Maturity.FUNCTIONAL and not live:
        yield "a PASS on what an engine produced"
    if level >= Maturity.DISCHARGED:
        for evidence in live:
            if missing := missing_provenance(evidence):
                yield f"provenance of the evidence of {evidence.date[:10]}: {missing}"
        yield DISCHARGED_NEEDS


def next_version(document: Document) -> str:
    """The version after a promotion: the second number grows by one. Raises `ContractError`."""
    match = _VERSION.fullmatch(document.metadata.version)
    if match is None:
        line = document.metadata.line_of(VERSION)
        raise ContractError(
            document.path, line, f"metadata.version {document.metadata.version!r:.40}: expected numbers, as 1.2.0"
        )
    return f"{match[1]}.{int(match[2]) + 1}{'.0' if match[3] else ''}"


def promoted(text: str, document: Document, falsifier: Falsifier, status: str, date: str, change: str) -> str:
    """The contract's `text` with the new `status`, the next version and a changelog entry on top.

    Raises `ContractError` where that is impossible without changing anything else.
    """
    version = next_version(document)
    source = parsed(text, document.path)
    test = _test_node(source, falsifier)
    metadata = entry(source.root, METADATA)[1]
    if not isinstance(metadata, MappingNode):
        raise source.refuse(metadata, f"{METADATA} is no mapping")
    key = status_key(falsifier)
    edits = [
        source.replaced(entry(test, key)[1], status)
        if has(test, key)
        else source.added_after(test, _first_key(test), [f"{key}: {status}"]),
        source.replaced(entry(metadata, VERSION)[1], version),
        _changelog_entry(source, metadata, version, date, change),
    ]
    result = edited(text, edits)
    _verify(source, result, falsifier, status, version)
    return result


def status_key(falsifier: Falsifier) -> str:
    """The field to write the status to: of `status` and `discharge_status` the one that claims more."""
    claims = [claim for claim in falsifier.claims if claim.key in (STATUS, DISCHARGE_STATUS)]
    return max(claims, key=lambda claim: (claim.maturity, claim.key == STATUS)).key if claims else STATUS


def _test_node(source: EditableYaml, falsifier: Falsifier) -> MappingNode:
    section = entry(source.root, LEGACY_TESTS if falsifier.legacy else TESTS)[1]
    for name, node in _entries(section):
        if isinstance(node, MappingNode) and falsifier.id == _id_of(name, node):
            return node
    raise source.refuse(section, f"{falsifier.id} is not an entry with fields")


def _first_key(test: MappingNode) -> str:
    """The key to insert a new one after: `id`, or the first key where the section is a mapping from names."""
    return "id" if has(test, "id") or not test.value else str(test.value[0][0].value)


def _entries(section: Node) -> Iterator[tuple[str, Node]]:
    if isinstance(section, SequenceNode):
        yield from (("", node) for node in section.value)
    elif isinstance(section, MappingNode):
        yield from ((str(key.value), node) for key, node in section.value)


def _id_of(name: str, node: MappingNode) -> str:
    return str(entry(node, "id")[1].value).strip() if has(node, "id") else name


def _verify(source: EditableYaml, result: str, falsifier: Falsifier, status: str, version: str) -> None:
    """Read the result back: only what was to change may differ. Raises `ContractError`."""
    before = plain(parse_yaml(source.text, source.path).root)
    try:
        after = plain(parse_yaml(result, source.path).root)
        expected = _with(before, falsifier, status, version, after[METADATA][CHANGELOG])
    except (YamlError, KeyError, TypeError) as error:
        raise ContractError(source.path, falsifier.line, "cannot be edited in place: edit it by hand") from error
    if after != expected or not _grew_on_top(before[METADATA].get(CHANGELOG), after[METADATA][CHANGELOG]):
        raise ContractError(source.path, falsifier.line, "an edit in place would change more: edit it by hand")


def _with(before: Any, falsifier: Falsifier, status: str, version: str, changelog: Any) -> Any:
    expected = copy.deepcopy(before)
    expected[METADATA][VERSION] = version
    expected[METADATA][CHANGELOG] = changelog
    section = expected[LEGACY_TESTS if falsifier.legacy else TESTS]
    named = [("", test) for test in section] if isinstance(section, list) else list(section.items())
    for name, test in named:
        if isinstance(test, dict) and str(test.get("id", name)).strip() == falsifier.id:
            test[status_key(falsifier)] = status
    return expected


def _grew_on_top(before: Any, after: Any) -> bool:
    """Whether a changelog is unchanged but for one entry on top."""
    if isinstance(after, list):
        return bool(after[1:] == before)
    return list(after.items())[1:] == list((before or {}).items())


def _changelog_entry(source: EditableYaml, metadata: MappingNode, version: str, date: str, change: str) -> Edit:
    """An entry for `version` before all others, in their form; a mapping from versions where there is no changelog.

    Raises `ContractError` for a changelog whose entries do not have lines of their own.
    """
    if not has(metadata, CHANGELOG):
        dated = quoted(f"{date}: {change}")
        return source.added_after(metadata, "version", [f"{CHANGELOG}:", f"  {quoted(version)}:", f"    - {dated}"])
    key, value = entry(metadata, CHANGELOG)
    if not isinstance(value, MappingNode | SequenceNode) or value.flow_style or not value.value:
        raise source.refuse(key, f"metadata.{CHANGELOG} has no line an entry")
    lines = (
        _in_mapping(value, version, date, change)
        if isinstance(value, MappingNode)
        else _in_list(value, version, date, change)
    )
    return source.line_after(key.end_mark.index, " " * value.start_mark.column, lines)


def _in_mapping(changelog: MappingNode, version: str, date: str, change: str) -> list[str]:
    key, value = changelog.value[0]
    name = version if isinstance(key, ScalarNode) and key.style is None and version.count(".") > 1 else quoted(version)
    text = quoted(f"{date}: {change}")
    return [f"{name}: {text}"] if isinstance(value, ScalarNode) else [f"{name}:", f"  - {text}"]


def _in_list(changelog: SequenceNode, version: str, date: str, change: str) -> list[str]:
    first: Node = changelog.value[0]
    if not isinstance(first, MappingNode):
        return [f"- {quoted(f'{version} - {date} - {change}')}"]
    known = {"version": quoted(version), "date": quoted(date)}
    keys = [key.value for key, _ in first.value if isinstance(key, ScalarNode)]
    text_key = next((key for key in keys if key not in known), "changes")
    is_list = has(first, text_key) and isinstance(entry(first, text_key)[1], SequenceNode)
    text = quoted(change)
    fields = [f"{key}: {known[key]}" for key in known if key in keys]
    fields.append(f"{text_key}: [{text}]" if is_list else f"{text_key}: {text}")
    return [f"{'- ' if index == 0 else '  '}{field}" for index, field in enumerate(fields)]
