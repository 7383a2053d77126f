"""Policy files: bounds of a user's own for each stage, first match wins.

    allow_missing: [ffn_silu]
    rules:
      - stage: attn_*
        layers: 0..4
        bounds: {rel_l2: 1.0e-3, cosine: 0.999}
      - stage: "*"
        bounds: {token_rel_l2: 0.05}

A stage that no rule matches is an error: a policy that forgets a stage must not pass it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from aprtui.compare.verdict import Tolerance, parse_tolerance
from aprtui.errors import UsageError
from aprtui.trace.graph.stage import MAX_LAYERS, Node, canonical_name
from aprtui.trace.select import parse_layers
from aprtui.yaml_file import fields_of, read_settings, texts_of


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """Bounds for the stages that match the glob `stage`; `layers` is None for every layer and stages outside layers."""

    stage: str
    layers: frozenset[int] | None
    bounds: tuple[Tolerance, ...]

    def matches(self, node: Node) -> bool:
        return fnmatchcase(node.stage, self.stage) and (self.layers is None or node.layer in self.layers)


@dataclass(frozen=True, slots=True)
class Policy:
    path: Path
    rules: tuple[PolicyRule, ...]
    allow_missing: tuple[str, ...]

    def tolerances(self, node: Node) -> tuple[Tolerance, ...]:
        """The bounds of the first rule that matches. Raises `UsageError` where none does."""
        for rule in self.rules:
            if rule.matches(node):
                return rule.bounds
        raise UsageError(f'{self.path}: no rule matches {node}: add one, or "*" as the last')


def read_policy(path: Path) -> Policy:
    """The policy in a YAML file. Raises `UsageError`, naming file and field."""
    document = fields_of(read_settings(path), path, "the file", {"rules", "allow_missing"}, needed={"rules"})
    rules = document["rules"]
    if not isinstance(rules, list) or not rules:
        raise UsageError(f"{path}: rules: expected a list with at least one rule")
    read = tuple(_rule(rule, path, f"rules[{index}]") for index, rule in enumerate(rules))
    return Policy(path, read, tuple(texts_of(document.get("allow_missing", []), path, "allow_missing")))


def _rule(rule: Any, path: Path, where: str) -> PolicyRule:
    fields = fields_of(rule, path, where, {"stage", "layers", "bounds"}, needed={"stage", "bounds"})
    (stage,) = texts_of([fields["stage"]], path, f"{where}.stage")
    layers = fields.get("layers")
    try:
        chosen = None if layers is None else parse_layers(str(layers), MAX_LAYERS)
    except UsageError as error:
        raise UsageError(f"{path}: {where}: {error}") from error
    bounds = fields["bounds"]
    if not isinstance(bounds, dict) or not bounds:
        raise UsageError(f"{path}: {where}.bounds: expected metrics with their bounds, as {{rel_l2: 1.0e-3}}")
    return PolicyRule(
        canonical_name(stage), chosen, tuple(_bound(*entry, path, f"{where}.bounds") for entry in bounds.items())
    )


def _bound(metric: Any, number: Any, path: Path, where: str) -> Tolerance:
    try:
        tolerance = parse_tolerance(f"{metric}={number}")
    except UsageError as error:
        raise UsageError(f"{path}: {where}: {error}") from error
    return Tolerance(tolerance.metric, tolerance.bound, basis="the policy")
