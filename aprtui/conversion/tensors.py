"""The weights of a GGUF file, tensor by tensor, against those of a Hugging Face folder: A is the folder, B the file.

The folder's tensors are put in the order that the file must have them in: channels of a head in pairs where the
architecture turns pairs, 1 added to the weights of norms that transformers adds it to when it runs. Then the rules for
the weights of two files hold: an error beyond what the file's type explains is a FAIL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.capture.module_taps import module_name, parameter_path
from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import counted, number_text
from aprtui.conversion.finding import FileFinding
from aprtui.errors import UnreadableError
from aprtui.importing.elements import SourceTensor
from aprtui.importing.safetensors_file import SUFFIX, read_safetensors
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.model import Model
from aprtui.model.weight_difference.compare import TensorDifference, compare_tensors
from aprtui.model.weight_difference.findings import cosine
from aprtui.model.weight_difference.judgement import WeightJudgement
from aprtui.model.weights import StoredTensor, Weight
from aprtui.progress import Progress
from aprtui.trace.graph.config import RopeLayout
from aprtui.trace.graph.ops import BIASES, Op
from aprtui.trace.graph.stage import Node, TokenMixer

_COMPARED = ("F32", "F16", "BF16")
"""Types that safetensors and ggml have alike, by one name."""
_NORMS = (Op.RMS_NORM, Op.HEAD_RMS_NORM)
_ROTATED = {"attn_q": "heads", "attn_k": "kv_heads"}
_ALIKE = 0.9
_MOST_SEARCHED = 2
"""Tensors that fail after which the others are no longer looked through for one that was taken in its place."""
_PREFIXES = ("", "model.language_model.", "language_model.model.", "language_model.")
"""What stands before the names of the text model where a checkpoint holds another one as well, for `model.`."""
_UNUSED = (
    "rotary_emb.",
    "vision_tower.",
    "model.visual.",
    "visual.",
    "multi_modal_projector.",
    "mtp.",
    "embed_vision.",
)
"""Parts of names of tensors that no decoder of text has in its file."""
_MATRIX = "what this matrix gives is wrong in every layer behind it: text makes no sense, or is a little worse"
_NORM = "every channel is scaled wrong: text makes no sense"


@dataclass(frozen=True, slots=True)
class CheckedParameter:
    """A tensor of the file, the node that uses it first, and where a checkpoint has it."""

    node: Node
    name: str
    """As the stage graph calls it: `attn_q`."""
    weight: Weight
    module: str
    is_bias: bool

    @property
    def key(self) -> str:
        return parameter_path(self.module, self.is_bias)


@dataclass(frozen=True)
class CheckpointTensors:
    """The tensors in the safetensors files of a folder, by name; read when they are asked for."""

    folder: Path

    @cached_property
    def tensors(self) -> Mapping[str, SourceTensor]:
        """Raises `UnreadableError` for a file that is damaged, or two that have one tensor."""
        found: dict[str, SourceTensor] = {}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            for name, tensor in read_safetensors(path).items():
                if name in found:
                    raise UnreadableError(f"{path}: tensor {name!r:.80} is in another file as well: remove one of them")
                found[name] = tensor
        return found

    def find(self, name: str) -> SourceTensor | None:
        rest = name.removeprefix("model.")
        names = (name, *(f"{prefix}{rest}" for prefix in _PREFIXES[1:]))
        return next((self.tensors[name] for name in names if name in self.tensors), None)


def tensor_findings(model: Model, folder: Path, progress: Progress) -> Iterator[FileFinding]:
    """What differs. Raises `UnreadableError` for a damaged file of the folder."""
    tensors = CheckpointTensors(folder)
    if not tensors.tensors:
        yield FileFinding(Verdict.UNKNOWN, f"*{SUFFIX}", "no such file in the folder: weights were not compared")
        return
    parameters, comparer = list(_parameters(model)), _Comparer(model, tensors)
    unjudged: dict[str, list[str]] = {}
    for done, parameter in enumerate(parameters):
        progress("comparing weights,", done, len(parameters))
        judgement, said = comparer.compare(parameter)
        if judgement.verdict is Verdict.FAIL:
            symptom = _NORM if model.graph[parameter.node.stage].op in _NORMS else _MATRIX
            yield FileFinding(Verdict.FAIL, parameter.weight.name, said, parameter.node.stage, symptom)
        elif judgement.verdict is Verdict.UNKNOWN:
            unjudged.setdefault(judgement.reason, []).append(parameter.weight.name)
    for reason, names in unjudged.items():
        yield FileFinding(Verdict.UNKNOWN, names[0], f"{reason} ({counted(len(names), 'tensor')})")
    yield from _left_out(parameters, tensors)


def _parameters(model: Model) -> Iterator[CheckedParameter]:
    """Every tensor of the file that the forward pass uses, once."""
    modules, seen = ARCHITECTURES[model.architecture].transformers_modules, set()
    for node in model.graph.nodes:
        stage = model.graph[node.stage]
        for name, weight in zip(stage.params, model.params(node), strict=True):
            if weight.name not in seen:
                seen.add(weight.name)
                yield CheckedParameter(node, name, weight, module_name(modules, node, name), stage.op in BIASES)


@dataclass
class _Comparer:
    model: Model
    tensors: CheckpointTensors
    failed: int = 0

    def compare(self, parameter: CheckedParameter) -> tuple[WeightJudgement, str]:
        """The verdict on one tensor, and what is wrong in words."""
        weight, found = parameter.weight, self.tensors.find(parameter.key)
        stage = self.model.graph[parameter.node.stage]
        if stage.mixer is TokenMixer.RECURRENCE or weight.experts > 1 or stage.op is Op.SOFTMAX:
            return _unknown("kept in another form in a checkpoint: not compared here"), ""
        if found is None:
            return _unknown(f"{parameter.key} is not in the folder"), ""
        if found.element.name not in _COMPARED:
            return _unknown(f"stored as {found.element.name} in the folder: not compared here"), ""
        b = _of_weight(weight)
        a = self.as_in_file(parameter, _matrix(weight.name, found))
        searched = self.failed < _MOST_SEARCHED
        difference = compare_tensors((parameter.node,), a, b, (self._all() if searched else {}, {}))
        if difference.judgement.verdict is not Verdict.FAIL:
            return difference.judgement, ""
        self.failed += 1
        causes = [*self._causes(parameter, found), *difference.findings]
        return difference.judgement, _sentence(difference, causes)

    def as_in_file(self, parameter: CheckedParameter, tensor: StoredTensor) -> StoredTensor:
        """`tensor` of the folder as the file must have it."""
        op, config = self.model.graph[parameter.node.stage].op, self.model.config
        if op in _NORMS and config.norm_offset:
            values = tensor.values(slice(None)) + np.float32(config.norm_offset)
            return _floats(tensor, values)
        is_permuted = config.graph.rope_layout is RopeLayout.INTERLEAVED and config.graph.latent is None
        if parameter.name in _ROTATED and is_permuted:
            return self._in_pairs(parameter, tensor)
        return tensor

    def _in_pairs(self, parameter: CheckedParameter, tensor: StoredTensor) -> StoredTensor:
        """Rows (or the entries of a bias) of each head from halves into pairs."""
        graph = self.model.config.graph
        heads, half = getattr(graph, _ROTATED[parameter.name]), graph.head_dim // 2
        if tensor.data.size % (heads * 2 * half):
            return tensor
        rows = tensor.data.reshape(heads, 2, half, -1)
        data = np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(tensor.data.shape)
        return StoredTensor(
            tensor.name, tensor.type, tensor.shape, data, tensor.block_values, tensor.block_bytes
        )  # fmt: skip

    def _causes(self, parameter: CheckedParameter, found: SourceTensor) -> Iterator[str]:
        """What converters get wrong, where the values show it."""
        plain, ours = _matrix(parameter.weight.name, found), parameter.weight.dequantize()
        if plain.shape != (parameter.weight.rows, parameter.weight.columns):
            return
        theirs = plain.values(slice(None))
        if parameter.name in _ROTATED and self.model.config.graph.latent is None:
            turned = self._in_pairs(parameter, plain).values(slice(None))
            if self.model.config.graph.rope_layout is RopeLayout.INTERLEAVED and cosine(theirs, ours) > _ALIKE:
                yield f"rows of each head lie in halves, as in the folder: {self.model.architecture} needs pairs"
            if self.model.config.graph.rope_layout is RopeLayout.HALF_SPLIT and cosine(turned, ours) > _ALIKE:
                yield f"rows of each head were put in pairs: {self.model.architecture} needs halves, as in the folder"
        if self.model.graph[parameter.node.stage].op in _NORMS:
            offset, spread = float((ours - theirs).mean()), float((ours - theirs).std())
            if spread < 0.01 and min(abs(offset - 1), abs(offset), abs(offset - 2)) < 0.01:
                expected = self.model.config.norm_offset
                yield f"the file has the folder's weights plus {round(offset)}, expected plus {expected:g}"

    def _all(self) -> Mapping[str, StoredTensor]:
        """The folder's matrices by the names of the file, each read when it is asked for."""
        return _Matrices({each.weight.name: each.key for each in _parameters(self.model)}, self.tensors)


