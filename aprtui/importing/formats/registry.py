"""All formats, in the order in which a source is held against them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aprtui.errors import UsageError
from aprtui.importing.formats import (
    apr_positions,
    edge_llm,
    eval_callback,
    imatrix,
    kld,
    llama_logits,
    mapped,
    msprobe,
    sglang_dumper,
    sglang_passes,
    transformers_debugger,
    trt_llm,
)
from aprtui.importing.import_format import ImportFormat
from aprtui.importing.samples import SampleFormat

FORMATS: tuple[ImportFormat, ...] = (
    mapped.FORMAT,
    sglang_passes.FORMAT,
    sglang_dumper.FORMAT,
    msprobe.FORMAT,
    transformers_debugger.FORMAT,
    trt_llm.FORMAT,
    edge_llm.FORMAT,
    llama_logits.FORMAT,
    apr_positions.FORMAT,
)


SAMPLE_FORMATS: tuple[SampleFormat, ...] = (eval_callback.FORMAT, kld.FORMAT, imatrix.FORMAT)
"""Formats of dumps that hold parts of tensors only: a diff takes them, with a whole capture on the other side."""


def sample_format_of(path: Path) -> SampleFormat | None:
    """The format of a dump that holds parts of tensors, or None."""
    return next((entry for entry in SAMPLE_FORMATS if _recognises(entry.recognises, path)), None)


def format_of(path: Path) -> ImportFormat | None:
    """The format that `path` surely has, or None."""
    return next((entry for entry in FORMATS if _recognises(entry.recognises, path)), None)


def _recognises(recognises: Callable[[Path], bool], path: Path) -> bool:
    """What a format says of `path`; nothing of a folder that cannot be looked into."""
    try:
        return recognises(path)
    except OSError:
        return False


def format_named(name: str) -> ImportFormat:
    """The format of that name. Raises `UsageError` with a list of all."""
    found = next((entry for entry in FORMATS if entry.name == name), None)
    if found is None:
        raise UsageError(f"--as {name}: no such format: there are {', '.join(entry.name for entry in FORMATS)}")
    return found
