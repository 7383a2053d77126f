"""The digest of a claim: evidence for other words, or for another equation, is no evidence for this one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from aprtui.contracts.documents.document import Equation, Falsifier

_CONDITIONS = (
    "condition", "conditions", "preconditions", "requires", "assumes", "given", "when", "where", "domain", "scope",
    "applies_to", "tolerance", "float_tolerance", "guarantees", "postconditions",
)  # fmt: skip
"""Fields of a falsifier or an equation, beside those with a place of their own, that say under what it must hold."""


def claim_digest(equations: Iterable[Equation], falsifier: Falsifier) -> str:
    """SHA-256 in hexadecimal of what `falsifier` claims: rule, prediction, conditions, and those of `equations` that it
    binds to. White space does not count. Its check is compared apart from this."""
    bound = [equation for equation in equations if equation.name in falsifier.binds_to]
    stated = {
        "rule": falsifier.rule,
        "name": falsifier.name,
        "prediction": falsifier.prediction,
        "conditions": _conditions(falsifier.extras),
        "equations": [
            {
                "name": equation.name, "formula": equation.formula, "domain": equation.domain,
                "codomain": equation.codomain, "invariants": equation.invariants,
                "conditions": _conditions(equation.extras),
            }
            for equation in bound
        ],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(_spaced(stated), sort_keys=True).encode()).hexdigest()


def _conditions(extras: Mapping[str, Any]) -> dict[str, Any]:
    return {name: extras[name] for name in _CONDITIONS if name in extras}


def _spaced(value: Any) -> Any:
    """`value` with one space wherever a text has white space."""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, Mapping):
        return {str(key): _spaced(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_spaced(inner) for inner in value]
    return value if isinstance(value, bool | int | float | None) else str(value)
