"""Dumps that hold parts of tensors: what they have is held against the same parts of a whole capture.

Both sides become captures of those parts, which a diff compares as any other. A number that agrees with the reference
to the digits that the dump keeps counts as equal to it: more cannot be known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aprtui.errors import UnreadableError, UsageError, printable
from aprtui.importing.elements import Floats
from aprtui.importing.import_format import PartChoice
from aprtui.model.model import Model
from aprtui.trace.aprt import AprtError, write_aprt, write_atomically
from aprtui.trace.capture import PROVENANCE, Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import relative_path


@dataclass(frozen=True, slots=True)
class SampledStage:
    """What a dump has of a stage: `values` `[rows, columns]`, and how far each may be from the number that it stands
    for.

    `take` makes the same of the whole stage, `[tokens, width]`; it gives None where that has other dimensions.
    """

    node: Node
    values: Floats
    precision: Floats
    take: Callable[[Floats], Floats | None]


@dataclass(frozen=True, slots=True)
class Samples:
    """What a dump has of a capture. `tokens` are all that were evaluated, `rows` those that the values are of."""

    path: Path
    stages: Sequence[SampledStage]
    tokens: tuple[int, ...] | None = None
    rows: tuple[int, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SampleFormat:
    """A format of dumps that hold parts of tensors. `read` may need the model, and says so where it does."""

    name: str
    words: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, PartChoice, Model | None], Samples]


def write_pair(
    samples: Samples, reference: Capture, given: Sequence[int] | None, folder: Path
) -> tuple[Path, Path, tuple[str, ...]]:
    """Captures of the parts of `reference` and of those in the dump, in `folder`, and what is to be said of them.

    `given` are the token ids that the user states for a dump that records none. Raises `UsageError` where the sides
    evaluated other tokens, `UnreadableError` where they have no stage in common.
    """
    ids = samples.tokens if given is None else tuple(given)
    if samples.tokens is not None and ids != samples.tokens:
        raise UsageError(f"--tokens: {samples.path} records other ids: leave them out")
    if ids is not None and reference.tokens is not None and not _same_tokens(ids, reference.tokens):
        raise UsageError(f"{samples.path} is of other tokens than {reference.path}: capture the same prompt")
    left, right = folder / "reference", folder / "samples"
    written, missing = 0, []
    for stage in samples.stages:
        own = _own(reference, stage)
        if own is None or own.shape != stage.values.shape:
            missing.append(str(stage.node))
            continue
        with np.errstate(invalid="ignore"):
            agree = np.abs(own.astype(np.float64) - stage.values) <= stage.precision
        write_aprt(left / relative_path(stage.node), stage.node.layer, np.where(agree, stage.values, own))
        write_aprt(right / relative_path(stage.node), stage.node.layer, stage.values)
        written += 1
    if not written:
        lacks = f"which lacks {', '.join(missing[:6])}, or has other rows of it" if missing else "by its name"
        raise UnreadableError(f"{samples.path}: no stage in common with {reference.path}, {lacks}: nothing to compare")
    known = ids is not None and reference.tokens is not None
    shown = [reference.tokens[row] for row in samples.rows] if known and reference.tokens is not None else None
    for side in (left, right):
        lines = {**samples.facts, **({"tokens": str(shown)} if shown else {})}
        text = "".join(f"{key}: {printable(value)}\n" for key, value in lines.items())
        write_atomically(side / PROVENANCE, f"# parts of a capture\n{text}".encode())
    values = sum(stage.values.size for stage in samples.stages)
    notes = [*samples.notes, f"{written} stages by {values} numbers: the rest of them is not known"]
    notes += [f"not in {reference.path}, or of other dimensions: {', '.join(missing[:6])}"] if missing else []
    return left, right, tuple(notes)


def _same_tokens(ids: Sequence[int], own: Sequence[int]) -> bool:
    return tuple(ids) == tuple(own)


def _own(reference: Capture, stage: SampledStage) -> Floats | None:
    """The same part of the reference's stage; None where it has none."""
    if stage.node not in reference.files:
        return None
    try:
        values = reference.values(stage.node)
    except AprtError:
        return None
    rows = values if values.ndim == 2 else values.reshape(reference.token_count or 1, -1)
    found = stage.take(np.asarray(rows, np.float32))
    return None if found is None else np.ascontiguousarray(found, np.float32)
