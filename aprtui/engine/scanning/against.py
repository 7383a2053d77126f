"""What a walk is held against: another setting of the engine, and how far logits may be apart by that alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aprtui.engine.backends.registry import backend_names, find_backend
from aprtui.engine.logit_noise import FEWEST_TOKENS, measure_logit_noise
from aprtui.engine.protocol import Engine, KvType, Mode
from aprtui.errors import UsageError
from aprtui.model.model import Model
from aprtui.progress import Progress

PATHS = ("prefill", "decode")

_SAME_NUMBERS = 1e-4
"""Of the scale of the logits: engines of one arithmetic that rounds no inputs, or of one backend, are nearer."""
_MARGIN = 3.0
"""Over the noise that is measured between the modes."""


@dataclass(frozen=True, slots=True)
class Against:
    """The settings of the reference; None for those that are the walk's own. It evaluates tokens in passes, or one by
    one where `path` is `decode`."""

    mode: Mode | None = None
    kv: KvType | None = None
    backend: str | None = None
    threads: int | None = None
    path: str = "prefill"


def parse_against(text: str) -> Against:
    """What `--against` asks for, as `mode=exact,kv=f32,path=decode`. Raises `UsageError`."""
    choices: dict[str, Sequence[str]] = {
        "mode": tuple(Mode), "kv": tuple(KvType), "backend": backend_names(), "path": PATHS,
    }  # fmt: skip
    fields: dict[str, Any] = {}
    for piece in text.split(","):
        name, _, value = (part.strip() for part in piece.partition("="))
        if name == "threads" and value.isdecimal() and len(value) < 6 and 0 < int(value) <= 1024:
            fields[name] = int(value)
        elif value in choices.get(name, ()):
            fields[name] = value
        elif name in choices:
            raise UsageError(f"--against {piece!r:.60}: {name} is one of {', '.join(choices[name])}")
        else:
            known = ", ".join((*choices, "threads"))
            raise UsageError(
                f"--against {piece!r:.60}: expected NAME=VALUE of {known}, or a file of logits that exists"
            )
    for name, kind in (("mode", Mode), ("kv", KvType)):
        if name in fields:
            fields[name] = kind(fields[name])
    return Against(**fields)


def level_of(
    model: Model, scanned: Engine, reference: Engine, tokens: Sequence[int], scale: float, progress: Progress
) -> float | None:
    """How large the error of a logit may be, as a median over a walk, by what differs between two engines; None where
    no measurement tells: with K/V of different types it is a matter of the model.

    `scale` is the standard deviation of logits. Between the modes it is measured, on the first of `tokens`.
    """
    if scanned.kv is not reference.kv:
        return None
    backend = find_backend(scanned.backend)
    same = scanned.backend == reference.backend and backend is not None and backend.same_bits
    if scanned.mode is reference.mode and (same or (scanned.mode is Mode.EXACT and scanned.kv is KvType.F32)):
        return _SAME_NUMBERS * scale
    if len(tokens) < FEWEST_TOKENS:
        return None
    names = {engine.backend for engine in (scanned, reference) if engine.mode is Mode.Q8}
    noises = [measure_logit_noise(model, tokens, name, scanned.threads, progress) for name in sorted(names)]
    return _MARGIN * sum(noise.deviation for noise in noises) if noises else None