@dataclass(frozen=True)
class _Matrices(Mapping[str, StoredTensor]):
    """Matrices of the folder by the names of the file."""

    keys_of: Mapping[str, str]
    tensors: CheckpointTensors

    def __getitem__(self, name: str) -> StoredTensor:
        found = self.tensors.find(self.keys_of[name])
        if found is None:
            raise KeyError(name)
        return _matrix(name, found)

    def __iter__(self) -> Iterator[str]:
        for name, key in self.keys_of.items():
            found = self.tensors.find(key)
            if found is not None and found.element.name in _COMPARED and len(found.shape) == 2:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _of_weight(weight: Weight) -> StoredTensor:
    row = weight.type.format
    return StoredTensor(
        weight.name, weight.type.name, (weight.rows, weight.columns), weight.data, row.block_values, row.block_bytes
    )


def _matrix(name: str, tensor: SourceTensor) -> StoredTensor:
    """A tensor of the folder as a matrix, a vector as one row."""
    columns, size = tensor.shape[-1] if tensor.shape else 1, tensor.element.size
    data = tensor.load().reshape(-1, columns * size)
    return StoredTensor(name, tensor.element.name, (len(data), columns), data, 1, size)


def _floats(tensor: StoredTensor, values: NDArray[np.float32]) -> StoredTensor:
    data = np.ascontiguousarray(values, np.float32).view(np.uint8).reshape(len(values), -1)
    return StoredTensor(tensor.name, "F32", tensor.shape, data, 1, 4)


