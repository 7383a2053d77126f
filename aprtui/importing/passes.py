"""Forward passes of an engine, joined to one sequence of tokens.

A dump of modules holds a pass after the other: the prompt, or parts of it, then a token at a time; a pass may hold the
tokens of several sequences. Positions tell which passes belong together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from aprtui.errors import UnreadableError, UsageError
from aprtui.importing.elements import Raw, SourceTensor
from aprtui.importing.import_format import PartChoice
from aprtui.importing.mapping import Operation, Piece, Rule, SourceAxis, TensorMapping
from aprtui.importing.module_names import module_rules
from aprtui.importing.source import Source
from aprtui.trace.graph.stage_graph import StageGraph

_PREFIX = "pass{token}/"
_LOGITS = ("lm_head.output", "logits_processor.output")


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """What modules took and gave in one pass, by `MODULE.output`, `MODULE.input.0`, …

    `ids` and `positions` are those of its tokens, `sequences` of them one after the other; None where the tool does not
    tell. `number` is the one that the tool gave it.
    """

    number: int
    values: Mapping[str, SourceTensor]
    ids: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    sequences: int = 1


@dataclass(frozen=True, slots=True)
class _Taken:
    """The tokens that are taken of a pass, of `tokens` that it has; they are those of sequence `sequence`."""

    of: ForwardPass
    rows: slice
    tokens: int
    sequence: int


def joined(
    path: Path, passes: Sequence[ForwardPass], choice: PartChoice, graph: StageGraph | None, facts: Mapping[str, str]
) -> tuple[Source, TensorMapping]:
    """The tensors of the passes that belong to one sequence, and the rules for them.

    Raises `UsageError` for a choice that there is not, `UnreadableError` where tokens are missing.
    """
    chosen = [entry for entry in passes if choice.steps is None or entry.number in choice.steps]
    if not chosen:
        numbers = ", ".join(str(entry.number) for entry in passes[:8]) or "none"
        raise UsageError(f"--step: {path} has the passes {numbers}{', …' if len(passes) > 8 else ''}")
    taken = _sequence(path, chosen, choice)
    notes = []
    if len(taken) < len(chosen):
        after = chosen[len(taken)].number
        notes.append(f"passes from {after} on are of another sequence, or may be: --step says which belong together")
    tensors = _tensors(taken, choice.partial)
    shapes = {name.partition("/")[2]: tensor.shape for name, tensor in tensors.items()}
    rules = module_rules(shapes, graph, _PREFIX)
    kept, wrong = (rules.rules, ()) if choice.partial else _fitting(rules.rules, shapes, graph)
    ids = [entry.of.ids[entry.rows] for entry in taken if entry.of.ids is not None]
    tokens = tuple(token for part in ids for token in part) if len(ids) == len(taken) else None
    return Source(path, tensors, tokens, facts, (*notes, *rules.notes, *wrong)), TensorMapping(kept)


def _sequence(path: Path, passes: Sequence[ForwardPass], choice: PartChoice) -> list[_Taken]:
    """The passes that go on with one sequence, from the first one on."""
    taken: list[_Taken] = []
    count = 0
    for entry in passes:
        tokens = _token_count(path, entry)
        parts = _parts(path, entry, tokens)
        if choice.sequence is None and len(parts) > 1:
            raise UsageError(f"{path}: pass {entry.number} holds {len(parts)} sequences: choose one, --sequence 0")
        number = choice.sequence or 0
        if number >= len(parts):
            if not taken:
                raise UsageError(f"--sequence {number}: pass {entry.number} of {path} holds {len(parts)}, from 0 on")
            break
        rows = parts[number]
        first = count if entry.positions is None else entry.positions[rows.start]
        if not taken and first:
            raise UnreadableError(
                f"{path}: pass {entry.number} begins at position {first}: what lies before it was not dumped: choose "
                "another with --step, or dump without a cache of prefixes"
            )
        if first != count or (taken and entry.positions is None and choice.steps is None):
            break
        taken.append(_Taken(entry, rows, tokens, number))
        count += rows.stop - rows.start
    return taken


def _token_count(path: Path, entry: ForwardPass) -> int:
    """Tokens of a pass, of all its sequences: as many as ids or positions, or as most values have rows."""
    for known in (entry.ids, entry.positions):
        if known is not None:
            return len(known)
    rows = Counter(
        math.prod(tensor.shape[:-1]) for name, tensor in entry.values.items() if "norm" in name and tensor.shape
    )
    if not rows:
        raise UnreadableError(f"{path}: pass {entry.number}: neither ids nor norms, so the tokens cannot be counted")
    return rows.most_common(1)[0][0]


def _parts(path: Path, entry: ForwardPass, tokens: int) -> list[slice]:
    """The tokens of each sequence of a pass."""
    if entry.sequences == 1:
        return [slice(0, tokens)]
    if entry.sequences == tokens:
        return [slice(row, row + 1) for row in range(tokens)]
    if entry.positions is None:
        each, rest = divmod(tokens, entry.sequences)
        if rest:
            raise UnreadableError(f"{path}: pass {entry.number}: {tokens} tokens of {entry.sequences} sequences")
        return [slice(start, start + each) for start in range(0, tokens, each)]
    starts = [
        row for row, position in enumerate(entry.positions) if not row or position != entry.positions[row - 1] + 1
    ]
    if len(starts) != entry.sequences:
        raise UnreadableError(
            f"{path}: pass {entry.number}: its positions are not those of {entry.sequences} sequences"
        )
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], tokens], strict=True)]


def _tensors(taken: Sequence[_Taken], partial: bool) -> dict[str, SourceTensor]:
    """The values of all passes as rows of tokens. Of logits of last positions, those of the last pass are kept; a rank
    of several may have some of the tokens, of a single pass.
    """
    found, of_last = {}, set()
    for number, entry in enumerate(taken):
        for name, tensor in entry.of.values.items():
            rows = _of_tokens(tensor, entry)
            if rows is None and name.startswith(_LOGITS):
                rows = _of_sequence(tensor, entry)
                of_last.add(name)
            if rows is None and partial and len(taken) == 1:
                rows = _of_some_tokens(tensor)
            if rows is not None:
                found[number, name] = replace(rows, name=f"pass{number}/{name}")
    last = len(taken) - 1
    return {
        tensor.name: tensor for (number, name), tensor in found.items() if number == last or name not in of_last
    }  # fmt: skip


def _rows_of(entry: _Taken) -> int:
    return int(entry.rows.stop - entry.rows.start)


def _of_tokens(tensor: SourceTensor, entry: _Taken) -> SourceTensor | None:
    """The values of our tokens, `[tokens, width]`; None for a tensor that does not have the tokens of the pass.

    Heads may come before tokens, and rows may be heads of tokens.
    """
    shape, tokens = tensor.shape, entry.tokens
    if len(shape) < 2 or not tokens:
        return None
    lead = math.prod(shape[:-1])
    heads_first = len(shape) >= 3 and lead != tokens and shape[-3] != tokens and shape[-2] == tokens
    if len(shape) == 4 and shape[0] > 1 and lead != tokens:
        heads_first = shape[0] * shape[1] != tokens and shape[0] * shape[2] == tokens
        if not heads_first and shape[0] * shape[1] != tokens:
            return None
    elif lead % tokens or (len(shape) > 2 and lead != tokens and not heads_first and shape[-3] != tokens):
        return None
    count, width = _rows_of(entry), math.prod(shape) // tokens
    load = partial(_rows, tensor, heads_first, tokens, width * tensor.element.size, entry.rows)
    return replace(tensor, shape=(count, width), load=load)


def _of_some_tokens(tensor: SourceTensor) -> SourceTensor | None:
    """`[rows, width]`, behind axes of size 1, of a rank that has some of the tokens."""
    if len(tensor.shape) < 2 or math.prod(tensor.shape[:-2]) != 1:
        return None
    return replace(tensor, shape=tensor.shape[-2:])


def _rows(tensor: SourceTensor, heads_first: bool, tokens: int, row_bytes: int, rows: slice) -> Raw:
    raw = tensor.load()
    if heads_first:
        *_, heads, per_batch, width = (1, *tensor.shape)
        blocks = raw.reshape(-1, heads, per_batch, width * tensor.element.size)
        raw = np.ascontiguousarray(blocks.swapaxes(1, 2)).reshape(-1)
    return raw.reshape(tokens, row_bytes)[rows].reshape(-1)


def _of_sequence(tensor: SourceTensor, entry: _Taken) -> SourceTensor | None:
    """The row of our sequence, of a tensor that has one row for each."""
    if math.prod(tensor.shape[:-1]) != entry.of.sequences:
        return None
    row = slice(entry.sequence, entry.sequence + 1)
    load = partial(_rows, tensor, False, entry.of.sequences, tensor.shape[-1] * tensor.element.size, row)
    return replace(tensor, shape=(1, tensor.shape[-1]), load=load)


def _fitting(
    rules: Sequence[Rule], shapes: Mapping[str, tuple[int, ...]], graph: StageGraph | None
) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """The rules whose tensors have the width of their stage, and what is said of the others."""
    if graph is None:
        return tuple(rules), ()
    kept = [rule for rule in rules if _width(rule.piece, shapes) == graph[rule.stage].width]
    wrong = list(dict.fromkeys(rule.stage for rule in rules if rule not in kept))
    notes = (f"left out, of another width than the model's (a part of several ranks?): {', '.join(wrong)}",)
    return tuple(kept), notes if wrong else ()


def _width(piece: Piece, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if piece.parts:
        widths = [_width(part, shapes) for part in piece.parts]
        return sum(widths) if piece.operation is Operation.CONCATENATE else widths[0]
    first, end = piece.slices.get(SourceAxis.CHANNEL, (0, shapes[piece.pattern.removeprefix(_PREFIX)][-1]))
    return end - first
