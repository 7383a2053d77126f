"""Which nodes of the stage graph use a tensor, as far as the file's architecture is known here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aprtui.errors import UnreadableError, UsageError
from aprtui.model.architectures.base import architecture_of, read_config
from aprtui.model.binding import parameters, rope_factors
from aprtui.model.config import ModelConfig
from aprtui.model.gguf_file import GgufFile
from aprtui.trace.graph import Node, StageGraph, graph_for
from aprtui.trace.select import ALL, parse_layers, select_nodes, select_stages


@dataclass(frozen=True, slots=True)
class Layout:
    """A file's configuration and stage graph; both None with the `problem` where they cannot be made."""

    config: ModelConfig | None
    graph: StageGraph | None
    problem: str | None


def layout_of(file: GgufFile) -> Layout:
    """What the file's metadata say of its graph; never raises for an architecture that is not supported."""
    try:
        architecture_of(file.path, file.metadata)
        table = file.tensors.get("token_embd.weight")
        config = read_config(
            file.path,
            file.metadata,
            vocabulary=1 if table is None else table.dimensions[-1],
            qkv_bias="blk.0.attn_q.bias" in file.tensors,
            rope_factors=rope_factors(file),
        )
    except UnreadableError as error:
        return Layout(None, None, str(error))
    # A hostile layer count must not make a graph of that size.
    if config.graph.layers > len(file.tensors):
        return Layout(None, None, f"{file.path}: the metadata say {config.graph.layers} layers, more than tensors")
    return Layout(config, graph_for(config.graph), None)


def same_config(a: Layout, b: Layout) -> bool:
    """Whether both files configure the same computation; which tensors they hold does not count, nor the context."""
    return None not in (a.config, b.config) and _computed(a.config) == _computed(b.config)


def _computed(config: ModelConfig | None) -> ModelConfig | None:
    return config and replace(config, context=0, graph=replace(config.graph, qkv_bias=False, vocabulary=0))


def nodes_by_tensor(a: GgufFile, b: GgufFile, layouts: tuple[Layout, Layout]) -> dict[str, tuple[Node, ...]]:
    """The nodes that use each tensor, by its name, in execution order of the two graphs, A's first.

    A file without `output.weight` uses the embedding table in its place.
    """
    users: dict[str, dict[Node, None]] = {}
    for file, layout in zip((a, b), layouts, strict=True):
        for node in layout.graph.nodes if layout.graph else ():
            assert layout.graph is not None
            for parameter in parameters(layout.graph, node):
                tied = parameter.name == "output.weight" and parameter.name not in file.tensors
                users.setdefault("token_embd.weight" if tied else parameter.name, {})[node] = None
    return {name: tuple(nodes) for name, nodes in users.items()}


def selected_nodes(layouts: tuple[Layout, Layout], stages: str | None, layers: str | None) -> frozenset[Node] | None:
    """The nodes that `--stage` and `--layers` ask for; None where all tensors are meant.

    Raises `UsageError` for a selection that means nothing, or where the architecture is not known here.
    """
    if stages is None and layers is None:
        return None
    graphs = [layout.graph for layout in layouts if layout.graph]
    if not graphs:
        raise UsageError(
            f"--stage, --layers: need an architecture that is known here, leave them out: {layouts[0].problem}"
        )
    graph = max(graphs, key=lambda graph: graph.layers)
    return select_nodes(graph, select_stages(stages or ALL, graph), parse_layers(layers or ALL, graph.layers))
