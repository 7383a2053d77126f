"""Reading recordings: everything that is written in one is held against what is there before it is used."""

from __future__ import annotations

import json
import math
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.recordings.element_types import element_type
from aprtui.recordings.format import (
    DATA_NAME,
    FILE_NAME,
    FORMAT,
    VERSION,
    OpGraph,
    OpNode,
    RecordingHeader,
    Root,
    RootKind,
    TensorView,
)
from aprtui.trace.decode import DecodeError, decode
from aprtui.trace.graph.names import known_names
from aprtui.trace.mapped_files import remember_mapped

Record = TypeVar("Record")

MOST_JSON_BYTES = 1 << 29
"""Of `graph.json`: 400 decode steps of a model with 30 layers take 100 MB."""
MOST_DIMENSIONS = 8
_MOST_BYTES = 1 << 44
_MOST_VALUES = 1 << 32
"""Of a tensor: a stride of 0 repeats values that take no bytes."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording as found in `path`; `data` is its file of blobs, mapped read-only."""

    path: Path
    header: RecordingHeader
    graphs: tuple[OpGraph, ...]
    data: NDArray[np.uint8]

    @classmethod
    def open(cls, path: Path) -> Recording:
        """Open the recording in directory `path`. Raises `UnreadableError` for anything that is not as it should be."""
        file = path / FILE_NAME
        document = _document(file)
        header = _decoded(RecordingHeader, document, file, "")
        for pattern, stage in header.stages.items():
            if stage not in known_names():
                raise UnreadableError(f"{file}: field stages.{pattern!r:.60}: {stage!r:.60} is no stage: name it again")
        data = _mapped(path / DATA_NAME)
        given = document.get("graphs")
        if not isinstance(given, list) or not given:
            raise UnreadableError(f"{file}: field graphs: expected a list of at least one graph: record again")
        graphs: list[OpGraph] = []
        for index, entry in enumerate(given):
            graph = _decoded(OpGraph, entry, file, f"graphs[{index}]")
            _Check(file, f"graphs[{index}]", graph, graphs[-1] if graphs else None, data.size).run()
            graphs.append(graph)
        if sum(graph.count for graph in graphs) > len(header.tokens):
            raise UnreadableError(
                f"{file}: its graphs are of more tokens than the {len(header.tokens)} of field tokens"
            )
        return cls(path, header, tuple(graphs), data)

    def blob(self, place: tuple[int, ...]) -> NDArray[np.uint8]:
        """The bytes at a place (offset, size) of the data file."""
        return self.data[place[0] : place[0] + place[1]]


def is_recording(path: Path) -> bool:
    """Whether the directory `path` holds a recording, whole or not."""
    return os.path.isfile(path / FILE_NAME)


