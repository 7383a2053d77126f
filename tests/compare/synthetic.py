"""Small captures with known values, for tests of comparisons."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.trace.aprt import write_aprt
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph, graph_for
from aprtui.trace.manifest import EngineInfo, Manifest, ModelInfo, relative_path, write_manifest
from aprtui.trace.writer import planned_files

CONFIG = GraphConfig("qwen2", 3, 8, 2, 1, 4, 12, 20, qkv_bias=True)
TOKENS = (5, 3, 9, 1, 7)
ENGINE = EngineInfo("aprtui", "1", "cpu", "cpu", "cpu", "exact", {"matmul_input": "none"})
NODES = 1 + 3 * 17 + 2

Values = NDArray[np.float32]
Edit = Callable[[Values], Values]


def stage_values(node: Node, shape: tuple[int, ...], tokens: tuple[int, ...]) -> Values:
    """Values of a node that depend on it and on the tokens up to each position only, as in a causal model."""
    out = np.zeros(shape, np.float32)
    seed = zlib.crc32(str(node).encode())
    first = len(tokens) - shape[-2]
    for row in range(shape[-2]):
        random = np.random.default_rng([seed, *tokens[: first + row + 1]])
        if len(shape) == 2:
            out[row] = random.standard_normal(shape[1])
        else:
            scores = random.standard_normal((shape[0], row + 1))
            out[:, row, : row + 1] = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return out


def write_capture(
    path: Path,
    *,
    config: GraphConfig = CONFIG,
    tokens: tuple[int, ...] = TOKENS,
    manifest: bool = True,
    complete: bool = True,
    all_logits: bool = False,
    edits: Mapping[Node, Edit] | None = None,
    without: Collection[Node] = (),
    unplanned: Collection[str] = (),
    engine: EngineInfo = ENGINE,
) -> Path:
    """Write a capture to `path`; `without` are files left out, `unplanned` stages that the manifest does not list."""
    graph: StageGraph = graph_for(config)
    nodes = [node for node in graph.nodes if node.stage not in unplanned]
    files = planned_files(graph, nodes, len(tokens), len(tokens) if all_logits else 1)
    for info in files.values():
        if info.node in without:
            continue
        values = stage_values(info.node, info.shape, tokens)
        edit = (edits or {}).get(info.node)
        write_aprt(path / relative_path(info.node), info.layer, edit(values) if edit else values)
    if manifest:
        document = Manifest(
            ModelInfo("tiny", "0" * 64, config.architecture, "Q4_K"), config, engine, tokens,
            tuple(range(len(tokens))), None, len(tokens), len(tokens), "all" if all_logits else "last", files, complete,
        )  # fmt: skip
        write_manifest(path, document)
    return path


def changed(index: tuple[int | slice, ...], value: float) -> Edit:
    """An edit that puts `value` at `index`."""

    def edit(values: Values) -> Values:
        values = values.copy()
        values[index] = value
        return values

    return edit


def scaled(factor: float) -> Edit:
    """An edit that multiplies everything by `factor`."""
    return lambda values: (values * np.float32(factor)).astype(np.float32)


def with_config(**fields: object) -> GraphConfig:
    """The small model with some `fields` of its configuration replaced."""
    return replace(CONFIG, **fields)  # type: ignore[arg-type]


RECURRENT = (True, False, True)
"""Which layers of `HYBRID` have a recurrence."""

HYBRID = with_config(
    architecture="qwen35", qkv_bias=False, qk_norm=True, gated_attention=True, recurrent=RECURRENT, linear_key_heads=1,
    linear_value_heads=2, linear_head_dim=4, conv_kernel=2,
)  # fmt: skip
HEADS_OF_16 = with_config(head_dim=16)


def interleaved(values: Values) -> Values:
    """Each head of 16 channels with channel i of its first half beside channel i of its second."""
    tokens, width = values.shape
    return np.ascontiguousarray(values.reshape(tokens, -1, 2, 8).transpose(0, 1, 3, 2).reshape(tokens, width))


def _interleaved_but_v(values: Values) -> Values:
    rotated = HEADS_OF_16.q_width + HEADS_OF_16.kv_width
    return np.concatenate([interleaved(values[:, :rotated]), values[:, rotated:]], axis=1)


def reordered(layers: tuple[int, ...]) -> dict[Node, Edit]:
    """Edits that put the stages in RoPE order of `layers` into the interleaved layout, for `HEADS_OF_16`."""
    edits: dict[Node, Edit] = {}
    for layer in layers:
        edits |= {Node(layer, name): interleaved for name in ("q_post_rope", "k_post_rope")}
        edits |= {Node(layer, name): _interleaved_but_v for name in ("qkv_matmul", "qkv_bias")}
    return edits
