"""The rules of `pv validate`, stated once more on plain values and in another way, find what ours find: in the real
contracts, and in hundreds made wrong at random."""

from __future__ import annotations

import copy
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from aprtui.contracts.documents.reader import document_of
from aprtui.contracts.documents.validation import REFUSED, validate
from aprtui.resources import contracts
from aprtui.yaml_file import parse_yaml, plain, read_yaml
from tests.contracts.samples import SOUND

SECTIONS = (
    "metadata", "equations", "proof_obligations", "kernel_structure", "simd_dispatch", "enforcement",
    "falsification_tests", "kani_harnesses", "qa_gate", "verification_summary", "type_invariants", "coq_spec", "beat",
    "stories",
)  # fmt: skip
ENTRIES = ("proof_obligations", "falsification_tests", "kani_harnesses")
FIELDS = {
    "requires": ["PRE"], "applies_to_phase": ["first"], "parent_contract": ["base-v1", "other-v1"],
    "na_reason": ["speed", " "], "na_owner": ["a bench", ""], "applies_to": ["not_applicable", "all"],
    "type": ["postcondition", "loop_invariant", "subcontract", "bound"],
}  # fmt: skip


def forms(key: str) -> set[str]:
    squashed = re.sub("[^a-z0-9]", "", key.lower())
    return {squashed, *(squashed[: -len(end)] for end in ("s", "es") if squashed.endswith(end))} - {""}


def said(entry: dict[str, Any], name: str, alias: str = "") -> str:
    value = entry.get(name, entry.get(alias))
    return "" if value is None else str(value)


def restated(contract: dict[str, Any]) -> Counter[str]:
    return Counter(f"SCHEMA-{code:03d}" if code else "PROVABILITY-001" for code in _codes(contract))


def _codes(contract: dict[str, Any]) -> Iterator[int]:
    head = contract["metadata"]
    yield from [1] * (not head.get("references")) + [2] * (not said(head, "version"))
    for key in set(contract) - set(SECTIONS):
        if key == "kind":
            yield 18
        elif any(forms(key) & forms(section) for section in SECTIONS):
            yield 19
    equations = contract.get("equations") or {}
    obligations, tests, harnesses = (contract.get(section) or [] for section in ENTRIES)
    if head.get("kind") in (None, "kernel") and head.get("registry") is not True:
        yield from [3] * (not equations) + [13] * (contract.get("qa_gate") is None)
        formulas = equations.values() if isinstance(equations, dict) else equations
        yield from (4 for equation in formulas if not said(equation, "formula"))
        yield from [0] * sum(not entries for entries in (obligations, tests, harnesses))
        yield from [0] * (len(tests) < len(obligations))
    yield from _of_obligations(obligations, head.get("depends_on") or [])
    for entries, code in ((tests, 7), (harnesses, 10)):
        ids = [said(entry, "id") for entry in entries]
        yield from [code] * (len(ids) - len(set(ids)))
    for test in tests:
        yield from [8] * (not said(test, "prediction", "expected")) + [9] * (not said(test, "if_fails", "fails_if"))
    for harness in harnesses:
        yield from [11] * (not said(harness, "obligation")) + [12] * (harness.get("bound") is None)


def _of_obligations(obligations: list[dict[str, Any]], parents: list[str]) -> Iterator[int]:
    formal = [text for entry in obligations if (text := said(entry, "formal", "verification"))]
    yield from [6] * (len(formal) - len(set(formal)))
    for entry in obligations:
        kind, parent = entry.get("type") or "invariant", entry.get("parent_contract")
        yield from [5] * (not said(entry, "property", "statement"))
        yield from [14] * (entry.get("requires") is not None and kind != "postcondition")
        yield from [15] * (entry.get("applies_to_phase") is not None and not kind.startswith("loop"))
        if parent is not None:
            yield from [16] * (kind != "subcontract") + [17] * (kind == "subcontract" and parent not in parents)
        if entry.get("applies_to") == "not_applicable":
            yield from [21] * (not said(entry, "na_reason").strip()) + [22] * (not said(entry, "na_owner").strip())
        else:
            yield from [23] * sum(entry.get(name) is not None for name in ("na_reason", "na_owner"))


def found(text: str) -> Counter[str]:
    findings = validate(document_of(parse_yaml(text, Path("x.yaml"))))
    return Counter(finding.code for finding in findings if finding.code.startswith(("SCHEMA", "PROV", REFUSED)))


def wrong(contract: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The contract with one thing removed, emptied, doubled, added or renamed."""
    contract = copy.deepcopy(contract)
    filled = [section for section in ENTRIES if contract.get(section)]
    entries = contract[chance.choice(filled)] if filled else [contract["metadata"]]
    entry = chance.choice(entries)
    match chance.randrange(7):
        case 0:
            entry.pop(chance.choice(list(entry)), None)
        case 1:
            entry[chance.choice(list(entry))] = ""
        case 2:
            entry.update({key: value for key, value in chance.choice(entries).items() if chance.random() < 0.3})
        case 3:
            entries.remove(entry)
        case 4:
            section = chance.choice(list(contract)[1:])
            value = contract.pop(section)
            contract.update(
                {chance.choice([f"{section}s", section.title(), "kind"]): value} if chance.random() < 0.5 else {}
            )
        case 5:
            field, value = chance.choice([("kind", "pattern"), ("registry", True), ("references", []), ("version", "")])
            contract["metadata"][field] = value
        case _ if contract.get("proof_obligations"):
            field = chance.choice(list(FIELDS))
            chance.choice(contract["proof_obligations"])[field] = chance.choice(FIELDS[field])
    return contract


def test_real_contracts_have_the_codes_of_the_restatement(conformance: Path) -> None:
    paths = [*conformance.rglob("contracts/**/*.yaml"), *contracts().glob("*.yaml")]
    assert len(paths) > 40
    for path in paths:
        assert found(path.read_text()) == restated(plain(read_yaml(path).root)), path


def test_contracts_made_wrong_at_random_have_the_codes_of_the_restatement(conformance: Path) -> None:
    chance = random.Random(18)
    paths = sorted(conformance.rglob("contracts/provable-contracts/*.yaml"))[:8]
    sources = [plain(read_yaml(path).root) for path in paths] + [plain(parse_yaml(SOUND, Path("s")).root)] * 8
    raised: Counter[str] = Counter()
    refused = 0
    for _ in range(300):
        contract = wrong(wrong(chance.choice(sources), chance), chance)
        text = yaml.safe_dump(contract, sort_keys=False, allow_unicode=True)
        codes = found(text)
        if REFUSED in codes:
            refused += 1
            continue
        assert codes == restated(contract), text
        raised += codes
    assert refused < 120 and len(raised) > 15, raised