def _unknown(reason: str) -> WeightJudgement:
    return WeightJudgement(Verdict.UNKNOWN, "rel_l2", None, None, None, reason)


def _sentence(difference: TensorDifference, causes: list[str]) -> str:
    judgement = difference.judgement
    number = "" if judgement.error is None else f"{judgement.metric} {number_text(judgement.error)}, "
    return "; ".join([f"{number}{judgement.reason}", *causes])


def _left_out(parameters: list[CheckedParameter], tensors: CheckpointTensors) -> Iterator[FileFinding]:
    """Tensors of the folder that nothing in the file was made from, of the parts that the file has.

    A head that the file does not have is a matter of `tie_word_embeddings`.
    """
    used = {id(tensors.find(parameter.key)) for parameter in parameters}
    parts = {_part(parameter.key) for parameter in parameters}
    for name, tensor in tensors.tensors.items():
        is_other = name.endswith("lm_head.weight") or any(part in name for part in _UNUSED)
        if id(tensor) not in used and _part(name) in parts and not is_other:
            said = f"{name} is in the folder, and nothing in the file was made from it"
            yield FileFinding(Verdict.FAIL, name, said, "", "a part of the model is left out: text makes no sense")


def _part(key: str) -> str:
    """What holds the module of a parameter: `layers.0.self_attn`."""
    for prefix in _PREFIXES[1:]:
        key = key.removeprefix(prefix)
    return key.removeprefix("model.").rpartition(".")[0].rpartition(".")[0]
