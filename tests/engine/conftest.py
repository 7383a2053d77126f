"""Fixtures that the rooms of the engine's tests share."""

from tests.engine.embedded_captures import evaluators, exact, model, q8, replay, without_manifest

__all__ = ["evaluators", "exact", "model", "q8", "replay", "without_manifest"]
