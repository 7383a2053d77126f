"""The shape of a contract as `pv` reads it: which fields have to be there, and what may stand in them.

    refusal(root)      # None, or line and message of the first field that pv does not read

`pv` reads a contract into records of fixed types and refuses a file with a field that does not fit, whatever its rules
say. Fields that its records do not have may hold anything. A field and its alias are one field, which may stand once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches

from aprtui.contracts.documents.kinds import KAIZEN, KINDS
from aprtui.yaml_file import YamlList, YamlMapping, YamlNode, YamlScalar, text

Problem = tuple[int, str]
Shape = Callable[[YamlNode, str], Iterator[Problem]]
"""Yields line and message of what does not fit in a node; the text names the node."""

_WIDEST = (1 << 32) - 1
_TYPES = (
    "invariant", "equivalence", "bound", "monotonicity", "idempotency", "linearity", "symmetry", "associativity",
    "conservation", "ordering", "completeness", "soundness", "involution", "determinism", "roundtrip", "state_machine",
    "classification", "independence", "termination", "safety", "liveness", "precondition", "postcondition", "frame",
    "loop_invariant", "loop_variant", "old_state", "subcontract",
)  # fmt: skip


def _is_null(node: YamlNode) -> bool:
    return isinstance(node, YamlScalar) and node.value is None


def _kind(node: YamlNode) -> str:
    if isinstance(node, YamlScalar):
        return f"{node.text!r:.40}"
    return "a list" if isinstance(node, YamlList) else "a mapping"


def _texts(node: YamlNode, where: str) -> Iterator[Problem]:
    if not isinstance(node, YamlScalar):
        yield node.line, f"{where}: expected a text, found {_kind(node)}: write a text"


def _plain_texts(node: YamlNode, where: str) -> Iterator[Problem]:
    """A text of an equation: a number there is none."""
    if not isinstance(node, YamlScalar) or not isinstance(node.value, str):
        found = "nothing" if _is_null(node) else _kind(node)
        yield node.line, f"{where}: expected a text, found {found}: write it in quotes"


def _number(node: YamlNode, where: str) -> Iterator[Problem]:
    if _is_null(node) or (isinstance(node, YamlScalar) and node.text.lower().lstrip("+-") in (".inf", ".nan")):
        return
    if not isinstance(node, YamlScalar) or isinstance(node.value, bool | str):
        yield node.line, f"{where}: expected a number, found {_kind(node)}: write the number alone"


def _whole(node: YamlNode, where: str) -> Iterator[Problem]:
    value = node.value if isinstance(node, YamlScalar) else ""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _WIDEST):
        yield node.line, f"{where}: expected a whole number, found {_kind(node)}: write the number alone"


def _integer(node: YamlNode, where: str) -> Iterator[Problem]:
    value = node.value if isinstance(node, YamlScalar) else ""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        yield node.line, f"{where}: expected a whole number, found {_kind(node)}: write the number alone"


def _truth(node: YamlNode, where: str) -> Iterator[Problem]:
    if not isinstance(node, YamlScalar) or not isinstance(node.value, bool):
        yield node.line, f"{where}: expected true or false, found {_kind(node)}"


def _anything(node: YamlNode, where: str) -> Iterator[Problem]:
    yield from ()


def _words(*known: str) -> Shape:
    """One of `known`, as written."""

    def shape(node: YamlNode, where: str) -> Iterator[Problem]:
        if _is_null(node) or (isinstance(node, YamlScalar) and node.text in known):
            return
        near = get_close_matches(text(node).lower(), known, 1)
        offered = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        yield node.line, f"{where} {text(node)!r:.40}: {offered}"

    return shape


def _listed(item: Shape) -> Shape:
    """A list of items; entries are named by their id, else by their number."""

    def shape(node: YamlNode, where: str) -> Iterator[Problem]:
        if _is_null(node):
            return
        if not isinstance(node, YamlList):
            yield node.line, f"{where}: expected a list, found {_kind(node)}: write a list"
            return
        for number, entry in enumerate(node.items, 1):
            named = text(entry.fields.get("id")) if isinstance(entry, YamlMapping) else ""
            yield from item(entry, f"{where} {named or number}")

    return shape


def _mapped(value: Shape) -> Shape:
    def shape(node: YamlNode, where: str) -> Iterator[Problem]:
        if _is_null(node):
            return
        if not isinstance(node, YamlMapping):
            yield node.line, f"{where}: expected a mapping from names, found {_kind(node)}: write a mapping"
            return
        for name, entry in node.fields.items():
            yield from value(entry, f"{where} {name}")

    return shape


def _record(
    fields: Mapping[str, Shape], needed: tuple[str, ...] = (), aliases: Mapping[str, str] | None = None
) -> Shape:
    """A mapping with these fields, of which some are needed; `aliases` give the other name of a field."""
    other = aliases or {}

    def shape(node: YamlNode, where: str) -> Iterator[Problem]:
        if not isinstance(node, YamlMapping):
            yield node.line, f"{where}: expected fields, found {_kind(node)}: write a mapping"
            return
        for name in needed:
            if name not in node.fields:
                yield node.line, f"{where} has no {name}: write it"
        for name, value in fields.items():
            written = [found for found in (name, other.get(name)) if found is not None and found in node.fields]
            if len(written) > 1:
                problem = f"{written[1]} is another name of {name}, which is there too: remove one"
                yield node.lines[written[1]], f"{where}: {problem}"
            for found in written:
                line = node.lines[found]
                yield from ((line, message) for _, message in value(node.fields[found], f"{where}.{found}"))

    return shape


def _of(shape: Shape, *names: str) -> dict[str, Shape]:
    return dict.fromkeys(names, shape)


_LEVELS, _INTAKES = ("basic", "standard", "strict", "proven"), ("missing", "partial", "supported", "unclear")

_METADATA = _record(
    {
        "version": _texts, "description": _texts, "created": _texts, "author": _texts,
        "references": _listed(_texts), "depends_on": _listed(_texts), "registry": _truth, "kind": _words(*KINDS),
        "enforcement_level": _words(*_LEVELS), "locked_level": _texts, "competitor": _texts,
        "demand_score": _integer, "intake_status": _words(*_INTAKES),
    },
    ("version", "description"),
)  # fmt: skip
_EQUATION = _record(
    {
        **_of(_plain_texts, "formula"),
        **_of(_listed(_plain_texts), "invariants", "preconditions", "postconditions"),
        "float_tolerance": _number,
    }
)
_LEAN = _record(
    {
        "theorem": _texts, "module": _texts, "status": _words("proved", "sorry", "wip", "not-applicable"),
        "depends_on": _listed(_texts), "mathlib_imports": _listed(_texts), "notes": _texts,
    },
    ("theorem",),
)  # fmt: skip
_OBLIGATION = _record(
    {
        "type": _words(*_TYPES), "property": _texts, "formal": _texts, "tolerance": _number, "applies_to": _texts,
        "lean": _LEAN, "requires": _texts, "applies_to_phase": _texts, "parent_contract": _texts, "na_reason": _texts,
        "na_owner": _texts,
    },
    aliases={"property": "statement", "formal": "verification"},
)  # fmt: skip
_TEST = _record(
    _of(_texts, "id", "rule", "prediction", "test", "test_harness", "name", "if_fails"),
    ("id",),
    {"rule": "description", "prediction": "expected", "test": "command", "if_fails": "fails_if"},
)
_HARNESS = _record(
    {
        **_of(_texts, "id", "obligation", "property", "solver", "harness"), "bound": _whole,
        "strategy": _words("exhaustive", "stub_float", "compositional", "bounded_int"), "actually_verified": _truth,
    },
    ("id", "obligation"),
)  # fmt: skip
_GATE = _record(
    {**_of(_texts, "id", "name", "description", "pass_criteria", "falsification"), "checks": _listed(_texts)}
)
_SUMMARY = _record(
    _of(
        _whole, "total_obligations", "l2_property_tested", "l3_kani_proved", "l4_lean_proved", "l4_sorry_count",
        "l4_not_applicable",
    ),
    ("total_obligations",),
)  # fmt: skip
_BEAT = _record(
    {
        "pillar": _whole,
        **_of(
            _texts, "incumbent", "incumbent_pinned", "canonical_task", "metric", "direction", "baseline_sourced_date",
            "approved_compute", "ci_gate_name",
        ),
        **_of(_number, "baseline_value", "baseline_floor", "beat_threshold"),
    }
)  # fmt: skip
_STORY = _record({"id": _texts, "competitor": _texts, "demand_score": _integer, "status": _words(*_INTAKES)})
_PHASE = _record(_of(_texts, "name", "description", "invariant"), ("name", "description"))
_COQ = _record(
    {
        "module": _texts, "imports": _listed(_texts),
        "definitions": _listed(_record(_of(_texts, "name", "statement"), ("name", "statement"))),
        "obligations": _listed(_record(_of(_texts, "links_to", "coq_lemma", "status"), ("links_to", "coq_lemma"))),
    },
    ("module",),
)  # fmt: skip


def _equations(node: YamlNode, where: str) -> Iterator[Problem]:
    """A mapping from names, or a list."""
    yield from (_listed if isinstance(node, YamlList) else _mapped)(_EQUATION)(node, "equation")


def _optional(shape: Shape) -> Shape:
    def shape_or_nothing(node: YamlNode, where: str) -> Iterator[Problem]:
        return iter(()) if _is_null(node) else shape(node, where)

    return shape_or_nothing


_SECTIONS: Mapping[str, tuple[str, Shape]] = {
    "metadata": ("metadata", _METADATA),
    "equations": ("equation", _equations),
    "proof_obligations": ("obligation", _listed(_OBLIGATION)),
    "falsification_tests": ("falsification test", _listed(_TEST)),
    "kani_harnesses": ("harness", _listed(_HARNESS)),
    "qa_gate": ("qa_gate", _optional(_GATE)),
    "kernel_structure": ("kernel_structure", _optional(_record({"phases": _listed(_PHASE)}, ("phases",)))),
    "simd_dispatch": ("simd_dispatch", _mapped(_mapped(_texts))),
    "enforcement": (
        "enforcement",
        _mapped(_record(_of(_texts, "description", "check", "severity", "reference"), ("description",))),
    ),
    "verification_summary": ("verification_summary", _optional(_SUMMARY)),
    "type_invariants": (
        "type_invariants",
        _listed(_record(_of(_texts, "name", "type", "predicate", "description"), ("name", "type", "predicate"))),
    ),
    "coq_spec": ("coq_spec", _optional(_COQ)),
    "beat": ("beat", _optional(_BEAT)),
    "stories": ("story", _listed(_STORY)),
}
"""The sections that `pv` reads, and what an entry of each is called in messages."""

SECTIONS = tuple(_SECTIONS)

_RECORD_OF_KAIZEN = _record(_of(_optional(_texts), "contract", "title", "parent", "status"))


def refusal(root: YamlMapping) -> Problem | None:
    """Line and message of the first field of a contract that `pv` does not read; None where it reads them all."""
    if "metadata" not in root.fields:
        named = ", ".join(list(root.fields)[:4])
        return 1, f"this is no contract: it has no metadata (its sections are {named or 'none'})"
    for section, (name, shape) in _SECTIONS.items():
        if section in root.fields:
            for line, message in shape(root.fields[section], name):
                return line, message
    metadata = root.fields["metadata"]
    if isinstance(metadata, YamlMapping) and text(metadata.fields.get("kind")) == KAIZEN:
        return next(_RECORD_OF_KAIZEN(root, "the record"), None)
    return None
