"""Kernels between the matrix products of experts: choosing them, and sorting what each of them multiplies.

The tokens of a chunk are grouped by expert, so that the rows of an expert are read once for all tokens that chose it,
and those of the others not at all. A *slot* is one chosen expert of one token, number `token · K + k`; a *place* is
where the slot's row stands among the rows that experts multiply, which are sorted by expert. K = experts a token uses.

A grouping is a run of int64 numbers: the number of groups, then for each group (in arrays of as many as there are
experts) its expert, its first place, and its count; then the slot of each place. The place of each slot stands apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32

from aprtui.engine.cpu.jit import kernel
from aprtui.engine.cpu.matmul import quantize_rows
from aprtui.engine.cpu.memory import array_at, control_record, first_token, float32s, instruction
from aprtui.engine.cpu.rows import copy, exponential
from aprtui.engine.reference.ops import LEAST_WEIGHT_SUM

_LEAST_SUM = np.float32(LEAST_WEIGHT_SUM)
EXPERT_OUT_TOKENS, EXPERT_ROWS = 512, 128
"""Tokens and weight rows of a piece of a product of experts, at most (64 rows decode 3 to 8 % slower)."""


def grouping_size(experts: int, slots: int) -> int:
    """How many int64 numbers a grouping of that many slots takes."""
    return 1 + 3 * experts + slots


@kernel
def int64s(address: int, count: int) -> Any:
    """The `count` int64 numbers at `address`, as an array."""
    return array_at(address, count, np.int64)


@kernel
def slots_of(grouping: int, experts: int) -> int:
    """The address of the slots in a grouping."""
    return grouping + 8 * (1 + 3 * experts)


@kernel
def _expert(index: Any, experts: int) -> int:
    """A chosen index as an integer; what is no expert is taken for the nearest one, NaN for the first."""
    if not index > 0:
        return 0
    return experts - 1 if index >= experts - 1 else int(index + np.float32(0.5))


def router_softmax(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Softmax over the `width` experts of each token."""
    step = instruction(step_address)[0]
    for token in range(begin, end):
        source = float32s(step.source + 4 * token * step.source_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        largest = source[0]
        for i in range(step.width):
            largest = source[i] if source[i] > largest else largest
        total = 0.0
        for i in range(step.width):
            power = exponential(source[i] - largest)
            target[i] = power
            total += np.float64(power)
        factor = float32(1.0 / total)
        for i in range(step.width):
            target[i] = target[i] * factor


@kernel
def _exceeds(value: Any, other: Any) -> bool:
    """Whether `value` is larger; any number is larger than NaN."""
    return bool(value > other or (np.isnan(other) and not np.isnan(value)))


@kernel
def _group_score(source: Any, first: int, size: int, takes_two: bool) -> Any:
    """The largest of `size` numbers from the `first` on, or the sum of the two largest; NaN counts as −∞."""
    largest = second = np.float32(-np.inf)
    for i in range(first, first + size):
        if source[i] > largest:
            largest, second = source[i], largest
        elif source[i] > second:
            second = source[i]
    return largest + second if takes_two else largest


@kernel
def _take_other_groups(source: Any, taken: Any, step: Any) -> None:
    """Take the experts of all groups but the `kv_heads` best of `count`, so that none of them is chosen."""
    size = step.width // step.count
    for i in range(step.width):
        taken[i] = 1
    for _ in range(step.kv_heads):
        best, best_score = -1, np.float32(0)
        for group in range(step.count):
            if taken[group * size] == 1:
                score = _group_score(source, group * size, size, step.kind == 1)
                if best < 0 or _exceeds(score, best_score):
                    best, best_score = group, score
        for i in range(best * size, (best + 1) * size):
            taken[i] = 0


def choose_experts(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """The `heads` most probable of `width` experts, in falling order; of equal ones the first, NaN last.

    With a `count` of groups, those of the `kv_heads` best groups only, which are scored by the largest number in each
    (`kind` 0) or by the sum of the two largest (1).
    """
    step = instruction(step_address)[0]
    taken = array_at(scratch, step.width, np.uint8)
    for token in range(begin, end):
        source = float32s(step.source + 4 * token * step.source_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.heads)
        if step.count > 0:
            _take_other_groups(source, taken, step)
        else:
            for i in range(step.width):
                taken[i] = 0
        for k in range(step.heads):
            best = -1
            for i in range(step.width):
                if taken[i] == 0 and (best < 0 or _exceeds(source[i], source[best])):
                    best = i
            taken[best] = 1
            target[k] = float32(best)


def take_chosen(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """The probabilities (of `width` experts) of the `heads` chosen ones, whose indices are at `other`."""
    step = instruction(step_address)[0]
    for token in range(begin, end):
        source = float32s(step.source + 4 * token * step.source_stride, step.width)
        chosen = float32s(step.other + 4 * token * step.other_stride, step.heads)
        target = float32s(step.target + 4 * token * step.target_stride, step.heads)
        for k in range(step.heads):
            target[k] = source[_expert(chosen[k], step.width)]


def normalise_chosen(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """The `width` weights of each token divided by their sum, which is taken in float64."""
    step = instruction(step_address)[0]
    for token in range(begin, end):
        source = float32s(step.source + 4 * token * step.source_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        total = 0.0
        for i in range(step.width):
            total += np.float64(source[i])
        divisor = float32(total)
        divisor = _LEAST_SUM if divisor < _LEAST_SUM else divisor
        for i in range(step.width):
            target[i] = source[i] / divisor


def scale_chosen(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """The `width` weights of each token times `scalar`."""
    step = instruction(step_address)[0]
    factor = float32(step.scalar)
    for token in range(begin, end):
        source = float32s(step.source + 4 * token * step.source_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        for i in range(step.width):
            target[i] = source[i] * factor


def expert_bias(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Add to each of `heads` runs of `width` channels the row of `parameter` of its expert, whose index is at `other`.

    There are `count` experts.
    """
    step = instruction(step_address)[0]
    for token in range(begin, end):
        chosen = float32s(step.other + 4 * token * step.other_stride, step.heads)
        for k in range(step.heads):
            shift = k * step.width
            added = float32s(step.parameter + 4 * _expert(chosen[k], step.count) * step.width, step.width)
            source = float32s(step.source + 4 * (token * step.source_stride + shift), step.width)
            target = float32s(step.target + 4 * (token * step.target_stride + shift), step.width)
            for i in range(step.width):
                target[i] = source[i] + added[i]


def combine_experts(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """The sum over `heads` experts of their `width` channels times their weights at `other`, most probable first."""
    step = instruction(step_address)[0]
    for token in range(begin, end):
        weights = float32s(step.other + 4 * token * step.other_stride, step.heads)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        for i in range(step.width):
            target[i] = float32(0)
        for k in range(step.heads):
            source = float32s(step.source + 4 * (token * step.source_stride + k * step.width), step.width)
            weight = weights[k]
            for i in range(step.width):
                target[i] = target[i] + source[i] * weight


def group_experts(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Make the grouping at `parameter` from the chosen indices at `source`; the places of slots go to `other`.

    `width` experts, of which each token uses `heads`. Only tokens that are wanted take part.
    """
    step = instruction(step_address)[0]
    control = control_record(control_address)[0]
    experts, used, first = step.width, step.heads, first_token(step_address, control)
    slots = control.tokens * used
    header = int64s(step.parameter, 1 + 3 * experts)
    places, slot_at = int64s(step.other, slots), int64s(slots_of(step.parameter, experts), slots)
    counts = int64s(scratch, experts)
    for expert in range(experts):
        counts[expert] = 0
    for token in range(first, control.tokens):
        chosen = float32s(step.source + 4 * token * step.source_stride, used)
        for k in range(used):
            counts[_expert(chosen[k], experts)] += 1
    groups, place = 0, 0
    for expert in range(experts):
        count = counts[expert]
        counts[expert] = place  # from here on: where the next row of this expert goes
        if count > 0:
            header[1 + groups] = expert
            header[1 + experts + groups] = place
            header[1 + 2 * experts + groups] = count
            groups += 1
            place += count
    header[0] = groups
    for token in range(first, control.tokens):
        chosen = float32s(step.source + 4 * token * step.source_stride, used)
        for k in range(used):
            expert = _expert(chosen[k], experts)
            places[token * used + k] = counts[expert]
            slot_at[counts[expert]] = token * used + k
            counts[expert] += 1


def gather_rows(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Round what experts multiply to `kind`, and put it in its place among their rows at `target`.

    A row has `width` channels; each of the `heads` slots of a token has its own, or (`count` 0) all have the token's.
    """
    step = instruction(step_address)[0]
    control = control_record(control_address)[0]
    slots = int64s(step.other, control.tokens * step.heads)
    row = int(np.int64(0))  # a literal would have all that rounds compiled a second time, in 3 s
    for token in range(max(begin, first_token(step_address, control)), end):
        source = step.source + 4 * token * step.source_stride
        first = step.target + slots[token * step.heads] * step.target_stride
        quantize_rows(step.kind, source, step.width, row, row + 1, first)
        for k in range(1, step.heads):
            target = step.target + slots[token * step.heads + k] * step.target_stride
            if step.count:
                quantize_rows(step.kind, source + 4 * k * step.width, step.width, row, row + 1, target)
            else:
                copy(float32s(first, step.target_stride // 4), float32s(target, step.target_stride // 4))
