"""What an oracle leaves beside the stage files: `_PROVENANCE.txt`, and the layout that hooks in PyTorch give."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.build import this_build
from aprtui.trace.aprt import read_aprt, write_aprt, write_atomically
from aprtui.trace.capture import PROVENANCE
from aprtui.trace.graph.config import RopeLayout
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage_graph import StageGraph, graph_for
from aprtui.trace.manifest import FILE_NAME, Manifest, relative_path

NOT_HOOKED = "post_attn_residual"
"""The stage that no module of a transformer has as its input or output."""


def write_provenance(directory: Path, manifest: Manifest) -> None:
    """Write `_PROVENANCE.txt` with the keys that the reference oracle of `apr` gives, and what the manifest has."""
    write_atomically(directory / PROVENANCE, _provenance(directory, manifest).encode())


def _provenance(directory: Path, manifest: Manifest) -> str:
    graph, engine = graph_for(manifest.graph), manifest.engine
    stages = {info.stage for info in manifest.files.values() if info.layer is not None}
    whole = {info.stage for info in manifest.files.values() if info.layer is None}
    lines = {
        "model": manifest.model.name,
        "model_sha256": manifest.model.sha256,
        "prompt": None if manifest.text is None else json.dumps(manifest.text, ensure_ascii=False)[1:-1],
        "tokens": list(manifest.tokens),
        "dtype": engine.mode,
        "device": engine.device,
        "engine": f"{engine.name} {engine.version}",
        "code_path": engine.code_path,
        "layers_captured": list(range(manifest.graph.layers)),
        "stages_per_layer": len(stages),
        "stages_whole_model": len(whole),
        "with_attn_substages": "attn_softmax" in stages,
        "vocab_size": manifest.graph.vocabulary,
        "argmax_token": _best_token(directory, graph),
        "aprtui_version": str(this_build()),
        "generated_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = "".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None)
    return f"# {engine.name} reference stages\n{text}"


def _best_token(directory: Path, graph: StageGraph) -> int:
    """The most probable token after the last position."""
    logits = read_aprt(directory / relative_path(graph.nodes[-1])).values
    assert graph.config is not None
    return int(logits[-graph.config.vocabulary :].argmax())


def rewrite_as_hooked(directory: Path, manifest: Manifest) -> None:
    """Make a capture what hooks in PyTorch give: queries and keys head by head, with the two channels of a RoPE pair
    half a head apart; logits of the last position; no `post_attn_residual`; no manifest, which states another layout.
    """
    config, graph = manifest.graph, graph_for(manifest.graph)
    for name, info in manifest.files.items():
        stage, path = graph[info.stage], directory / name
        if info.stage == NOT_HOOKED:
            path.unlink()
        elif stage.holds_logits:
            write_aprt(path, info.layer, read_aprt(path, copied=True).values[-config.vocabulary :])
        elif graph.rope_parts.get(info.stage):
            rows = read_aprt(path, copied=True).values.reshape(len(manifest.tokens), stage.width).copy()
            write_aprt(path, info.layer, _hooked(rows, info.stage, graph))
    (directory / FILE_NAME).unlink()


def _hooked(rows: NDArray[np.float32], name: str, graph: StageGraph) -> NDArray[np.float32]:
    """The rows `[tokens, channels]` of stage `name`, as the modules of transformers lay them out."""
    config = graph.config
    assert config is not None
    if config.rope_layout is RopeLayout.INTERLEAVED:
        for part in graph.rope_parts[name]:
            columns = rows[:, config.part(part)]
            pairs = columns.reshape(len(rows), -1, config.head_dim // 2, 2)
            columns[...] = pairs.swapaxes(2, 3).reshape(columns.shape)
    if graph[name].op in (Op.ROPE, Op.POSITION_SCALE):
        return rows.reshape(len(rows), -1, config.head_dim).swapaxes(0, 1)
    return rows
