"""`.apr` files for tests, written to the letter of aprender-core's `format/v2`: of GGUF files, and wrong ones."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from aprtui.model.apr.names import gguf_name
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.gguf_file import GgufFile, StringArray
from aprtui.model.model_file import ModelFile
from aprtui.model.weights import stored_tensor
from aprtui.trace.graph.config import RopeLayout
from tests.model.gguf_files import add_value

ROW_MAJOR = 0x0400


@dataclass
class AprTensor:
    """A tensor to be written, its shape slowest dimension first."""

    dtype: int
    shape: tuple[int, ...]
    data: bytes


@dataclass
class AprModel:
    """What goes into a file; change it before writing to make a file that is wrong."""

    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, AprTensor] = field(default_factory=dict)
    flags: int = ROW_MAJOR
    magic: bytes = b"APR\0"
    version: tuple[int, int] = (2, 0)
    checksum: int | None = None

    def write(self, path: Path) -> Path:
        """Write the file and return its path."""
        path.write_bytes(self.content())
        return path

    def content(self) -> bytes:
        metadata = json.dumps(self.metadata, separators=(",", ":")).encode()
        index, blobs, offset = [], [], 0
        for name in sorted(self.tensors, key=str.encode):
            tensor = self.tensors[name]
            index.append(entry(name, tensor.dtype, tensor.shape, offset, len(tensor.data)))
            blobs.append(padded(tensor.data))
            offset += len(blobs[-1])
        index_start = 64 + len(padded(metadata))
        body = padded(metadata) + padded(b"".join(index))
        first = struct.pack("<4sBBHIQIQQ", self.magic, *self.version, self.flags, len(index), 64, len(metadata),
                            index_start, 64 + len(body))  # fmt: skip
        checksum = zlib.crc32(first + bytes(20)) if self.checksum is None else self.checksum
        whole = first + struct.pack("<I", checksum) + bytes(20) + body + b"".join(blobs)
        return whole + struct.pack("<I", zlib.crc32(whole))


def entry(name: str, dtype: int, shape: Iterable[int], offset: int, size: int) -> bytes:
    """A row of the index."""
    encoded, dimensions = name.encode(), list(shape)
    head = struct.pack("<H", len(encoded)) + encoded + struct.pack("<BB", dtype, len(dimensions))
    return head + struct.pack(f"<{len(dimensions)}QQQ", *dimensions, offset, size)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 64)


def apr_model(path: Path) -> AprModel:
    """The model in a GGUF file, as aprender's importer writes it: tensors as they are, under transformers' names."""
    file = GgufFile(path)
    architecture = ARCHITECTURES[file.metadata["general.architecture"]]

    def value(key: str) -> Any:
        return file.metadata.get(f"{architecture.name}.{key}")

    vocabulary = {
        f"tokenizer.{apr}": listed(file.metadata.get(f"tokenizer.{key}"))
        for apr, key in (
            ("vocabulary", "ggml.tokens"), ("merges", "ggml.merges"), ("token_type", "ggml.token_type"),
            ("scores", "ggml.scores"), ("model", "ggml.model"), ("pre_type", "ggml.pre"),
            ("bos_token_id", "ggml.bos_token_id"), ("eos_token_id", "ggml.eos_token_id"),
            ("add_bos_token", "ggml.add_bos_token"), ("chat_template", "chat_template"),
        )
    }  # fmt: skip
    metadata = {
        "model_type": architecture.name, "name": file.metadata.get("general.name"), "architecture": architecture.name,
        "hidden_size": value("embedding_length"), "num_layers": value("block_count"),
        "num_heads": value("attention.head_count"), "num_kv_heads": value("attention.head_count_kv"),
        "intermediate_size": value("feed_forward_length"), "max_position_embeddings": value("context_length"),
        "rope_theta": value("rope.freq_base"), "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "rope_type": 2 if architecture.rope_layout is RopeLayout.HALF_SPLIT else 0,
        "head_dim": value("attention.key_length"), "num_experts": value("expert_count"),
        "num_experts_per_tok": value("expert_used_count"),
        "moe_intermediate_size": value("expert_feed_forward_length"), "original_format": "gguf",
    }  # fmt: skip
    model = AprModel({key: found for key, found in (metadata | vocabulary).items() if found is not None})
    names = {gguf_name(name): name for name in transformers_names(value("block_count"), architecture.name)}
    for name, tensor in file.tensors.items():
        stored = stored_tensor(file, tensor)
        assert stored is not None
        shape = tuple(reversed(tensor.dimensions))
        model.tensors[names.get(name, name)] = AprTensor(tensor.type, shape, stored.data.tobytes())
    return model


def transformers_names(layers: int, architecture: str) -> Iterable[str]:
    for module in ARCHITECTURES[architecture].transformers_modules.values():
        for layer in range(layers) if "{layer}" in module else (0,):
            yield from (f"{module.format(layer=layer)}.{kind}" for kind in ("weight", "bias"))


def listed(value: Any) -> Any:
    if isinstance(value, StringArray):
        return [text.decode() for text in value.read()]
    return value.tolist() if isinstance(value, np.ndarray) else value


def write_gguf(file: ModelFile, path: Path) -> Path:
    """An opened file of any format as a GGUF file."""
    writer = gguf.GGUFWriter(path, file.metadata["general.architecture"])
    for key, value in file.metadata.items():
        if key != "general.architecture":
            add_value(writer, key, listed(value))
    for name, tensor in file.tensors.items():
        stored = stored_tensor(file, tensor)
        assert stored is not None
        data = stored.data.reshape(*tuple(reversed(tensor.dimensions))[:-1], -1)
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType(tensor.type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
