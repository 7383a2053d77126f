"""Which stage a module of a PyTorch model makes, by its name in transformers, vLLM and SGLang.

Values are named `MODULE.output`, or `MODULE.output.0`, `MODULE.input.0`, … where there are several. What transformers
has where is known from `aprtui.capture.module_taps`. vLLM and SGLang call their modules alike, but fuse some:

| module | what it gives |
|---|---|
| `self_attn.qkv_proj` | Q, K and V in one |
| `self_attn.attn` | the attention before its output matrix |
| `mlp.gate_up_proj` | gate and up in one |
| `mlp.act_fn` | the activation of the gate times up, where gate and up are one |
| `input_layernorm`, `post_attention_layernorm`, `norm` | the normalised sum, and the sum: the residual stream |
| a layer | what the feed-forward block gives, and the residual stream before it: their sum is the layer's output |

(`vllm/model_executor/models/qwen2.py`, `sglang/srt/models/qwen2.py`, and the fused `RMSNorm` of both.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aprtui.capture.module_taps import ModuleTap, module_taps
from aprtui.importing.mapping import Operation, Piece, Rule, SourceAxis
from aprtui.model.architectures import gemma
from aprtui.model.architectures.base import DENSE_MODULES, EXPERT_MODULES
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.trace.graph.config import Activation, GraphConfig
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import ENTRY, Node
from aprtui.trace.graph.stage_graph import StageGraph, graph_for

_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,5})(?=\.)")
_INPUTS = ("input", "input.0", "input.hidden_states", "input.input", "input.x")
_OUTPUTS = ("output", "output.0")
_FUSED = ("qkv_matmul", "qkv_bias")

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each value by its name."""


@dataclass(frozen=True, slots=True)
class ModuleRules:
    """The rules for what modules take and give, and what a person should know of it."""

    rules: tuple[Rule, ...]
    notes: tuple[str, ...]


def module_rules(shapes: Shapes, graph: StageGraph | None, prefix: str) -> ModuleRules:
    """The rules for values that modules take and give; `prefix` stands before each name in the source.

    Without the `graph` of the model, what its modules are called tells its stages, but not whether Q, K and V have a
    bias: they are left out.
    """
    known = _graph_of(shapes) if graph is None else graph
    modules = _modules_of(shapes) if graph is None or graph.config is None else _own_modules(graph.config)
    finder = _Finder(shapes, known, prefix)
    rules, left_out = [], False
    taps = {tap.node: tap for tap in module_taps(known, modules)}
    for node in known.nodes:
        tap = taps.get(node)
        if graph is None and tap is not None and tap.element is not None:
            continue  # engines give their experts other things, which widths tell
        piece = finder.piece(node, tap)
        if piece is None:
            continue
        if graph is None and node.stage in _FUSED:
            left_out = True
            continue
        rules.append(Rule(node.stage, piece, layer=node.layer))
    notes = ("Q, K and V are left out: with or without bias? --model tells",) if left_out else ()
    return ModuleRules(tuple(rules), notes)


def _own_modules(config: GraphConfig) -> Mapping[str, str]:
    found = ARCHITECTURES.get(config.architecture)
    return DENSE_MODULES if found is None else found.transformers_modules


def _modules_of(shapes: Shapes) -> Mapping[str, str]:
    if _has(shapes, "pre_feedforward_layernorm"):
        return gemma.MODULES
    return EXPERT_MODULES if _has(shapes, "mlp.experts") else DENSE_MODULES


def _has(shapes: Shapes, part: str) -> bool:
    return any(f".{part}." in name for name in shapes)


def _graph_of(shapes: Shapes) -> StageGraph:
    """A graph of the stages that modules are named after; its widths mean nothing."""
    layers = [int(match[1]) for name in shapes if (match := _LAYER.search(name))]
    post_norms, experts = _has(shapes, "pre_feedforward_layernorm"), int(_has(shapes, "mlp.experts"))
    return graph_for(
        GraphConfig(
            "unknown", 1 + max(layers, default=0), 1, 1, 1, 2, 1, 1, post_norms=post_norms,
            qk_norm=_has(shapes, "self_attn.q_norm"), experts=experts, experts_used=experts, expert_ffn=experts,
            activation=Activation.GELU_TANH if post_norms else Activation.SILU,
        )
    )  # fmt: skip


