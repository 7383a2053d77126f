"""A model with latent attention in the form that its file does not have, for captures of engines that compute in it.

The matrix `attn_kv_b` of a layer holds, head after head, the rows that make keys and those that make values of a latent
row; `attn_k_b` holds those of keys with rows and columns exchanged, `attn_v_b` those of values. Values of F32, F16 and
BF16 are the same ones in either form. The blocks of quantised keys lie along the other axis, so what their values are
is put down in F32. A file of the other form has rounded the same weights otherwise, and may have another type for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aprtui.model.binding import parameter_names
from aprtui.model.model import Model, Rebuilt
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from aprtui.progress import Progress, no_progress
from aprtui.trace.graph.config import GraphConfig, LatentAttention
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for

_BITS: Mapping[WeightType, type[np.generic]] = {
    WeightType.F32: np.uint32, WeightType.F16: np.uint16, WeightType.BF16: np.uint16
}  # fmt: skip
"""Types whose values can be put in another order as they lie, with what they are then read as."""


def other_form(config: GraphConfig) -> GraphConfig:
    """`config`, which has latent attention, with the form of it that it does not have."""
    assert config.latent is not None
    latent = replace(config.latent, absorbed=not config.latent.absorbed)
    heads = 1 if latent.absorbed else config.heads
    return replace(config, latent=latent, head_dim=latent.key_dim, kv_heads=heads)


def in_other_form(model: Model, progress: Progress = no_progress) -> Model:
    """`model`, which has latent attention, in the form that its file does not have. One layer after another is read:
    its matrices of keys and values are in memory then, four bytes a value where they are quantised."""
    config = other_form(model.config.graph)
    latent = config.latent
    assert latent is not None
    graph = graph_for(config)
    made: dict[str, Weight] = {}
    quantised: set[str] = set()
    for layer in range(config.layers):
        progress("putting latent attention in the capture's form, layer", layer, config.layers)
        of_layer, of_blocks = (_absorbed if latent.absorbed else _expanded)(model, layer, latent, config.heads)
        made |= {weight.name: weight for weight in of_layer}
        quantised |= of_blocks
    bound = {}
    for node in graph.nodes:
        names = parameter_names(graph, node)
        found = tuple(made[name] for name in names) if names and names[0] in made else model.params(node)
        if found:
            bound[node] = found
    weights = {weight.name: weight for found in bound.values() for weight in found}
    theirs, own = ("absorbed", "expanded") if latent.absorbed else ("expanded", "absorbed")
    statement = (
        f"latent attention: computed again in the {theirs} form, as the capture has it; MODEL's file has the {own} one"
    )
    return model.with_form(
        replace(model.config, graph=config), graph, weights, bound, Rebuilt(statement, frozenset(quantised))
    )


def _expanded(model: Model, layer: int, latent: LatentAttention, heads: int) -> tuple[list[Weight], set[str]]:
    (keys,), (values,) = (model.params(Node(layer, stage)) for stage in ("q_nope_absorbed", "attention"))
    name = f"blk.{layer}.attn_kv_b.weight"
    kind = keys.type if keys.type is values.type and keys.type in _BITS else WeightType.F32
    of_keys, of_values = (_values(weight, kind, heads) for weight in (keys, values))
    both = np.concatenate([of_keys.transpose(0, 2, 1), of_values], axis=1)
    quantised = {name} if {keys.type, values.type} - _BITS.keys() else set()
    return [_weight(name, kind, both.reshape(-1, latent.rank))], quantised


def _absorbed(model: Model, layer: int, latent: LatentAttention, heads: int) -> tuple[list[Weight], set[str]]:
    (whole,) = model.params(Node(layer, "mla_kv"))
    names = [f"blk.{layer}.attn_{part}_b.weight" for part in "kv"]
    kind = whole.type if whole.type in _BITS else WeightType.F32
    of_keys = _values(whole, kind, heads)[:, : latent.nope].transpose(0, 2, 1)
    rows = whole.data.reshape(heads, latent.nope + latent.value, -1)[:, latent.nope :]
    kept = np.ascontiguousarray(rows).reshape(heads * latent.value, -1)
    values = Weight(names[1], whole.type, heads * latent.value, latent.rank, kept, heads)
    keys = _weight(names[0], kind, of_keys.reshape(-1, latent.nope), heads)
    return [keys, values], set() if whole.type in _BITS else set(names)


def _values(weight: Weight, kind: WeightType, heads: int) -> NDArray[np.generic]:
    """The values of a matrix, head by head `[heads, rows, columns]`; those of floats as the bits that they are."""
    stored = weight.data if weight.type is kind else weight.dequantize().view(np.uint8)
    return np.ascontiguousarray(stored).view(_BITS[kind]).reshape(heads, -1, weight.columns)


def _weight(name: str, kind: WeightType, values: NDArray[np.generic], experts: int = 1) -> Weight:
    stored = np.ascontiguousarray(values).view(np.uint8)
    return Weight(name, kind, values.shape[0], values.shape[1], stored, experts)
