"""In which types a product is computed: those of its inputs, with their scales and limits, and those of its sums."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from aprtui.engine.alternatives.alternative import Alternative, Attempt, distance, least, nicest, plain
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.matrices import products
from aprtui.engine.alternatives.matrices.channels import BLOCK, SAMPLED, TOKENS, Wide, is_small, rows_of, some
from aprtui.engine.rounding import ROUND
from aprtui.trace.graph.ops import Op

_TERMS = (1, 8, 16, 32, 64, 128, 256)
_INPUTS = {
    "f16": "float16", "bf16": "bfloat16", "q8_0": "Q8_0", "q8_1": "Q8_1", "q8_k": "Q8_K",
    "int8_row": "int8, a scale a row", "fp8": "FP8",
}  # fmt: skip  # fmt: skip


def _zero_scales(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Blocks of inputs that are zero throughout, so that a scale of theirs is, which is divided by."""
    for size, words in ((BLOCK, "blocks of 32 inputs"), (call.x.shape[1], "rows of inputs")):
        if call.x.shape[1] % size:
            continue
        zero = (call.x.reshape(len(call.x), -1, size) == 0).all(-1).any(-1)
        if zero.any() and not zero.all():
            yield Attempt(
                f"{words} that are zero make NaN: their scale is divided by",
                lambda c, zero=zero: np.where(zero[:, None], np.float32(np.nan), c.honest()),  # type: ignore[misc]
            )  # fmt: skip


def _narrow_sums(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Sums that are kept in 16 bits, over as many terms at a time as some channels show."""
    if found is None:
        return
    sample, tokens = some(np.arange(found.shape[1]), SAMPLED), some(np.arange(len(call.x)), TOKENS)
    rows, x = rows_of(call.model.params(call.node), sample.tolist()), call.x[tokens].astype(np.float64)
    seen = found[tokens][:, sample]
    ways = {
        (kind, terms): narrow_sums(x, rows, kind, terms)
        for kind in ("f16", "bf16")
        for terms in _TERMS
        if terms < x.shape[1]
    }
    kind, terms = min(ways, key=lambda way: distance(ways[way], seen))
    if distance(ways[kind, terms], seen) < 0.25 * distance(x @ rows.T, seen):
        each = "each term" if terms == 1 else f"every {terms} terms"
        yield Attempt(
            f"sums are rounded to {_INPUTS[kind]} after {each}", partial(summed_narrowly, kind=kind, terms=terms)
        )


def narrow_sums(x: Wide, rows: Wide, kind: str, terms: int) -> Array:
    """The product of `x` `[tokens, columns]` and `rows` `[channels, columns]`, rounded after so many terms."""
    sums = np.zeros((len(x), len(rows)), np.float32)
    for start in range(0, x.shape[1], terms):
        block = slice(start, start + terms)
        sums = ROUND[kind](sums + (x[:, block] @ rows[:, block].T).astype(np.float32))
    return sums


def summed_narrowly(call: StageCall, kind: str, terms: int) -> Array:
    """A product whose sums are kept in 16 bits."""
    x = call.x.astype(np.float64)
    return np.concatenate([narrow_sums(x, matrix, kind, terms) for matrix in call.matrices()], axis=1)


def _input_types(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    raw = call.x
    for kind, name in _INPUTS.items():
        if not kind.startswith("q8") or raw.shape[1] % (256 if kind == "q8_k" else BLOCK) == 0:
            yield Attempt(f"its input is rounded to {name}", lambda c, kind=kind: c.honest(ROUND[kind](raw)))  # type: ignore[misc]
    yield Attempt("its input is not rounded", lambda c: c.honest(raw))


def _input_limits(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Inputs that saturate: searched for on some channels."""
    if found is None:
        return
    sample = some(np.arange(found.shape[1]), SAMPLED)
    rows, seen = rows_of(call.model.params(call.node), sample.tolist()), found[:, sample]
    largest = float(np.abs(call.x).max())

    def cost(logarithm: float) -> float:
        limit = np.float32(np.exp(logarithm))
        return distance(np.clip(call.x, -limit, limit).astype(np.float64) @ rows.T, seen)

    grid = np.linspace(np.log(largest / 100), np.log(largest), 40)
    at = int(np.argmin([cost(value) for value in grid]))
    if largest == 0 or at == len(grid) - 1:
        return
    limit = float(np.exp(least(cost, float(grid[max(at - 1, 0)]), float(grid[at + 1]))))
    limit = nicest(limit, lambda value: cost(np.log(value)) ** 2)
    yield Attempt(
        f"its input saturates at {limit:.6g}",
        lambda c: c.honest(np.clip(c.x, -np.float32(limit), np.float32(limit))), 1,
    )  # fmt: skip


_PRODUCT = (Op.MATMUL,)

INPUT_TYPE_ALTERNATIVES: tuple[Alternative, ...] = (
    plain(
        "scale of inputs", _PRODUCT, products.scale_of_block_before,
        "blocks of the input are rounded by the scale of the block before", "scale each block of the input by its own",
        lambda model, node: all(weight.columns % BLOCK == 0 for weight in model.params(node)),
    ),
    Alternative("zero scale", frozenset(_PRODUCT), _zero_scales, "take 0 for quants whose scale is 0", of_result=True),
    Alternative(
        "sums in 16 bits", frozenset(_PRODUCT), _narrow_sums, "sum in float32, or state it: --rounding sums=…",
        is_small, may_be_meant=True,
    ),
    Alternative("input type", frozenset(_PRODUCT), _input_types, "state it: --rounding", may_be_meant=True),
    Alternative("input limit", frozenset(_PRODUCT), _input_limits, "keep inputs in a type of a wider range"),
)  # fmt: skip
