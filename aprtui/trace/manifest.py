"""`manifest.json` of a capture: who wrote it, from which tokens, and what each file holds.

It is written first with `"complete": false` and the planned files, and replaced when the capture is whole: a capture
that died is recognised by it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aprtui.errors import UnreadableError
from aprtui.trace.aprt import write_atomically
from aprtui.trace.archive import read_whole
from aprtui.trace.decode import DecodeError, decode
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import Axis
from aprtui.trace.graph.stage import MAX_LAYERS, Node
from aprtui.trace.graph.stage_graph import StageGraph, graph_for
from aprtui.trace.stats import StageStats

FILE_NAME = "manifest.json"
_MOST_BYTES = 1 << 28
"""More than a manifest has of the largest model over its whole context."""
FORMAT = "aprtui-capture"
VERSION = 1


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that was run; unknown fields are None."""

    name: str
    sha256: str | None
    architecture: str
    quantization: str | None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What computed the values, what it rounds where, and which faults were injected on purpose."""

    name: str
    version: str
    backend: str
    device: str
    code_path: str
    mode: str
    rounding: Mapping[str, str]
    threads: int | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One stage file. `bytes`, `crc32` (of the whole file) and `stats` are None until the file is whole."""

    layer: int | None
    stage: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    bytes: int | None = None
    crc32: int | None = None
    stats: StageStats | None = None

    @property
    def node(self) -> Node:
        return Node(self.layer, self.stage)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape with the rows of a token's experts side by side, `[tokens, width]` as `Stage.shape` has it."""
        if len(self.shape) != len(self.axes) or self.axes[1:] != (Axis.EXPERT, Axis.CHANNEL):
            return self.shape
        return (self.shape[0], self.shape[1] * self.shape[2])


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a capture says about itself. `text` is the prompt, `completion` what was generated of it.

    `pieces` are the texts of the tokens, one each, for people to read; None where the writer did not know them.
    `unavailable` says of stages that the engine has no tensor of why that is so.
    """

    model: ModelInfo
    graph: GraphConfig
    engine: EngineInfo
    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    text: str | None
    prompt_tokens: int
    prefill_tokens: int
    logits: str
    files: Mapping[str, FileInfo] = field(default_factory=dict)
    complete: bool = False
    wall_seconds: float | None = None
    completion: str | None = None
    pieces: tuple[str, ...] | None = None
    unavailable: Mapping[str, str] = field(default_factory=dict)

    @property
    def code_paths(self) -> tuple[str, ...]:
        """Which path evaluated each token: `prefill` or `decode`."""
        decoded = len(self.tokens) - self.prefill_tokens
        return ("prefill",) * self.prefill_tokens + ("decode",) * decoded


def relative_path(node: Node) -> str:
    """Where a node's file lies in a capture: `layer-<N>/<stage>.bin` or `<stage>.bin`."""
    return f"{node.stage}.bin" if node.layer is None else f"layer-{node.layer}/{node.stage}.bin"


def unavailable_stages(graph: StageGraph, nodes: Collection[Node], fused: Mapping[str, str]) -> dict[str, str]:
    """Why stages of `graph` are not in a capture of `nodes`: `fused` names the stage whose op computes them inside."""
    missing = dict.fromkeys(node.stage for node in graph.nodes if node not in nodes)
    return {
        stage: f"fused into {fused[stage]}" if stage in fused else "no tensor of its own in this engine"
        for stage in missing
    }


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json` atomically. Raises `EngineError`."""
    write_atomically(directory / FILE_NAME, manifest_text(manifest).encode())


def manifest_text(manifest: Manifest) -> str:
    """What `manifest.json` holds."""
    return _as_text({"format": FORMAT, "version": VERSION, **asdict(manifest), "code_paths": manifest.code_paths})


def _as_text(document: Mapping[str, Any]) -> str:
    """JSON with a line for each field and for each file: readable, and short where a field is a list of numbers."""

    def dumped(value: Any) -> str:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)

    def lines(mapping: Mapping[str, Any], indent: str, nested: str) -> str:
        return ",\n".join(
            f"{indent}{dumped(key)}: "
            + (f"{{\n{lines(value, indent * 2, '')}\n{indent}}}" if key == nested else dumped(value))
            for key, value in mapping.items()
        )

    return f"{{\n{lines(document, ' ', 'files')}\n}}\n"


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a capture, or None where there is none. Raises `UnreadableError` for a broken one."""
    path = directory / FILE_NAME
    try:
        text = read_whole(path, _MOST_BYTES).decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{path}: cannot be read: {error}") from error
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        where = (
            f"line {error.lineno}: not JSON ({error.msg})" if isinstance(error, json.JSONDecodeError) else "not JSON"
        )
        raise UnreadableError(f"{path}: {where}: capture again") from error
    return _from_document(document, path)


def _from_document(document: Any, path: Path) -> Manifest:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UnreadableError(f'{path}: expected a JSON object with "format": "{FORMAT}"')
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        raise UnreadableError(
            f"{path}: manifest version {version!r}, this program reads {VERSION}: use a newer release"
        )
    try:
        manifest = decode(Manifest, document)
    except DecodeError as error:
        raise UnreadableError(f"{path}: {error}: not a manifest of this format: capture again") from error
    if not are_dimensions(manifest.graph):
        raise UnreadableError(f"{path}: field graph: these are no dimensions of a model: capture again")
    nodes = set(graph_for(manifest.graph).nodes)
    for name, info in manifest.files.items():
        if info.node not in nodes or name != relative_path(info.node):
            raise UnreadableError(f"{path}: file {name!r} is listed as {info.node}: capture again")
    return manifest


def are_dimensions(graph: GraphConfig) -> bool:
    """Whether a configuration that a file states can be that of a model, so that a graph can be made of it."""
    sizes = (graph.hidden, graph.heads, graph.kv_heads, graph.head_dim, graph.ffn, graph.vocabulary)
    chosen = not graph.experts or (graph.expert_ffn > 0 and 0 < graph.experts_used <= graph.experts)
    groups = graph.expert_groups
    chosen = chosen and (
        groups is None or (groups.used < groups.count and groups.fits(graph.experts, graph.experts_used))
    )
    by_layer = all(
        len(values) in (0, graph.layers) for values in (graph.windows, graph.no_rope, graph.recurrent, graph.dense)
    )
    fits = by_layer and graph.heads % (graph.kv_heads or 1) == graph.head_dim % 2 == 0
    return 0 < graph.layers <= MAX_LAYERS and all(sizes) and fits and chosen and _is_latent_attention(graph)


def _is_latent_attention(graph: GraphConfig) -> bool:
    """Whether the sizes of latent attention, where there is any, are those of the heads."""
    latent = graph.latent
    if latent is None:
        return True
    sizes = (latent.rank, latent.nope, latent.rope, latent.value, latent.query_rank + 1)
    heads = (latent.key_dim, 1 if latent.absorbed else graph.heads, latent.rope)
    return min(sizes) > 0 and heads == (graph.head_dim, graph.kv_heads, graph.rope_dim)
