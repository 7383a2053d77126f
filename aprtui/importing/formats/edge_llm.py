"""TensorRT Edge-LLM's dump: one safetensors file with logits and K/V caches of each round of generation.

`round_{r}.logits`, `round_{r}.layer_{i}.kv` of shape `[batch, 2, heads, positions, channels]` (keys, then values),
`round_{r}.context_lengths` and `round_{r}.generated_token_ids`. Keys of the cache are turned: they are `k_post_rope` of
all positions so far. Values have no stage of their own.
"""

from __future__ import annotations

import re
from pathlib import Path

from aprtui.errors import UnreadableError, UsageError
from aprtui.importing.elements import SourceTensor
from aprtui.importing.import_format import ImportFormat, PartChoice
from aprtui.importing.mapping import Piece, Rule, SourceAxis, TensorMapping
from aprtui.importing.safetensors_file import SUFFIX, read_safetensors
from aprtui.importing.source import Source
from aprtui.trace.graph.stage_graph import StageGraph

_ROUND = re.compile(r"round_(\d+)\.(logits|context_lengths|generated_token_ids|layer_\d+\.kv)")
_KV_AXES = (SourceAxis.BATCH, SourceAxis.ONE, SourceAxis.HEAD, SourceAxis.TOKEN, SourceAxis.CHANNEL)


def _recognises(path: Path) -> bool:
    if path.suffix != SUFFIX or not path.is_file():
        return False
    try:
        return any(_ROUND.fullmatch(name) for name in read_safetensors(path))
    except UnreadableError:
        return False


def _read(path: Path, choice: PartChoice, graph: StageGraph | None) -> tuple[Source, TensorMapping]:
    tensors = read_safetensors(path)
    rounds = {int(match[1]) for name in tensors if (match := _ROUND.fullmatch(name))}
    chosen = max(rounds if choice.steps is None else rounds & set(choice.steps), default=None)
    if chosen is None:
        raise UsageError(f"--step: {path} has the rounds {min(rounds, default=0)} … {max(rounds, default=0)}")
    prefix = f"round_{chosen}."
    of_round = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    lengths = _lengths(path, of_round.get(f"{prefix}context_lengths"))
    if choice.sequence is None and len(lengths) > 1:
        raise UsageError(f"{path}: holds {len(lengths)} sequences: choose one, --sequence 0")
    number = choice.sequence or 0
    if number >= len(lengths):
        raise UsageError(f"--sequence {number}: {path} holds {len(lengths)}, from 0 on")
    rules = []
    for name, tensor in of_round.items():
        match = re.fullmatch(r"round_\d+\.layer_(\d+)\.kv", name)
        if match is not None:
            _require_shape(path, tensor, lengths[number])
            taken = {SourceAxis.ONE: (0, 1), SourceAxis.TOKEN: (0, lengths[number])}
            rules.append(
                Rule("k_post_rope", Piece(name, axes=_KV_AXES, batch=number, slices=taken), layer=int(match[1]))
            )
    logits = of_round.get(f"{prefix}logits")
    if logits is not None:
        tokens = () if len(logits.shape) == 2 else (SourceAxis.TOKEN,)
        axes = (SourceAxis.BATCH, *tokens, SourceAxis.CHANNEL)
        rules.append(Rule("lm_head", Piece(f"{prefix}logits", axes=axes, batch=number)))
    facts = {"engine": "TensorRT Edge-LLM", "token_count": str(lengths[number])}
    notes = (f"round {chosen} of {max(rounds) + 1}; values of the cache have no stage of their own",)
    return Source(path, of_round, None, facts, notes), TensorMapping(tuple(rules))


def _lengths(path: Path, tensor: SourceTensor | None) -> list[int]:
    numbers = None if tensor is None else tensor.integers()
    if numbers is None or not numbers.size or (numbers <= 0).any():
        raise UnreadableError(f"{path}: no context_lengths: how many positions a cache holds is not known")
    return [int(number) for number in numbers.reshape(-1)]


def _require_shape(path: Path, tensor: SourceTensor, length: int) -> None:
    if len(tensor.shape) != 5 or tensor.shape[1] != 2 or tensor.shape[3] < length:
        raise UnreadableError(
            f"{path}: {tensor.name}: shape {list(tensor.shape)}: expected [batch, 2, heads, ≥ {length}, channels]"
        )


FORMAT = ImportFormat(
    "edge-llm", "TensorRT Edge-LLM's safetensors: round_0.logits, round_0.layer_0.kv", _recognises, _read
)
