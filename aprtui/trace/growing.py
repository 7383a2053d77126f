"""Writing captures of which nobody knows how many tokens they will have: stage files that grow pass by pass.

No file has its header before `finish`, and what did not get all tokens by then is removed: a run that dies in between
leaves nothing that could pass for a whole stage file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UsageError
from aprtui.trace.aprt import HEADER_BYTES, header, output_error
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.manifest import FileInfo, relative_path
from aprtui.trace.stats import Accumulator, accumulate, causal
from aprtui.trace.writer import file_crc, take_directory, write_at

Array = NDArray[np.float32]


@dataclass(slots=True)
class _GrowingFile:
    """`blocks` are the queries and keys of each pass of an attention map, which lie one after the other."""

    path: Path
    rows: int = 0
    width: int = 0
    values: int = 0
    last_only: bool = False
    blocks: list[tuple[int, int]] = field(default_factory=list)
    sums: Accumulator = field(default_factory=Accumulator)


class GrowingCapture:
    """The stage files of a capture in a directory that is locked against other writers until `close`."""

    def __init__(self, path: Path, graph: StageGraph, *, overwrite: bool = False) -> None:
        self.path = path
        self._graph = graph
        self._files: dict[Node, _GrowingFile] = {}
        self._descriptor = take_directory(path, 0, overwrite)

    def put(self, node: Node, position: int, tokens: int, values: Array) -> None:
        """Append the values of a pass of `tokens` from `position` on: `[tokens, width]` or `[heads, tokens, keys]`.

        Logits may be of the last position alone; then one row is kept, the latest. Raises `UsageError` for a pass that
        the node has had already, `EngineError` for a file that cannot be written.
        """
        file = self._files.setdefault(node, _GrowingFile(self.path / relative_path(node)))
        stage = self._graph[node.stage]
        if file.rows > position:
            raise UsageError(f"{node}: came twice of one token: its module runs twice in a call, map another place")
        if file.rows < position:
            return  # It missed a pass, and `finish` leaves it out.
        if stage.is_attention_map:
            if values.shape[2] != position + tokens:
                return
            file.blocks.append((tokens, values.shape[2]))
        elif len(values) < tokens or file.last_only:
            file.last_only, file.values, file.sums, values = True, 0, Accumulator(), values[-1:]
        width = values.shape[0] if stage.is_attention_map else values.shape[1]
        if file.width not in (0, width):
            raise UsageError(f"{node}: {width} wide, {file.width} before: map another place")
        file.rows, file.width = position + tokens, width
        file.sums.merge(accumulate(causal(values, position) if stage.is_attention_map else values))
        self._append(file, np.ascontiguousarray(values, "<f4"))

    def _append(self, file: _GrowingFile, values: Array) -> None:
        try:
            file.path.parent.mkdir(exist_ok=True)
            descriptor = os.open(file.path, os.O_CREAT | os.O_WRONLY, 0o666)
            try:
                write_at(descriptor, values, HEADER_BYTES + 4 * file.values)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise output_error(file.path, error) from error
        file.values += values.size

    def finish(self, tokens: int) -> Mapping[str, FileInfo]:
        """Give all files that have `tokens` positions their headers, and remove the others; by their paths."""
        done: dict[str, FileInfo] = {}
        for node in sorted(self._files, key=lambda node: self._graph.order.get(node, 0)):
            file = self._files[node]
            try:
                if file.rows == tokens:
                    done[relative_path(node)] = self._finish(node, file, tokens)
                else:
                    file.path.unlink(missing_ok=True)
            except OSError as error:
                raise output_error(file.path, error) from error
        return done

    def _finish(self, node: Node, file: _GrowingFile, tokens: int) -> FileInfo:
        stage = self._graph[node.stage]
        if stage.is_attention_map:
            shape: tuple[int, ...] = (file.width, tokens, tokens)
            if len(file.blocks) > 1:
                _put_together(file, tokens)
        else:
            rows = 1 if file.last_only else tokens
            shape = (rows, stage.chosen, file.width // stage.chosen) if len(stage.axes) == 3 else (rows, file.width)
        with open(file.path, "r+b", buffering=0) as opened:
            write_at(opened.fileno(), np.frombuffer(header(node.layer, int(np.prod(shape))), np.uint8), 0)
        size = file.path.stat().st_size
        axes = tuple(map(str, stage.axes))
        return FileInfo(node.layer, node.stage, shape, axes, size, file_crc(file.path), file.sums.finish())

    def close(self) -> None:
        """Free the directory."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _put_together(file: _GrowingFile, tokens: int) -> None:
    """Make one `[heads, tokens, tokens]` of the maps of all passes, a head at a time, and zero where key > query."""
    heads, offset, blocks = file.width, HEADER_BYTES, []
    for queries, keys in file.blocks:
        blocks.append(np.memmap(file.path, "<f4", "r", offset, (heads, queries, keys)))
        offset += 4 * heads * queries * keys
    target = file.path.with_suffix(".whole")
    with open(target, "wb") as opened:
        opened.write(bytes(HEADER_BYTES))
        for head in range(heads):
            plane, first = np.zeros((tokens, tokens), "<f4"), 0
            for block in blocks:
                queries, keys = block.shape[1:]
                plane[first : first + queries, :keys] = block[head]
                first += queries
            opened.write(plane.data)
    target.replace(file.path)
