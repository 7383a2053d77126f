"""Hugging Face folders for tests, made from a model file: what it would have been converted from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.model.model import Model
from aprtui.oracle.transformers_model import named_parameters, settings

Array = NDArray[np.float32]


@dataclass
class HuggingFaceFolder:
    """What goes into a folder; change it before writing to make one that parts from the file."""

    config: dict[str, Any]
    tensors: dict[str, Array]
    tokenizer: dict[str, Any]
    generation: dict[str, Any] = field(default_factory=dict)
    tokenizer_config: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        folder.mkdir()
        for name, value in (
            ("config", self.config), ("tokenizer", self.tokenizer), ("generation_config", self.generation),
            ("tokenizer_config", self.tokenizer_config),
        ):  # fmt: skip
            (folder / f"{name}.json").write_text(json.dumps(value))
        write_safetensors(folder / "model.safetensors", self.tensors)
        return folder


def folder_of(model: Model, change: Callable[[str, Array], Array] = lambda _, values: values) -> HuggingFaceFolder:
    """The folder of `model`, in float32, with tensors as `change` makes them of their names and values."""
    config = settings(model, two_bases=model.config.window_rope is not None)
    vocabulary = model.tokenizer.vocabulary
    tokenizer = {
        "model": {
            "vocab": {text: token for token, text in enumerate(vocabulary.texts)},
            "merges": model.merges,
        },
        "added_tokens": [],
    }
    tensors = {name: change(name, np.array(values)) for name, values in named_parameters(model)}
    return HuggingFaceFolder(config, tensors, tokenizer, {"eos_token_id": vocabulary.eos})


def write_safetensors(path: Path, tensors: Mapping[str, Array]) -> None:
    header, blobs, offset = {}, [], 0
    for name, values in tensors.items():
        blob = np.ascontiguousarray(values, np.float32).tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
