"""Which nodes of the stage graph use a tensor, as far as the file's architecture is known here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from aprtui.errors import UnreadableError, UsageError
from aprtui.model.architectures.registry import architecture_of
from aprtui.model.binding import parameters, stored_name
from aprtui.model.config import ModelConfig
from aprtui.model.model_file import ModelFile
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph, graph_for
from aprtui.trace.select import ALL, parse_layers, select_nodes, select_stages


@dataclass(frozen=True, slots=True)
class FileGraph:
    """A file's configuration and stage graph; both None with the `problem` where they cannot be made.

    `tied` maps tensors that the file may leave out to those that are used in their place.
    """

    config: ModelConfig | None
    graph: StageGraph | None
    tied: Mapping[str, str]
    problem: str | None


def graph_of(file: ModelFile) -> FileGraph:
    """What the file's metadata say of its graph; never raises for an architecture that is not supported."""
    try:
        architecture = architecture_of(file)
        config = architecture.read_config(file)
    except UnreadableError as error:
        return FileGraph(None, None, {}, str(error))
    # A hostile layer count must not make a graph of that size.
    if config.graph.layers > len(file.tensors):
        problem = f"{file.path}: the metadata say {config.graph.layers} layers, more than tensors"
        return FileGraph(None, None, {}, problem)
    return FileGraph(config, graph_for(config.graph), architecture.tied, None)


def same_config(a: FileGraph, b: FileGraph) -> bool:
    """Whether both files configure the same computation; which tensors they hold does not count, nor the context."""
    return None not in (a.config, b.config) and _computed(a.config) == _computed(b.config)


def _computed(config: ModelConfig | None) -> ModelConfig | None:
    return config and replace(config, context=0, graph=replace(config.graph, qkv_bias=False, vocabulary=0))


def nodes_by_tensor(a: ModelFile, b: ModelFile, graphs: tuple[FileGraph, FileGraph]) -> dict[str, tuple[Node, ...]]:
    """The nodes that use each tensor, by its name, in execution order of the two graphs, A's first.

    A file without a tensor that may be tied uses another in its place.
    """
    users: dict[str, dict[Node, None]] = {}
    for file, own in zip((a, b), graphs, strict=True):
        for node in own.graph.nodes if own.graph else ():
            assert own.graph is not None
            for parameter in parameters(own.graph, node):
                users.setdefault(stored_name(file, parameter, own.tied), {})[node] = None
    return {name: tuple(nodes) for name, nodes in users.items()}


def selected_nodes(
    graphs: tuple[FileGraph, FileGraph], stages: str | None, layers: str | None
) -> frozenset[Node] | None:
    """The nodes that `--stage` and `--layers` ask for; None where all tensors are meant.

    Raises `UsageError` for a selection that means nothing, or where the architecture is not known here.
    """
    if stages is None and layers is None:
        return None
    known = [own.graph for own in graphs if own.graph]
    if not known:
        raise UsageError(
            f"--stage, --layers: need an architecture that is known here, leave them out: {graphs[0].problem}"
        )
    graph = max(known, key=lambda graph: graph.layers)
    return select_nodes(graph, select_stages(stages or ALL, graph), parse_layers(layers or ALL, graph.layers))
