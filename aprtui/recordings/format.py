"""What a recording holds: `graph.json`, which names the file of blobs beside it.

A *root* is a storage. A *tensor* is a view of one: an offset, a shape and strides in bytes, slowest dimension first. A
*node* is an op that was executed: it reads its sources, and writes its outputs. The blob of an output is what stood
there right after the op. Nodes are in the order of their execution, so writes in place, caches and memory that is used
again are all told by what each op left behind: a reader walks the nodes and keeps the roots as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

FILE_NAME = "graph.json"
FORMAT = "aprtui-recording"
VERSION = 1
DATA_NAME = "data.bin"


class OpSet(StrEnum):
    """Whose ops the nodes are: names, parameters and meaning."""

    GGML = "ggml"
    ATEN = "aten"


class RootKind(StrEnum):
    """What a storage is: a weight (by its name in the model file, or by a blob), what the engine was given, what it
    keeps between graphs, or what nodes alone write."""

    WEIGHT = "weight"
    INPUT = "input"
    STATE = "state"
    SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class Root:
    """A storage of `bytes` bytes; `blob` is its content before the graph ran, as offset and size in the data file.

    A `state` without a blob goes on from the graph before, where it was root `carried`; `digest` is the BLAKE2b (16
    bytes, hexadecimal) of what the engine had there, so that a change outside the graphs is noticed.
    """

    kind: RootKind
    bytes: int
    name: str = ""
    blob: tuple[int, ...] | None = None
    carried: int | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class TensorView:
    """A typed view of a root. `strides` are in bytes; of a quantised type the last is the size of its block."""

    root: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    type: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class OpNode:
    """An op that was executed. `sources` and `outputs` are indices of tensors, None for a source that is not given.

    `blobs` are the outputs' bytes, in their order. With `rows` they are those of the written rows only, one for each
    row of the first source: an op that sets rows of a large cache.
    """

    op: str
    sources: tuple[int | None, ...]
    outputs: tuple[int, ...]
    blobs: tuple[tuple[int, ...] | None, ...]
    name: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""
    rows: bool = False


@dataclass(frozen=True, slots=True)
class OpGraph:
    """What one pass of the engine executed: `count` tokens from position `position` on."""

    label: str
    position: int
    count: int
    roots: tuple[Root, ...]
    tensors: tuple[TensorView, ...]
    nodes: tuple[OpNode, ...]


@dataclass(frozen=True, slots=True)
class RecordedModel:
    """The file that the weights are in. `sha256` is None where the writer did not know it."""

    path: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedEngine:
    """Who executed the ops; `settings` are what it was asked for, as `flash_attention: on`."""

    name: str
    version: str
    backend: str
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordingHeader:
    """Everything but the graphs. A recording that is not `complete` is of a run that did not finish.

    `stages` are stages by patterns of names of nodes, in which `{layer}` stands for the number of the layer: what the
    writer knows beyond the tables of names.
    """

    engine: RecordedEngine
    ops: OpSet
    tokens: tuple[int, ...]
    model: RecordedModel | None = None
    text: str | None = None
    complete: bool = False
    stages: Mapping[str, str] = field(default_factory=dict)
