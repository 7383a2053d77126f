"""What the conformance tests of every backend share: the models, their captures, and the comparison."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.protocol import Engine, Logits, Taps
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.stats import Accumulator


def model_names(folder: Path) -> list[str]:
    """Names of the models in a conformance folder; one that does not exist where there is no folder, to skip by."""
    found = sorted(path.parent.name for path in folder.glob("*/model.gguf"))
    return found or ["no-models"]


def in_half_split_order(values: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Channels `[tokens, heads * head_dim]` from interleaved RoPE pairs to half-split ones."""
    pairs = values.reshape(len(values), -1, head_dim // 2, 2)
    return pairs.swapaxes(2, 3).reshape(values.shape)


class Recorder:
    """A tap sink that keeps whole stage tensors in memory, joined over the passes of a run."""

    def __init__(self) -> None:
        self.pieces: dict[Node, list[tuple[int, NDArray[np.float32]]]] = {}
        self.stats: dict[Node, list[Accumulator]] = {}

    def put(self, node: Node, position: int, values: NDArray[np.float32] | None, stats: Accumulator | None) -> None:
        if values is not None:
            self.pieces.setdefault(node, []).append((position, values.copy()))
        if stats is not None:
            self.stats.setdefault(node, []).append(stats)

    def tensor(self, node: Node) -> NDArray[np.float32]:
        """The stage tensor: `[tokens, width]`, or `[heads, tokens, tokens]`."""
        pieces = sorted(self.pieces[node], key=lambda piece: piece[0])
        if pieces[0][1].ndim == 2:
            return np.concatenate([values for _, values in pieces])
        total = pieces[-1][1].shape[2]
        padded = [np.pad(values, ((0, 0), (0, 0), (0, total - values.shape[2]))) for _, values in pieces]
        return np.concatenate(padded, axis=1)


def peer_tokens(folder: Path) -> list[int]:
    """Token ids of a peer's capture."""
    tokens: list[int] = json.loads((folder / "PEER.json").read_text())["tokens"]
    return tokens


def record(engine: Engine, tokens: list[int]) -> Recorder:
    """Everything that `engine` hands out for `tokens`, with logits at all positions."""
    recorder = Recorder()
    engine.reset()
    engine.forward(tokens, Taps(recorder, full=frozenset(engine.graph.nodes)), Logits.ALL)
    return recorder


def peer_tensor(capture: Capture, node: Node, like: NDArray[np.float32]) -> NDArray[np.float32]:
    """A peer's stage tensor in the shape of ours; attention maps zeroed where key > query, as ours are."""
    values = np.asarray(capture.read(node).values).reshape(like.shape)
    return np.tril(values) if values.ndim == 3 else values


def relative_l2(a: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """|a − reference| / |reference|."""
    wide = reference.astype(np.float64)
    return float(np.linalg.norm(a - wide) / np.linalg.norm(wide))
