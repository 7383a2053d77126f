"""Logits of a file that `--against` names: a base of llama-perplexity, a capture, or what can be read as one."""

from __future__ import annotations

from pathlib import Path

from aprtui.cli.comparison.options import announce
from aprtui.cli.comparison.recordings import readable
from aprtui.cli.progress import ProgressLine
from aprtui.engine.scanning.stored import LogitFile, logits_of_capture
from aprtui.engine.scanning.walk import StoredLogits
from aprtui.errors import UnreadableError
from aprtui.importing.formats.registry import sample_format_of
from aprtui.importing.import_format import PartChoice
from aprtui.model.model import Model
from aprtui.trace.capture import is_capture


def read_logits(path: Path, model: Model, step: int) -> LogitFile:
    """The tokens and logits in the file or folder at `path`, of its chunk `step` where it has chunks.

    Raises `UnreadableError` where it has no logits of whole rows of the model's vocabulary.
    """
    entry = None if is_capture(path) else sample_format_of(path)
    if entry is None:
        with ProgressLine() as progress, readable(path, lambda: model.graph, progress) as folder:
            return logits_of_capture(folder, model)
    samples = entry.read(path, PartChoice(steps=range(step, step + 1)), model)
    vocabulary = model.config.graph.vocabulary
    found = [stage for stage in samples.stages if stage.node.stage == "lm_head" and stage.values.shape[1] == vocabulary]
    if not found or samples.tokens is None:
        raise UnreadableError(f"{path}: {entry.name}: has no rows of {vocabulary} logits, or no ids of its tokens")
    for note in samples.notes:
        announce(f"{path}: {note}")
    return LogitFile(samples.tokens, StoredLogits(dict(zip(samples.rows, found[0].values, strict=True))))
