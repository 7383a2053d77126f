"""The differences between two captures that their manifests state: model, engine, mode, rounding."""

from __future__ import annotations

from dataclasses import dataclass

from aprtui.trace.capture import Capture
from aprtui.trace.manifest import Manifest


@dataclass(frozen=True, slots=True)
class StatedDifference:
    """One thing that the sides state differently; None where a side does not state it."""

    what: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class ManifestDifferences:
    """What the manifests state differently, and which sides (A, B) have none."""

    differences: tuple[StatedDifference, ...]
    without_manifest: tuple[str, ...]


def compare_manifests(a: Capture, b: Capture) -> ManifestDifferences:
    """What the manifests of two captures state differently; everything that one states where the other is missing."""
    facts_a, facts_b = _facts(a.manifest), _facts(b.manifest)
    differing = tuple(
        StatedDifference(name, facts_a.get(name), facts_b.get(name))
        for name in dict.fromkeys([*facts_a, *facts_b])
        if facts_a.get(name) != facts_b.get(name)
    )
    return ManifestDifferences(
        differing, tuple(side for side, capture in (("A", a), ("B", b)) if capture.manifest is None)
    )


def _facts(manifest: Manifest | None) -> dict[str, str]:
    """The facts that decide about values, the most important first."""
    if manifest is None:
        return {}
    model, engine = manifest.model, manifest.engine
    facts = {
        "model": model.name,
        "model sha256": model.sha256,
        "architecture": model.architecture,
        "quantization": model.quantization,
        "engine": f"{engine.name} {engine.version}",
        "backend": engine.backend,
        "device": engine.device,
        "mode": engine.mode,
        **{f"rounding {where}": what for where, what in engine.rounding.items()},
        "code path": engine.code_path,
        "injected faults": "; ".join(engine.faults) or "none",
        "prefill tokens": str(manifest.prefill_tokens),
        "rope layout": str(manifest.graph.rope_layout),
        "logits": manifest.logits,
    }
    return {name: value for name, value in facts.items() if value is not None}
