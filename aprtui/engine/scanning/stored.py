"""Logits from files, to hold a walk against: a base of llama-perplexity, or a capture with logits of many positions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aprtui.engine.scanning.walk import StoredLogits
from aprtui.errors import UnreadableError
from aprtui.model.model import Model
from aprtui.trace.capture import Capture


@dataclass(frozen=True, slots=True)
class LogitFile:
    """The ids of the tokens that were evaluated, and the logits at some of their positions."""

    tokens: tuple[int, ...]
    logits: StoredLogits


def logits_of_capture(path: Path, model: Model) -> LogitFile:
    """The logits of a capture. Raises `UnreadableError` where it has none, or does not say of which tokens."""
    capture = Capture.open(path)
    node = model.graph.nodes[-1]
    if node not in capture.files:
        raise UnreadableError(f"{path}: has no {node}: capture it with --logits all")
    if capture.tokens is None:
        raise UnreadableError(f"{path}: does not say which tokens it is of: its manifest or _PROVENANCE.txt would")
    values, vocabulary = capture.values(node), model.config.graph.vocabulary
    if values.size % vocabulary:
        raise UnreadableError(f"{path}: {values.size} logits are no rows of {vocabulary}: of another model")
    rows = values.reshape(-1, vocabulary)
    first = len(capture.tokens) - len(rows)
    return LogitFile(capture.tokens, StoredLogits({first + at: row for at, row in enumerate(rows)}))
