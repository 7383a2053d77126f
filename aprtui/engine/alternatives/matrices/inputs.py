"""Which inputs of a product are summed, and in which order they are read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from aprtui.compare.wording import counted, ranges
from aprtui.engine.alternatives.alternative import Alternative, Attempt, distance, nicest, reading
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.left_out import STEP, End, squares_without
from aprtui.engine.alternatives.matrices.channels import (
    BLOCK,
    SAMPLED,
    TOKENS,
    Places,
    Wide,
    channels_words,
    in_channels,
    rows_of,
    some,
    wrong_channels,
)
from aprtui.trace.graph.ops import Op

_EQUATIONS = 3
"""Values that are looked at for each number that is solved for."""
_SOLVED = 1e-2
"""What a number that is solved for may be off by."""
_SHIFTS = 8


def _left_out(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Inputs at an end of the rows that the wrong channels do not sum."""
    if found is None:
        return
    wrong = wrong_channels(call, found)
    if not wrong.size:
        return
    sample, tokens = some(wrong, SAMPLED), some(np.arange(len(call.x)), TOKENS)
    rows, x = rows_of(call.model.params(call.node), sample.tolist()), call.x[tokens].astype(np.float64)
    error = (found - call.honest())[tokens][:, sample].astype(np.float64)
    if not np.isfinite(error).all():
        return
    for end in End:
        count = (int(squares_without(x, rows, error, end).argmin()) + 1) * STEP
        if count >= call.x.shape[1]:
            continue
        of = channels_words(wrong, found.shape[1])
        yield Attempt(
            f"the {end} {counted(count, 'input')} of {call.x.shape[1]} are not summed{of}",
            partial(_summed_without, count, end, wrong), 1,
        )  # fmt: skip


def _summed_without(count: int, end: End, wrong: Places, call: StageCall) -> Array:
    x = call.x.copy()
    x[:, -count:] = 0 if end is End.LAST else x[:, -count:]
    if end is End.FIRST:
        x[:, :count] = 0
    return in_channels(call, x, wrong)


