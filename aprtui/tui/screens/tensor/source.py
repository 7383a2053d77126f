"""What the tensor screen shows: a stage of a capture, a stage file by itself, or a weight of a model."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError, UsageError
from aprtui.model.tensor_table import TensorInfo, TensorReader, tensor_table
from aprtui.recordings.captures.stand_in import open_capture
from aprtui.recordings.format import DATA_NAME
from aprtui.recordings.listing import ListedNode, listed_node, listed_nodes, node_values
from aprtui.recordings.reading import Recording
from aprtui.trace.aprt import AprtError
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Axis, Part
from aprtui.trace.graph.stage import ROUTER_CHOICE, Node, Stage, canonical_name
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.manifest import relative_path
from aprtui.trace.positional import PositionalFile
from aprtui.trace.stage_reader import StageReader
from aprtui.trace.stats import StageStats
from aprtui.tui.draw.text import as_typed
from aprtui.tui.draw.tiles import Size
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state

FOLDED = 256
"""Values in a row of a file whose shape is not known."""


@dataclass(frozen=True, slots=True)
class FileLocation:
    """Where a value is in its file: a float32 by itself, or a block that holds other values too."""

    offset: int
    bytes: int
    is_block: bool


class TensorSource(ABC):
    """Planes `[rows, columns]` of values, read by position. Methods raise `UnreadableError` for an unreadable file."""

    file: PositionalFile
    title: str
    axes: tuple[str, str]
    shape: Size
    planes: int = 1
    causal: bool = False
    stats: StageStats | None = None
    """Statistics of all planes, if the manifest states them."""

    @abstractmethod
    def read(self, plane: int, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Values of a plane."""

    @abstractmethod
    def locate(self, plane: int, row: int, column: int) -> FileLocation:
        """Where a value is in the file."""

    @abstractmethod
    def state(self) -> ScreenState:
        """The state that opens this tensor."""

    def place_of(self, element: int) -> tuple[int, int, int]:
        """Plane, row and column of the value with this flat index."""
        rows, columns = self.shape
        row, column = divmod(element, max(columns, 1))
        return *divmod(row, max(rows, 1)), column

    def command(self, index: Sequence[int]) -> list[str]:
        """The headless command that describes this tensor, and the value at `index` if it can and one is given."""
        return ["aprtui", "stats", as_typed(self.file.path)]

    def column_words(self, column: int, row: int | None = None) -> str:
        """What a column is beyond its number, as the head and the channel in it; empty if it is nothing more.

        In rows of several experts that is for each `row` another one.
        """
        return ""

    def neighbour(self, step: int, same: str) -> ScreenState | None:
        """The tensor `step` places on in execution order; with `same` "stage", among the layers of the same stage."""
        return None


class _StageFile(TensorSource):
    """Float32 values of a stage file."""

    _reader: StageReader

    def read(self, plane: int, rows: slice, columns: slice) -> NDArray[np.float32]:
        return self._reader.values(rows, columns, plane)

    def locate(self, plane: int, row: int, column: int) -> FileLocation:
        return FileLocation(self._reader.place(row, column, plane), 4, is_block=False)