class _Finder:
    """Where the values of a node are among those that were dumped."""

    def __init__(self, shapes: Shapes, graph: StageGraph, prefix: str) -> None:
        self.shapes, self.graph, self.prefix = shapes, graph, prefix
        self.gate_and_up = _has(shapes, "gate_up_proj")

    def piece(self, node: Node, tap: ModuleTap | None) -> Piece | None:
        """What makes `node`, or None."""
        found = None if tap is None else self._tapped(node, tap)
        return found or self._fused(node)

    def _tapped(self, node: Node, tap: ModuleTap) -> Piece | None:
        if self.gate_and_up and tap.modules[0].endswith(".act_fn"):
            return None
        if len(tap.modules) > 1:
            parts = [self._first(module, _OUTPUTS) for module in tap.modules]
            whole = tuple(part for part in parts if part is not None)
            return Piece(parts=whole, operation=Operation.CONCATENATE) if len(whole) == len(parts) else None
        (module,) = tap.modules
        if tap.element is not None:
            return self._first(module, (f"{'input' if tap.takes_input else 'output'}.{tap.element}",))
        if not tap.takes_input:
            return self._first(module, _OUTPUTS)
        adds = "norm" in module.rpartition(".")[2] and (
            f"{module}.output.1" in self.shapes or f"{module}.input.1" in self.shapes
        )
        if adds:
            return self._first(module, ("output.1",))
        return self._first(module, _INPUTS)

    def _fused(self, node: Node) -> Piece | None:
        """What only engines have that fuse, or what a layer as a whole gives."""
        layer, stage = f"model.layers.{node.layer}", node.stage
        if stage in _FUSED:
            biased = "qkv_bias" in self.graph
            return self._first(f"{layer}.self_attn.qkv_proj", _OUTPUTS) if biased == (stage == "qkv_bias") else None
        if stage in ("ffn_gate", "ffn_up"):
            return self._half(f"{layer}.mlp.gate_up_proj", 0 if stage == "ffn_gate" else 1)
        if stage == ENTRY and "ffn_post_norm" not in self.graph:  # Gemma scales what the table gives
            return self._first("model.embed_tokens", _OUTPUTS)
        if stage == "attention":
            return self._first(f"{layer}.self_attn.attn", _OUTPUTS)
        if self.graph[stage].op is Op.MULTIPLY and stage in ("ffn_swigl", "ffn_geglu") and self.gate_and_up:
            return self._first(f"{layer}.mlp.act_fn", _OUTPUTS)
        if stage in ("q_post_rope", "k_post_rope"):
            return self._first(f"{layer}.self_attn.rotary_emb", ("output.0" if stage[0] == "q" else "output.1",))
        if stage == "post_ffn_residual":
            return self._layer_output(layer)
        if stage in ("lm_head", "logit_softcap") and (stage == "logit_softcap") == ("logit_softcap" in self.graph):
            return self._first("logits_processor", (*_OUTPUTS, "output.next_token_logits"))
        return None

    def _layer_output(self, layer: str) -> Piece | None:
        hidden, residual = (f"{layer}.output.{number}" for number in (0, 1))
        if self.shapes.get(hidden) is not None and self.shapes.get(hidden) == self.shapes.get(residual):
            parts = (Piece(self.prefix + hidden), Piece(self.prefix + residual))
            return Piece(parts=parts, operation=Operation.SUM)
        return self._first(layer, _OUTPUTS)

    def _half(self, module: str, number: int) -> Piece | None:
        found = self._first(module, _OUTPUTS)
        if found is None:
            return None
        half = self.shapes[found.pattern.removeprefix(self.prefix)][-1] // 2
        ends = (number * half, (number + 1) * half)
        return Piece(found.pattern, slices={SourceAxis.CHANNEL: ends})

    def _first(self, module: str, endings: tuple[str, ...]) -> Piece | None:
        names: Iterator[str] = (f"{module}.{ending}" for ending in endings)
        found = next((name for name in names if name in self.shapes), None)
        return None if found is None else Piece(self.prefix + found)
