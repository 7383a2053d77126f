"""The subject of a claim: the model, engine, backend, device, mode and oracle that it speaks about, and the fault that
it has planted.

    check: {name: cosine_floor, at_least: 0.99, about: {model: "qwen2.5-coder-7b*", oracle: transformers}}

A result on another subject says nothing about the claim, whatever it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.checks.registry import CHECKS, CaptureCheck
from aprtui.contracts.documents.document import CheckCall
from aprtui.contracts.evidence.files import JudgedOn
from aprtui.errors import UsageError

ABOUT = "about"
ABOUT_ANOTHER = ", the claim is about"
"""In what is said of a result on another subject, before the subject of the claim."""
REFERENCE = "reference"
MODEL, ORACLE, FAULT = "model", "oracle", "fault"
_OF_SIDES = (MODEL, "engine", "backend", "device", "mode")
_FIELDS = (*_OF_SIDES, ORACLE, FAULT)
_LEAST_HEX = 8
"""So many digits of a model's SHA-256 name it."""


@dataclass(frozen=True, slots=True)
class About:
    """What a claim speaks about: names or globs by field (`model`, `engine`, …; a model also by its SHA-256), and the
    fault that was injected on purpose, as `layer=1,kind=nan`; empty where it says nothing."""

    names: Mapping[str, tuple[str, ...]]
    fault: str


def about_of(check: CheckCall | None) -> About:
    """The subject that the parameters of a check name. Raises `UsageError` for one that is not understood."""
    written: Any = {} if check is None else check.parameters.get(ABOUT) or {}
    if not isinstance(written, Mapping):
        raise UsageError(f"check parameter about: {written!r:.60}: expected fields, as {{model: NAME, engine: NAME}}")
    names = {}
    for field, value in written.items():
        if field not in _FIELDS:
            raise UsageError(f"check parameter about: no field is called {field!r:.40}: there are {', '.join(_FIELDS)}")
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise UsageError(f"check parameter about.{field}: {value!r:.60}: expected a name, or a list of names")
        names[field] = tuple(texts)
    fault = names.pop(FAULT, ("",))
    return About(names, fault[0])


def other_subject(about: About, sides: Sequence[JudgedOn]) -> str:
    """What was judged in place of what the claim is about; empty where it is the claim's own subject.

    For instance `model demo, the claim is about model qwen2*`.
    """
    for field, value, digest, names in _stated(about, sides):
        if not any(_is_named(value, digest, name.lower()) for name in names):
            said = f"an unknown {field}" if value is None else f"{field} {value}"
            return f"{said}{ABOUT_ANOTHER} {field} {' or '.join(names)}"
    return ""


def _stated(about: About, sides: Sequence[JudgedOn]) -> Iterator[tuple[str, str | None, str, tuple[str, ...]]]:
    """Each field of the claim, with the value of each side that it is about and, for a model, its digest.

    Where the claim names an oracle, that is the reference's engine, and the other fields are about the capture.
    """
    judged = [side for side in sides if not (ORACLE in about.names and side.role == REFERENCE)]
    for field in _OF_SIDES:
        for side in sides if field == MODEL else judged:
            if field in about.names:
                digest = side.model_sha256 or "" if field == MODEL else ""
                yield field, getattr(side, field), digest, about.names[field]
    if ORACLE in about.names:
        engine = next((side.engine for side in sides if side.role == REFERENCE), None)
        yield ORACLE, engine, "", about.names[ORACLE]


def _is_named(value: str | None, digest: str, name: str) -> bool:
    by_digest = len(name) >= _LEAST_HEX and digest.startswith(name)
    return by_digest or (value is not None and fnmatchcase(value.lower(), name))


def on_subject(judgement: Judgement, about: About, sides: Sequence[JudgedOn]) -> Judgement:
    """`judgement`, but UNKNOWN where it is of another subject than the claim: the reason says for which it holds."""
    if judgement.verdict is Verdict.UNKNOWN or not (other := other_subject(about, sides)):
        return judgement
    word = "holds" if judgement.verdict is Verdict.PASS else "fails"
    return replace(judgement, verdict=Verdict.UNKNOWN, reason=f"{word} for {other}: {judgement.reason}")


def unplanned_fault(check: CheckCall | None, about: About, sides: Sequence[JudgedOn]) -> str:
    """A fault that was injected into what was judged, and that the claim does not ask for; empty where there is none.

    A reference has no fault, whatever the claim says.
    """
    kind = CHECKS.get(check.name) if check is not None else None
    inherent = f"kind={kind.plants}" if isinstance(kind, CaptureCheck) and kind.plants else ""
    wanted = about.fault or inherent
    for side in sides:
        for fault in side.faults:
            if side.role == REFERENCE or not wanted or not set(wanted.split(",")) <= set(fault.split(",")):
                return f"the {side.role} has an injected fault, {fault}"
    return ""
