"""All formats, in the order in which a source is held against them."""

from __future__ import annotations

from pathlib import Path

from aprtui.errors import UsageError
from aprtui.importing.formats import (
    apr_positions,
    edge_llm,
    llama_logits,
    mapped,
    msprobe,
    sglang_dumper,
    sglang_passes,
    transformers_debugger,
    trt_llm,
)
from aprtui.importing.import_format import ImportFormat

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


def format_of(path: Path) -> ImportFormat | None:
    """The format that `path` surely has, or None."""
    return next((entry for entry in FORMATS if entry.recognises(path)), None)


def format_named(name: str) -> ImportFormat:
    """The format of that name. Raises `UsageError` with a list of all."""
    found = next((entry for entry in FORMATS if entry.name == name), None)
    if found is None:
        raise UsageError(f"--as {name}: no such format: there are {', '.join(entry.name for entry in FORMATS)}")
    return found
