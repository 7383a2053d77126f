"""Captures as `.npy` files and as a `.safetensors` file, bit for bit."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np

from aprtui.errors import UsageError
from aprtui.trace.aprt import output_error
from aprtui.trace.export.output import new_file
from aprtui.trace.export.selection import ExportSelection, tensor_names

TOKENS = "tokens"
"""The tensor of token ids."""

MAPPING_FILE = "aprtui-mapping.yaml"
"""Says which stages the arrays of a folder are: `aprtui import` reads it, and so do replay and diff."""


def write_npy(selection: ExportSelection, folder: Path, overwrite: bool) -> int:
    """Write `layer-<N>/<stage>.npy` files, `tokens.npy` where the ids are known, and a mapping; how many stages.

    Raises `UsageError` for a folder that is not empty, `EngineError` where it cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
            raise UsageError(f"{folder}: is there and not empty: choose another folder, or --overwrite")
    except OSError as error:
        raise output_error(folder, error) from error
    for name, node in tensor_names(selection):
        with new_file(folder / f"{name}.npy", overwrite) as file:
            np.lib.format.write_array(file, np.ascontiguousarray(selection.values(node)), allow_pickle=False)
    if selection.tokens is not None:
        with new_file(folder / f"{TOKENS}.npy", overwrite) as file:
            np.lib.format.write_array(file, np.array(selection.tokens, np.int64), allow_pickle=False)
    with new_file(folder / MAPPING_FILE, overwrite) as file:
        file.write(_mapping(selection).encode())
    return len(selection.nodes)


def _mapping(selection: ExportSelection) -> str:
    lines = [] if selection.tokens is None else [f"tokens: {TOKENS}"]
    if selection.capture.model is not None:
        lines.append(f"model: {json.dumps(selection.capture.model.name)}")
    lines.append("stages:")
    for name in dict.fromkeys(name.partition("/")[2] or name for name, _ in tensor_names(selection)):
        has_layers = any(node.layer is not None for node in selection.nodes if node.stage == name)
        lines.append(f'  {name}: "{"layer-{layer}/" if has_layers else ""}{name}"')
    return "\n".join(lines) + "\n"


def write_safetensors(selection: ExportSelection, path: Path, overwrite: bool) -> int:
    """Write one file of all tensors, and their token ids; how many stages.

    The format is that of Hugging Face's safetensors: the length of a header, the header as JSON, the bytes.
    """
    capture, header, at = selection.capture, dict[str, object](), 0
    about = {"format": "aprtui-export", "capture": capture.path.name}
    if capture.model is not None:
        about["model"] = capture.model.name
    header["__metadata__"] = about
    ids = None if selection.tokens is None else np.array(selection.tokens, "<i8")
    if ids is not None:
        header[TOKENS] = {"dtype": "I64", "shape": [len(ids)], "data_offsets": [0, ids.nbytes]}
        at = ids.nbytes
    for name, node in tensor_names(selection):
        shape = selection.shape(node)
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with new_file(path, overwrite) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if ids is not None:
            file.write(ids.tobytes())
        for _, node in tensor_names(selection):
            values = np.ascontiguousarray(selection.values(node), "<f4")
            if values.size:
                file.write(values.data.cast("B"))
    return len(selection.nodes)
