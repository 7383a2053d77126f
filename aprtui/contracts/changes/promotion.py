"""Promoting a falsifier: its status, the contract's version and changelog, edited in place and checked afterwards."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from aprtui.compare.verdict import Verdict
from aprtui.contracts.changes.yaml_edit import Edit, EditableYaml, edited, entry, has, parsed, quoted
from aprtui.contracts.documents.document import ContractError, Document, Falsifier, Maturity, maturity_of
from aprtui.contracts.documents.reader import LEGACY_TESTS, METADATA, TESTS
from aprtui.contracts.evidence.assessment import Assessment, Standing, missing_provenance
from aprtui.contracts.evidence.files import EvidenceRecord
from aprtui.contracts.evidence.stated import EVIDENCE_FILE, FUNCTIONAL_EVIDENCE, LIVE_DISCHARGE
from aprtui.trace.json_value import json_value
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


@dataclass(frozen=True, slots=True)
class Promotion:
    """A falsifier with its new status, and the evidence that carries it; None where the status claims nothing, or where
    the contract itself states it."""

    falsifier: Falsifier
    status: str
    evidence: EvidenceRecord | None = None
    link: str = ""


def promoted(text: str, document: Document, promotions: Sequence[Promotion], date: str) -> str:
    """The contract's `text` with the new statuses, evidence blocks, the next version and a changelog entry on top.

    Raises `ContractError` where that is impossible without changing anything else.
    """
    version = next_version(document)
    source = parsed(text, document.path)
    metadata = entry(source.root, METADATA)[1]
    if not isinstance(metadata, MappingNode):
        raise source.refuse(metadata, f"{METADATA} is no mapping")
    edits = [edit for promotion in promotions for edit in _edits(source, promotion)]
    changes = [_change(promotion) for promotion in promotions]
    edits += [
        source.replaced(entry(metadata, VERSION)[1], version),
        _changelog_entry(source, metadata, version, date, "; ".join(changes)),
    ]
    result = edited(text, edits)
    _verify(source, result, promotions, version)
    return result


def _change(promotion: Promotion) -> str:
    was = promotion.falsifier.status or "without status"
    by = f", by {promotion.link.rpartition('/')[2]}" if promotion.link else ""
    return f"{promotion.falsifier.id} {was} to {promotion.status}{by}"


def _edits(source: EditableYaml, promotion: Promotion) -> Iterator[Edit]:
    """The status of one falsifier, replaced or added, and the block of its evidence behind it."""
    test = _test_node(source, promotion.falsifier)
    key = status_key(promotion.falsifier)
    block = _block_lines(promotion) if _takes_block(source, test, promotion) else []
    if not has(test, key):
        yield source.added_after(test, _first_key(test), [f"{key}: {promotion.status}", *block])
        return
    yield source.replaced(entry(test, key)[1], promotion.status)
    if block:
        yield source.added_after(test, key, block)


def _takes_block(source: EditableYaml, test: MappingNode, promotion: Promotion) -> bool:
    """Whether the entry has room for a block of evidence, and none of that name yet, which is left as it is."""
    name = block_name(promotion.status)
    return bool(name) and promotion.evidence is not None and not test.flow_style and not has(test, name)


def block_name(status: str) -> str:
    """The family's name for a block of evidence of this level; empty where there is none."""
    names = {Maturity.FUNCTIONAL: FUNCTIONAL_EVIDENCE, Maturity.DISCHARGED: LIVE_DISCHARGE}
    return names.get(maturity_of(status), "")


def _block_lines(promotion: Promotion) -> list[str]:
    """The lines of a block: of texts for `functional_evidence`, of fields for `live_discharge`."""
    name, block = block_name(promotion.status), _block(promotion)
    if isinstance(block, list):
        return [f"{name}:", *(f"  - {quoted(text)}" for text in block)]
    return [f"{name}:", *(f"  {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in block.items())]


def _block(promotion: Promotion) -> list[str] | dict[str, Any]:
    evidence = promotion.evidence
    assert evidence is not None, "only what evidence carries has a block"
    host = f"{evidence.host.name}, {evidence.host.processor}"
    artifacts = [(side.model, side.model_sha256) for side in evidence.judged_on if side.model_sha256]
    numbers = {} if evidence.number is None else {evidence.metric: evidence.number, "bound": evidence.bound}
    if maturity_of(promotion.status) is Maturity.FUNCTIONAL:
        of = "".join(f", {model} sha256 {digest}" for model, digest in dict.fromkeys(artifacts))
        measured = ", ".join(f"{name} {number:.6g}" for name, number in numbers.items() if number is not None)
        return [
            f"{evidence.verdict} {evidence.date[:10]} on {host}{of}: {measured or evidence.reason}; {evidence.command}",
            f"Evidence: {promotion.link}",
        ]
    first = artifacts[0] if artifacts else (None, None)
    return {
        "date": evidence.date[:10], "host": host, "artifact": first[0], "artifact_sha256": first[1],
        "command": evidence.command, "metrics": json_value(numbers), EVIDENCE_FILE: promotion.link,
    }  # fmt: skip


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


def _verify(source: EditableYaml, result: str, promotions: Sequence[Promotion], version: str) -> None:
    """Read the result back: only what was to change may differ. Raises `ContractError`."""
    before = plain(parse_yaml(source.text, source.path).root)
    line = promotions[0].falsifier.line
    try:
        after = plain(parse_yaml(result, source.path).root)
        expected = _with(source, before, promotions, version, after[METADATA][CHANGELOG])
    except (YamlError, KeyError, TypeError) as error:
        raise ContractError(source.path, line, "cannot be edited in place: edit it by hand") from error
    if after != expected or not _grew_on_top(before[METADATA].get(CHANGELOG), after[METADATA][CHANGELOG]):
        raise ContractError(source.path, line, "an edit in place would change more: edit it by hand")


def _with(source: EditableYaml, before: Any, promotions: Sequence[Promotion], version: str, changelog: Any) -> Any:
    expected = copy.deepcopy(before)
    expected[METADATA][VERSION] = version
    expected[METADATA][CHANGELOG] = changelog
    for promotion in promotions:
        falsifier = promotion.falsifier
        section = expected[LEGACY_TESTS if falsifier.legacy else TESTS]
        named = [("", test) for test in section] if isinstance(section, list) else list(section.items())
        for name, test in named:
            if isinstance(test, dict) and str(test.get("id", name)).strip() == falsifier.id:
                test[status_key(falsifier)] = promotion.status
                if _takes_block(source, _test_node(source, falsifier), promotion):
                    test[block_name(promotion.status)] = _as_read(_block(promotion))
    return expected


def _as_read(block: Any) -> Any:
    """A block as YAML reads it: from JSON, with numbers as the reader takes them."""
    return plain(parse_yaml(f"block: {json.dumps(block)}", Path("block")).root)["block"]


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
