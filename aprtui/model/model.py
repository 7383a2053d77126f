"""A model file, opened: configuration, stage graph, weights bound to its nodes, tokenizer and chat template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np

from aprtui.errors import UnreadableError
from aprtui.model.architectures.registry import architecture_of
from aprtui.model.binding import bind
from aprtui.model.chat import ChatTemplate
from aprtui.model.config import ModelConfig
from aprtui.model.digest import file_digest
from aprtui.model.gguf_file import StringArray
from aprtui.model.model_file import ModelFile
from aprtui.model.open_file import open_model_file
from aprtui.model.split_files import model_stem
from aprtui.model.tokenizer import Tokenizer, build_tokenizer
from aprtui.model.vocabulary import read_strings
from aprtui.model.weights import Weight
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph, graph_for

_SHORT_ARRAY = 64


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was made of a model for captures of another form of it: what is to be said of that, and the names of the
    `tensors` that were made of quantised ones; an engine with a file of that form may have others."""

    statement: str
    tensors: frozenset[str]


class Model:
    """A model file with its weights memory-mapped; nothing is dequantised, and the tokenizer is built on first use.

    `rebuilt` says what differs from the file, where it is in a form that the file does not have.
    """

    def __init__(
        self, file: ModelFile, config: ModelConfig, graph: StageGraph, weights: Mapping[str, Weight],
        bound: Mapping[Node, tuple[Weight, ...]], rebuilt: Rebuilt | None = None,
    ) -> None:  # fmt: skip
        self.rebuilt = rebuilt
        self._file = file
        self._bound = bound
        self.path = file.path
        self.config, self.architecture = config, config.graph.architecture
        self.graph = graph
        self.weights: Mapping[str, Weight] = MappingProxyType(dict(weights))

    @property
    def name(self) -> str:
        return model_name(self.path, self._file.metadata)

    @cached_property
    def quantization(self) -> str:
        """File type as llama.cpp names it (`Q4_K_M`), or the type that holds most of the weights' bytes."""
        from gguf import LlamaFileType

        number = self._file.metadata.get("general.file_type")
        if isinstance(number, int) and number in set(LlamaFileType) - {LlamaFileType.GUESSED}:
            return str(LlamaFileType(number).name).removeprefix("MOSTLY_").removeprefix("ALL_")
        bytes_of: Counter[str] = Counter()
        for weight in self.weights.values():
            bytes_of[weight.type.name] += weight.data.size
        return bytes_of.most_common(1)[0][0]

    @cached_property
    def metadata(self) -> Mapping[str, object]:
        """Metadata without vocabularies: scalars, texts, and arrays of at most 64 values as lists."""
        short: dict[str, object] = {}
        for key, value in self._file.metadata.items():
            if isinstance(value, np.ndarray | StringArray) and len(value) > _SHORT_ARRAY:
                continue
            if isinstance(value, StringArray):
                short[key] = [item.decode(errors="replace") for item in value.read()]
            else:
                short[key] = value.tolist() if isinstance(value, np.ndarray) else value
        return MappingProxyType(short)

    @property
    def sampling_temperature(self) -> float | None:
        """The temperature that the file recommends (`general.sampling.temp`), if any."""
        value = self._file.metadata.get("general.sampling.temp")
        if not isinstance(value, int | float) or not np.isfinite(value) or value < 0:
            return None
        return float(str(np.float32(value)))  # the file holds a float32: 0.7, not 0.699999988

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; raises `UnreadableError` where the file has none, or none that is supported."""
        return build_tokenizer(self.path, self._file.metadata)

    @property
    def merges(self) -> list[str] | None:
        """The merges of byte pairs, in their order; None for a tokenizer that has none."""
        if "tokenizer.ggml.merges" not in self._file.metadata:
            return None
        return read_strings(self.path, self._file.metadata, "tokenizer.ggml.merges")

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        source = self._file.metadata.get("tokenizer.chat_template")
        if not isinstance(source, str):
            return None
        bos, eos = self.tokenizer.bos_text, self.tokenizer.eos_text
        return ChatTemplate(source, bos_token=bos, eos_token=eos, origin=str(self.path))

    def params(self, node: Node) -> tuple[Weight, ...]:
        """The weights that `node` uses, in the order of its stage's `params`; empty for ops without any."""
        return self._bound.get(node, ())

    def with_form(
        self, config: ModelConfig, graph: StageGraph, weights: Mapping[str, Weight],
        bound: Mapping[Node, tuple[Weight, ...]], rebuilt: Rebuilt,
    ) -> Model:  # fmt: skip
        """The same file as a model of another graph."""
        return Model(self._file, config, graph, weights, bound, rebuilt)

    def uses_rebuilt(self, node: Node) -> bool:
        """Whether `node` multiplies by a matrix that was made of quantised ones."""
        return self.rebuilt is not None and any(weight.name in self.rebuilt.tensors for weight in self.params(node))

    def pieces(self, tokens: Sequence[int]) -> tuple[str, ...] | None:
        """The texts of the tokens; None for a model whose tokenizer is not supported: its token ids can be run all the
        same."""
        try:
            return tuple(map(self.tokenizer.piece, tokens))
        except UnreadableError:
            return None

    @property
    def unused_tokens(self) -> range:
        """The last token ids, which no text has: they make the vocabulary round. None are known of a model whose
        tokenizer is not supported."""
        count = self.config.graph.vocabulary
        try:
            return range(min(self.tokenizer.vocabulary.in_use, count), count)
        except UnreadableError:
            return range(count, count)

    def sha256(self) -> str:
        """SHA-256 of the file (of all parts, in order) in hexadecimal, remembered between runs."""
        return file_digest(*self._file.paths)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file, or all parts of a split model in order; `path` is the first."""
        return self._file.paths

    @property
    def size(self) -> int:
        """Bytes of the file, or of all parts of a split model."""
        return self._file.size


def model_name(path: Path, metadata: Mapping[str, object]) -> str:
    """`general.name` of a model file, or the stem of its file name, without the number of a part."""
    name = metadata.get("general.name")
    return name if isinstance(name, str) and name else model_stem(path)


def load_model(path: Path, *, headers_only: bool = False) -> Model:
    """Open a GGUF or `.apr` file of a supported architecture, or a split model by any of its parts.

    Reads the header and maps the weights. `headers_only` is for callers that read no weights: the file may then lie on
    another machine. Raises `UnreadableError`, naming file and key or tensor, for anything that is
    malformed, missing, or not supported.
    """
    return bound_model(open_model_file(path, headers_only=headers_only))


def bound_model(file: ModelFile) -> Model:
    """The model in an opened file. Raises `UnreadableError` as `load_model` does."""
    architecture = architecture_of(file)
    config = architecture.read_config(file)
    graph = graph_for(config.graph)
    weights, bound = bind(file, graph, architecture.tied, architecture.drafting_layers(file))
    return Model(file, config, graph, weights, bound)