def _terms(call: StageCall, found: Array, size: int) -> tuple[Wide, Wide, Places] | None:
    """What blocks of `size` inputs contribute to some wrong channels, `[tokens · channels, blocks]`; what these err by,
    `[tokens · channels]`; all wrong channels. None where these are too few to tell the blocks apart."""
    wrong, columns = wrong_channels(call, found), call.x.shape[1]
    if not wrong.size or columns % size or not np.isfinite(found).all():
        return None
    tokens = some(np.arange(len(call.x)), TOKENS)
    sample = some(wrong, -(-2 * columns // size // len(tokens)) + SAMPLED)
    if len(tokens) * sample.size < _EQUATIONS * columns // size:
        return None
    rows = rows_of(call.model.params(call.node), sample.tolist()).reshape(sample.size, -1, size)
    x = call.x[tokens].astype(np.float64).reshape(len(tokens), -1, size)
    error = (found - call.honest())[tokens][:, sample].astype(np.float64)
    return np.einsum("tbk,cbk->tcb", x, rows).reshape(-1, columns // size), error.ravel(), wrong


def _input_blocks(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Blocks of 32 inputs that are not summed, summed twice, or with another sign, as the errors add up."""
    terms = None if found is None else _terms(call, found, BLOCK)
    if terms is None:
        return
    solved, *_ = np.linalg.lstsq(terms[0], terms[1], rcond=None)
    factors = 1 + np.where(np.abs(solved) < _SOLVED, 0.0, solved)
    off = np.flatnonzero(factors != 1)
    if not 0 < off.size < len(factors) or (off.size == 1 and terms[2].size <= call.honest().shape[1] / 2):
        return  # One block of a few rows is a matter of the weights.
    middle = nicest(float(np.median(factors[off])), lambda value: float(((factors[off] - value) ** 2).mean()))
    middle = 0.0 if abs(middle) < _SOLVED else middle
    if np.abs(factors[off] - middle).max() > _SOLVED:
        return
    how = {0.0: "not summed", 2.0: "summed twice"}.get(middle, f"multiplied by {middle:.6g}")
    inputs = np.flatnonzero(np.repeat(factors != 1, BLOCK))
    of = channels_words(terms[2], call.honest().shape[1])
    yield Attempt(
        f"inputs {ranges(inputs.tolist())} of {call.x.shape[1]} are {how}{of}",
        partial(_with_inputs, inputs, np.float32(middle), terms[2]), 1 + off.size,
    )  # fmt: skip


def _with_inputs(inputs: Places, factor: np.float32, wrong: Places, call: StageCall) -> Array:
    x = call.x.copy()
    x[:, inputs] *= factor
    return in_channels(call, x, wrong)


def _head_orders(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Heads of the attention that a product reads in another order, twice or not at all: which head meets which columns
    of the weight is solved for, all at once."""
    (source,) = call.model.graph.inputs(call.node)
    dim = call.model.graph[source.stage].head_size
    if found is None or call.model.graph[source.stage].op is not Op.ATTEND or call.x.shape[1] % dim:
        return
    heads, wrong = call.x.shape[1] // dim, wrong_channels(call, found)
    if heads < 2 or not wrong.size or not np.isfinite(found).all():
        return
    tokens = some(np.arange(len(call.x)), 2 * TOKENS)
    sample = some(wrong, -(-_EQUATIONS * heads * heads // len(tokens)))
    if len(tokens) * sample.size < 2 * heads * heads:
        return
    rows = rows_of(call.model.params(call.node), sample.tolist()).reshape(sample.size, heads, dim)
    x = call.x[tokens].astype(np.float64).reshape(len(tokens), heads, dim)
    terms = np.einsum("tpk,chk->tchp", x, rows).reshape(-1, heads * heads)
    solved, *_ = np.linalg.lstsq(terms, found[tokens][:, sample].astype(np.float64).ravel(), rcond=None)
    table = solved.reshape(heads, heads)
    order = table.argmax(1)
    if np.abs(table - np.eye(heads)[order]).max() < _SOLVED and (order != np.arange(heads)).any():
        joined = np.ascontiguousarray(call.x.reshape(len(call.x), -1, dim)[:, order]).reshape(call.x.shape)
        yield reading(f"reads the heads of {source.stage} in the order {order.tolist()[:16]}", {0: joined})


def _input_orders(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Inputs that are read in another order: of those that come of other layouts, and of shifts, the nearest on some
    channels."""
    if found is None:
        return
    width, dim = call.x.shape[1], call.model.config.graph.head_dim
    orders = dict(_usual_orders(width, dim))
    orders |= {
        f"shifted by {counted(abs(step), 'channel')} {'up' if step > 0 else 'down'}": np.roll(np.arange(width), step)
        for step in (*range(-_SHIFTS, 0), *range(1, _SHIFTS + 1))
    }
    sample, tokens = some(np.arange(found.shape[1]), SAMPLED), some(np.arange(len(call.x)), TOKENS)
    rows, seen = rows_of(call.model.params(call.node), sample.tolist()), found[tokens][:, sample]
    x = call.x[tokens].astype(np.float64)
    name = min(orders, key=lambda name: distance(x[:, orders[name]] @ rows.T, seen))
    yield reading(f"its input is {name}", {0: np.ascontiguousarray(call.x[:, orders[name]])})


def _usual_orders(width: int, dim: int) -> Iterator[tuple[str, Places]]:
    """Orders of channels that come of a wrong transpose, by what is read."""
    channels = np.arange(width)
    yield "in reverse", channels[::-1]
    if width % 2 == 0:
        yield "read with even and odd channels for halves", channels.reshape(-1, 2).T.ravel()
        yield "read with halves for even and odd channels", channels.reshape(2, -1).T.ravel()
        yield "read with its halves exchanged", np.roll(channels, width // 2)
    if dim and width % dim == 0 and width > dim:
        heads = channels.reshape(-1, dim)
        yield "read as [channels, heads] in place of [heads, channels]", heads.T.ravel()
        yield "[channels, heads] that is read as [heads, channels]", channels.reshape(dim, -1).T.ravel()
        yield (
            "read with even and odd channels of each head for halves",
            heads.reshape(len(heads), -1, 2).swapaxes(1, 2).ravel(),
        )
        yield (
            "read with halves of each head for even and odd channels",
            heads.reshape(len(heads), 2, -1).swapaxes(1, 2).ravel(),
        )


_PRODUCT = frozenset({Op.MATMUL})

INPUT_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative("inputs left out", _PRODUCT, _left_out, "let the loop over columns end with the last one"),
    Alternative(
        "inputs in another order", _PRODUCT, _input_orders,
        "check how what is read was laid out: the transpose, and how heads and halves are joined",
    ),
    Alternative("input heads", _PRODUCT, _head_orders, "join heads in the order of the weight's columns"),
    Alternative("blocks of inputs", _PRODUCT, _input_blocks, "let the loop over columns take each block once"),
)  # fmt: skip
