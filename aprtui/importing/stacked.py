"""Tensors of all layers at once, as `torch.stack` makes them: one of their axes counts the layers.

Their bytes are kept while the layers are taken out of them one by one, those of a few tensors at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np

from aprtui.errors import UsageError
from aprtui.importing.elements import Raw, SourceTensor
from aprtui.importing.mapping import Piece, SourceAxis

_MOST_KEPT = 4


class Stacks:
    """Takes single layers out of stacked tensors."""

    def __init__(self) -> None:
        self._bytes = lru_cache(_MOST_KEPT)(_bytes)

    def layer(self, tensor: SourceTensor, piece: Piece, entry: int) -> SourceTensor:
        """Number `entry` of the layers that `piece` takes of `tensor`, without the axis that counts them."""
        assert piece.axes is not None
        place, index = piece.axes.index(SourceAxis.LAYER), _first(piece) + entry
        shape = (*tensor.shape[:place], *tensor.shape[place + 1 :])
        return replace(tensor, shape=shape, load=partial(self._part, tensor, place, index))

    def _part(self, tensor: SourceTensor, place: int, index: int) -> Raw:
        before, after = tensor.shape[:place], tensor.shape[place + 1 :]
        size = math.prod(after) * tensor.element.size
        layers = self._bytes(tensor).reshape(math.prod(before), tensor.shape[place], size)
        return np.ascontiguousarray(layers[:, index]).reshape(-1)


def _bytes(tensor: SourceTensor) -> Raw:
    return tensor.load().view(np.uint8)


def count_layers(piece: Piece, tensors: Iterable[SourceTensor]) -> int:
    """How many layers a `piece` with an axis of them takes of each of `tensors`. Raises `UsageError`."""
    assert piece.axes is not None
    counts = []
    for tensor in tensors:
        what = f"{tensor.name!r:.80} of shape {list(tensor.shape)}"
        if len(piece.axes) != len(tensor.shape):
            raise UsageError(f"{what}: the rule names {len(piece.axes)} axes: {', '.join(piece.axes)}")
        size = tensor.shape[piece.axes.index(SourceAxis.LAYER)]
        first, end = piece.slices.get(SourceAxis.LAYER, (0, size))
        if end > size:
            raise UsageError(f"{what}: slice: axis layer has {size} entries, the rule takes {first}…{end}")
        counts.append(end - first)
    return min(counts, default=0)


def without_layers(piece: Piece) -> Piece:
    """`piece` for one layer that was taken out of a stacked tensor."""
    assert piece.axes is not None
    axes = tuple(axis for axis in piece.axes if axis is not SourceAxis.LAYER)
    return replace(piece, axes=axes, slices={a: ends for a, ends in piece.slices.items() if a is not SourceAxis.LAYER})


def _first(piece: Piece) -> int:
    return piece.slices.get(SourceAxis.LAYER, (0, 0))[0]