def _document(file: Path) -> dict[str, Any]:
    try:
        size = file.stat().st_size
        if size > MOST_JSON_BYTES:
            raise UnreadableError(f"{file}: {size} bytes, expected at most {MOST_JSON_BYTES}: record fewer tokens")
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnreadableError(f"{file.parent}: no recording there: it has no {FILE_NAME}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{file}: cannot be read: {error}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise UnreadableError(f"{file}: not JSON ({error}): record again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UnreadableError(f'{file}: expected a JSON object with "format": "{FORMAT}"')
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        raise UnreadableError(f"{file}: version {version!r:.20}, this program reads {VERSION}: use a newer release")
    return document


def _decoded(kind: type[Record], document: Any, file: Path, field: str) -> Record:
    try:
        return decode(kind, document, field)
    except DecodeError as error:
        raise UnreadableError(f"{file}: {error}: record again") from error


def _mapped(path: Path) -> NDArray[np.uint8]:
    try:
        if path.is_symlink():
            raise UnreadableError(f"{path}: is a link, expected a file: record again")
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return np.zeros(0, np.uint8)
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    remember_mapped(path, data.size)
    return data


@dataclass(frozen=True, slots=True)
class _Check:
    """A graph against itself, the graph before it and the size of the data file."""

    file: Path
    field: str
    graph: OpGraph
    before: OpGraph | None
    data_bytes: int

    def run(self) -> None:
        for index, root in enumerate(self.graph.roots):
            self._root(root, f"roots[{index}]")
        for index, tensor in enumerate(self.graph.tensors):
            self._tensor(tensor, f"tensors[{index}]")
        written = {i for i, root in enumerate(self.graph.roots) if root.kind is not RootKind.SCRATCH or root.blob}
        for index, node in enumerate(self.graph.nodes):
            self._node(node, f"nodes[{index}]", written)
            written |= {self.graph.tensors[output].root for output in node.outputs}

    def _error(self, where: str, problem: str) -> UnreadableError:
        return UnreadableError(f"{self.file}: field {self.field}.{where}: {problem}: record again")

    def _blob(self, blob: tuple[int, ...] | None, where: str) -> int | None:
        """The size of a blob, which lies in the data file."""
        if blob is None:
            return None
        if len(blob) != 2 or blob[0] + blob[1] > self.data_bytes:
            raise self._error(where, f"blob {list(blob)} does not lie in {DATA_NAME} of {self.data_bytes} bytes")
        return blob[1]

    def _root(self, root: Root, where: str) -> None:
        size = self._blob(root.blob, where)
        if size is not None and size != root.bytes:
            raise self._error(where, f"its blob has {size} bytes, expected {root.bytes}")
        if root.bytes > _MOST_BYTES:
            raise self._error(where, f"{root.bytes} bytes, expected at most {_MOST_BYTES}")
        if size is not None:
            return
        if root.kind is RootKind.SCRATCH and root.bytes > self.data_bytes:
            raise self._error(where, f"{root.bytes} bytes, more than {DATA_NAME} has: no node can have written them")
        if root.kind is RootKind.INPUT:
            raise self._error(where, "an input without a blob")
        if root.kind is RootKind.STATE:
            earlier = self.before.roots if self.before else ()
            carried = -1 if root.carried is None else root.carried
            if not 0 <= carried < len(earlier) or earlier[carried].bytes != root.bytes:
                raise self._error(where, "a state without a blob, and no root of the graph before that it goes on from")
            if earlier[carried].kind is RootKind.WEIGHT:
                raise self._error(where, f"goes on from root {carried} of the graph before, which is a weight")

    def _tensor(self, tensor: TensorView, where: str) -> None:
        kind = element_type(tensor.type)
        if kind is None:
            raise self._error(where, f"type {tensor.type!r:.20} is not known")
        if tensor.root >= len(self.graph.roots):
            raise self._error(where, f"root {tensor.root} of {len(self.graph.roots)}")
        if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > MOST_DIMENSIONS:
            raise self._error(where, f"shape {list(tensor.shape)} with strides {list(tensor.strides)}")
        if kind.is_quantised and (not tensor.shape or tensor.shape[-1] % kind.block_values):
            raise self._error(where, f"rows of {list(tensor.shape)[-1:]} values in blocks of {kind.block_values}")
        end = tensor.offset + extent(tensor)
        if end > self.graph.roots[tensor.root].bytes:
            size = self.graph.roots[tensor.root].bytes
            raise self._error(where, f"ends at byte {end} of root {tensor.root}, which has {size}")
        if math.prod(tensor.shape) > _MOST_VALUES:
            raise self._error(where, f"shape {list(tensor.shape)}: more values than any tensor of a model has")

    def _node(self, node: OpNode, where: str, written: set[int]) -> None:
        count = len(self.graph.tensors)
        known = [source for source in node.sources if source is not None]
        if any(index >= count for index in (*known, *node.outputs)):
            raise self._error(where, f"a tensor beyond the {count} there are")
        if len(node.blobs) != len(node.outputs):
            raise self._error(where, f"{len(node.outputs)} outputs with {len(node.blobs)} blobs")
        for source in known:
            tensor = self.graph.tensors[source]
            if tensor.root not in written and extent(tensor):
                raise self._error(where, f"reads root {tensor.root}, which nothing has written before")
        for output, blob in zip(node.outputs, node.blobs, strict=True):
            size = self._blob(blob, where)
            expected = self._row_bytes(node, output) if node.rows else extent(self.graph.tensors[output])
            if size is not None and size != expected:
                raise self._error(where, f"a blob of {size} bytes, expected {expected}")

    def _row_bytes(self, node: OpNode, output: int) -> int:
        """Bytes of the rows that a node sets, one for each row of its first source."""
        if not node.sources or node.sources[0] is None:
            return -1
        tensor, shape = self.graph.tensors[output], self.graph.tensors[node.sources[0]].shape
        kind = element_type(tensor.type)
        assert kind is not None
        rows = int(np.prod(shape[:-1], dtype=object)) if shape else 0
        return rows * (tensor.shape[-1] // kind.block_values) * kind.block_bytes if tensor.shape else -1


def extent(tensor: TensorView) -> int:
    """Bytes from the first to the last of a tensor's values."""
    kind = element_type(tensor.type)
    assert kind is not None
    if 0 in tensor.shape:
        return 0
    *outer, last = tensor.shape or (1,)
    steps = [*tensor.strides[:-1], tensor.strides[-1] if tensor.strides else 0]
    blocks = last // kind.block_values
    return sum((n - 1) * step for n, step in zip([*outer, blocks], steps, strict=True)) + kind.block_bytes