class StageSource(_StageFile):
    def __init__(self, capture: Capture, node: Node) -> None:
        if node not in capture.files:
            raise UnreadableError(f"{capture.path}: has no file of {node}: choose a stage that it holds")
        entry = capture.files[node]
        self.capture = capture
        self.node = node
        self.stage: Stage = capture.graph[node.stage]
        self._reader = _reader(entry.path, entry.shape)
        own = entry.node
        if self._reader.layer != own.layer and not (own.layer == 0 and self._reader.layer is None):
            self._reader.close()
            raise AprtError(
                entry.path, 4, f"header says layer {self._reader.layer}, the file lies where {node} belongs"
            )
        self.file = self._reader.file
        self.title = str(node)
        self.folded = entry.shape is None
        if self.folded:
            self.axes = ("row", "value")
        else:
            column = "channel" if self.stage.holds_logits else self.stage.column_axis
            self.axes = ("query", "key") if len(self._reader.shape) == 3 else ("token", column)
        self.planes = self._reader.planes
        self.shape = self._reader.plane_shape
        self.causal = self.stage.is_attention_map and self.planes > 0 and len(self._reader.shape) == 3
        info = None if capture.manifest is None else capture.manifest.files.get(relative_path(node))
        self.stats = None if info is None else info.stats
        self.crc32 = None if info is None else info.crc32
        self.count = self._reader.count

    def column_words(self, column: int, row: int | None = None) -> str:
        if Axis.EXPERT in self.stage.axes:
            return self._expert_words(column, row)
        return channel_words(self.capture.graph, self.stage, column)

    def _expert_words(self, column: int, row: int | None) -> str:
        """Which choice of its token a channel belongs to, and which expert that is, where the choices were captured."""
        choices = self.capture.files.get(replace(self.node, stage=ROUTER_CHOICE))
        if self.axes[1] != "channel" or choices is None or choices.shape is None or len(choices.shape) != 2:
            return ""
        if not choices.shape[1] or self.shape[1] % choices.shape[1]:
            return ""
        choice, inner = divmod(column, self.shape[1] // choices.shape[1])
        words = f"{inner} of choice {choice}"
        if row is None or row >= choices.shape[0]:
            return words
        reader = _reader(choices.path, choices.shape)
        try:
            expert = float(reader.values(slice(row, row + 1), slice(choice, choice + 1))[0, 0])
        finally:
            reader.close()
        return f"{inner} of expert {expert:g}, choice {choice}"

    def state(self) -> ScreenState:
        return _stage_state(self.capture, self.node)

    def command(self, index: Sequence[int]) -> list[str]:
        words = ["aprtui", "stats", as_typed(self.capture.path), "--stage", self.node.stage]
        layer = self.node.layer
        words += [] if layer is None else ["--layers", f"{layer}..{layer + 1}"]
        if not index or self.folded:
            return words
        return [*words, "--values", ",".join(map(str, index))]

    def neighbour(self, step: int, same: str) -> ScreenState | None:
        nodes = [node for node in self.capture.graph.nodes if node in self.capture.files]
        if same == "stage":
            nodes = [node for node in nodes if node.stage == self.node.stage]
        place = nodes.index(self.node) + step
        return _stage_state(self.capture, nodes[place]) if 0 <= place < len(nodes) else None


class FileSource(_StageFile):
    """A stage file by itself: its shape is not known, so its values are shown in rows of a fixed width."""

    def __init__(self, path: Path, width: int | None = None) -> None:
        self._path = path
        with_header = StageReader(path, None)
        count = with_header.count
        with_header.close()
        self._width = width
        columns = width or (FOLDED if count % FOLDED == 0 and count else max(count, 1))
        if count % columns:
            raise UsageError(f"{path}: its {count} values make no rows of {columns}: choose a width that divides them")
        self._reader = StageReader(path, (count // columns, columns))
        self.file = self._reader.file
        self.title = f"{canonical_name(path.stem)} of {path.name}"
        self.axes = ("row", "value")
        self.shape = self._reader.plane_shape

    def state(self) -> ScreenState:
        return screen_state(ScreenName.TENSOR, path=as_typed(self._path), width=self._width)


class NodeSource(TensorSource):
    """What a node of a recording made. `number` is that of its graph and its own, as `0.17`."""

    def __init__(self, path: Path, number: str) -> None:
        self._path, self._recording = path, Recording.open(path)
        graph, _, index = number.partition(".")
        if not graph.isdecimal() or not index.isdecimal() or len(number) > 18:
            raise UsageError(f"node {number!r:.40}: expected the number of a graph and of a node, as 0.17")
        self._listed = listed_node(self._recording, int(graph), int(index))
        values = node_values(self._recording, self._listed)
        if values is None:
            raise UnreadableError(f"{path}: op {number} has no values there: record again")
        self._values = values.reshape(-1, *values.shape[-2:]) if values.ndim > 1 else values.reshape(1, 1, -1)
        self.title = f"op {number} {self._listed.node.op}, {self._listed.name}"
        self.axes = ("row", "column")
        self.planes = len(self._values)
        self.shape = (self._values.shape[1], self._values.shape[2])
        self.file = PositionalFile(path / DATA_NAME)

    def read(self, plane: int, rows: slice, columns: slice) -> NDArray[np.float32]:
        return self._values[plane, rows, columns]

    def locate(self, plane: int, row: int, column: int) -> FileLocation:
        blob = self._listed.node.blobs[0]
        assert blob is not None
        return FileLocation(blob[0], blob[1], is_block=True)

    def state(self) -> ScreenState:
        return self._state(self._listed)

    def command(self, index: Sequence[int]) -> list[str]:
        listed = self._listed
        words = ["aprtui", "stats", as_typed(self._path), "--stage", listed.title]
        return [*words, "--values", ",".join(map(str, index))] if len(index) == len(listed.shape) else words

    def neighbour(self, step: int, same: str) -> ScreenState | None:
        nodes = list(listed_nodes(self._recording))
        if same == "stage":
            nodes = [node for node in nodes if node.node.op == self._listed.node.op]
        numbers = [(node.graph, node.index) for node in nodes]
        place = numbers.index((self._listed.graph, self._listed.index)) + step
        return self._state(nodes[place]) if 0 <= place < len(nodes) else None

    def _state(self, listed: ListedNode) -> ScreenState:
        number = f"{listed.graph}.{listed.index}"
        return screen_state(ScreenName.TENSOR, capture=as_typed(self._path), node=number)


class WeightSource(TensorSource):
    """A tensor of a model, dequantised as it is read."""

    def __init__(self, path: Path, name: str, tensors: Sequence[TensorInfo] | None = None) -> None:
        self._tensors: Mapping[str, TensorInfo] = {info.name: info for info in tensors or tensor_table(path)}
        if not name:
            name = next(iter(self._tensors), "")
        if name not in self._tensors:
            raise UsageError(f"{path}: has no tensor {name!r}: see `aprtui stats {shlex.quote(str(path))}`")
        self._path, self._name = path, name
        self._reader = TensorReader(self._tensors[name])
        self.file = self._reader.file
        self.title = f"{name}, {self._tensors[name].type} dequantised"
        self.axes = ("row", "column")
        self.shape = self._reader.shape

    def read(self, plane: int, rows: slice, columns: slice) -> NDArray[np.float32]:
        return self._reader.values(rows, columns)

    def locate(self, plane: int, row: int, column: int) -> FileLocation:
        offset, size = self._reader.place(row, column)
        return FileLocation(offset, size, is_block=True)

    def state(self) -> ScreenState:
        return screen_state(ScreenName.TENSOR, model=as_typed(self._path), tensor=self._name)

    def neighbour(self, step: int, same: str) -> ScreenState | None:
        names = list(self._tensors)
        if same == "stage":
            kind = _without_layer(self._name)
            names = [name for name in names if _without_layer(name) == kind]
        place = names.index(self._name) + step
        if not 0 <= place < len(names):
            return None
        return screen_state(ScreenName.TENSOR, model=as_typed(self._path), tensor=names[place])


def open_source(state: ScreenState) -> TensorSource | None:
    """The tensor that `state` names; None if it names none. Raises `UnreadableError` and `UsageError`."""
    model, capture, path = state.path("model"), state.path("capture"), state.path("path")
    if model is not None:
        return WeightSource(model, state.text("tensor"))
    if capture is not None and state.text("node"):
        return NodeSource(capture, state.text("node"))
    if capture is not None:
        return stage_source(open_capture(capture, copied=True), state)
    if path is None:
        return None
    in_capture = _in_capture(path)
    return FileSource(path, state.number("width")) if in_capture is None else StageSource(*in_capture)


def stage_source(capture: Capture, state: ScreenState) -> StageSource:
    """The stage of an open capture that `state` names; without a name, the first one of the capture."""
    if state.text("stage"):
        name = canonical_name(state.text("stage"))
        if name not in capture.graph:
            raise UsageError(f"{capture.path}: has no stage {name!r}: it has {', '.join(capture.graph.names)}")
        return StageSource(capture, Node(state.number("layer"), name))
    first = next((node for node in capture.graph.nodes if node in capture.files), None)
    if first is None:
        raise UnreadableError(f"{capture.path}: holds no stage file: capture again")
    return StageSource(capture, first)


def open_neighbour(source: TensorSource, step: int, same: str) -> tuple[TensorSource | None, list[str]]:
    """The next tensor in the direction of `step` that can be read, and what is wrong with those before it."""
    problems: list[str] = []
    distance = step
    while (state := source.neighbour(distance, same)) is not None:
        try:
            if isinstance(source, StageSource):
                return stage_source(source.capture, state), problems
            return open_source(state), problems
        except (UnreadableError, UsageError) as error:
            problems.append(str(error))
            distance += step
    return None, problems


def _in_capture(path: Path) -> tuple[Capture, Node] | None:
    """The capture that a stage file belongs to, and its node there; None if it belongs to none."""
    for folder in (path.absolute().parent, path.absolute().parent.parent):
        try:
            capture = Capture.open(folder, copied=True)
        except (UnreadableError, OSError):
            continue
        for node, file in capture.files.items():
            if file.path.absolute() == path.absolute():
                return capture, node
    return None


def _reader(path: Path, shape: tuple[int, ...] | None) -> StageReader:
    """A reader of a stage file; without a shape, its values are in rows of a fixed width if they fill them."""
    reader = StageReader(path, shape)
    if shape is None and reader.count and reader.count % FOLDED == 0:
        count = reader.count
        reader.close()
        return StageReader(path, (count // FOLDED, FOLDED))
    return reader


def _stage_state(capture: Capture, node: Node) -> ScreenState:
    return screen_state(ScreenName.TENSOR, capture=as_typed(capture.path), layer=node.layer, stage=node.stage)


def _without_layer(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[2:]) if len(parts) > 2 and parts[0] == "blk" and parts[1].isdigit() else name


def channel_words(graph: StageGraph, stage: Stage, channel: int) -> str:
    """The head that a channel belongs to, and its place in it; for fused stages, whether it is of Q, K or V."""
    config = graph.config
    if config is None:
        return ""
    part, size = "", stage.head_size
    if stage.width == config.qkv_width and len(stage.params) > 1:
        for name in (Part.Q, Part.K, Part.V):
            columns = config.part(name)
            if columns.start <= channel < columns.stop:
                part, channel = f"{name.upper()} ", channel - columns.start
                size = config.q_head_width if name is Part.Q else config.head_dim
                break
    elif not size:
        return ""
    head, inner = divmod(channel, size)
    return f"{part}head {head}, {inner} in head"
