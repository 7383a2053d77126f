"""A capture of ours divided among ranks, as engines divide it: a folder for each rank, in our layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import PROVENANCE
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import relative_path
from tests.importing.dumps import TOKENS, Ours

Array = NDArray[np.float32]
Fault = Callable[[int, Node, Array], Array]
"""What a rank holds in place of a stage."""

TENSOR_PARALLEL: Mapping[str, str] = {
    "embedding": "t h # tp:replicated",
    "attn_norm": "t h # tp:replicated",
    "qkv_*": "t (q+k+v)[tp]",
    "?_post_rope": "t (heads*dim)[tp]",
    "attn_s*": "h[tp] q k",
    "attention": "t h[tp]",
    "attn_out": "t h # tp:replicated",
    "post_*": "t h # tp:replicated",
    "ffn_norm": "t h # tp:replicated",
    "ffn_out": "t h[tp:partial]",
    "ffn_*": "t h[tp]",
    "final_norm": "t h # tp:replicated",
    "lm_head": "t v[tp]",
}
"""How the ranks of vLLM and SGLang share stages; what comes down from the feed-forward block before it is added up."""


def honest(rank: int, node: Node, values: Array) -> Array:
    return values


def share(ours: Ours, node: Node, tp: int, number: int) -> Array:
    """What rank `number` of `tp` has of a stage, as TENSOR_PARALLEL says."""
    values, graph = ours.values(node.layer, node.stage), ours.model.config.graph
    if node.stage.startswith("qkv_"):
        q, k, v = ours.parts(node.layer or 0, node.stage)
        return np.concatenate([_columns(q, tp, number, graph), *(_columns(x, tp, number, graph) for x in (k, v))], 1)
    if node.stage in ("q_post_rope", "k_post_rope", "attention"):
        return _columns(values, tp, number, graph)
    if node.stage in ("attn_scores", "attn_softmax"):
        return np.split(values, tp)[number]
    if node.stage == "ffn_out":  # terms that add up to it, but for rounding
        terms = [values * np.float32(weight) for weight in np.linspace(-0.5, 1.5, tp)]
        terms[-1] = (values - np.sum(terms[:-1], axis=0, dtype=np.float32)).astype(np.float32)
        return terms[number]
    if node.stage in ("ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "lm_head"):
        return np.split(values, tp, 1)[number]
    return values


@dataclass(frozen=True)
class RankShare:
    """What rank `number` of `tp` has, where engines add up terms and gather logits: as `Ours` has the whole.

    Its copy of `wrong` is off by a hundredth.
    """

    ours: Ours
    tp: int
    number: int
    wrong: Node | None = None

    def values(self, layer: int | None, stage: str) -> Array:
        node = Node(layer, stage)
        whole = stage in ("ffn_out", "lm_head")
        held = self.ours.values(layer, stage) if whole else share(self.ours, node, self.tp, self.number)
        return held * np.float32(1.01) if node == self.wrong else held


SUMMED: Mapping[str, str] = {
    **TENSOR_PARALLEL, "ffn_out": "t h # tp:replicated", "lm_head": "t v # tp:replicated"
}  # fmt: skip
"""How ranks share stages where the engine has added up terms and gathered logits."""


def _columns(values: Array, tp: int, number: int, graph: GraphConfig) -> Array:
    """The heads of a rank: of fewer heads than there are ranks, neighbours have the same."""
    heads = values.shape[1] // graph.head_dim
    each = max(1, heads // tp)
    first = number * heads // tp * graph.head_dim
    return values[:, first : first + each * graph.head_dim]


def write_rank(folder: Path, tensors: Mapping[Node, Array], tokens: tuple[int, ...] = TOKENS) -> None:
    """A rank's capture, without a manifest."""
    for node, values in tensors.items():
        write_aprt(folder / relative_path(node), node.layer, np.ascontiguousarray(values, np.float32))
    (folder / PROVENANCE).write_text(f"# a rank\ntokens: {list(tokens)}\n")


def write_ranks(ours: Ours, folder: Path, tp: int, pp: int = 1, fault: Fault = honest) -> Path:
    """A folder for each of `tp` x `pp` ranks; layers are shared evenly, the last pp has what comes behind them."""
    layers = ours.model.graph.layers
    for stage in range(pp):
        for number in range(tp):
            rank = stage * tp + number
            own = {
                node: fault(rank, node, share(ours, node, tp, number))
                for node in ours.capture.files
                if (pp - 1 if node.layer is None else node.layer * pp // layers) == stage
            }
            write_rank(folder / f"rank-{rank}", own)
    return folder


def description(stages: Mapping[str, str], **groups: int) -> str:
    """The file that says how the ranks share the stages."""
    lines = "".join(f'  "{name}": "{dims}"\n' for name, dims in stages.items())
    sizes = ", ".join(f"{name}: {size}" for name, size in groups.items())
    return f"groups: {{{sizes}}}\nstages:\n{lines}"
