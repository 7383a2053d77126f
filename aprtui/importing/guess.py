"""A mapping that is proposed from names, shapes, counts and the graph, with how sure each rule is.

A name is looked up among the words that engines use for a stage; the numbers in it that count layers and tokens become
`{layer}` and `{token}`. With a model, a width that no stage of that name has rules the name out.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from aprtui.importing.elements import INTEGERS, SourceTensor
from aprtui.importing.mapping import SCOPES, Operation, Piece, Rule, SourceAxis, TensorMapping, as_document
from aprtui.importing.planning import MAPS, default_axes
from aprtui.importing.source import Source
from aprtui.trace.graph.ops import Part, Scope
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, canonical_name
from aprtui.trace.graph.stage_graph import StageGraph

_QKV = ("qkv:q", "qkv:k", "qkv:v")
_WORDS: Sequence[tuple[str, str]] = (
    (
        ENTRY,
        "embed_tokens|token_embd|inp_embd|tok_embeddings|embeddings?|embed|tok_emb|token_embeddings?|wte|inputs_embeds",
    ),
    (
        "attn_norm",
        "input_layernorm|attention_norm|attn_norm|pre_attn_norm|attn_rmsnorm|ln_1|ln1|norm_1|norm1|attn_ln|input_norm",
    ),
    ("q_post_rope", "q_post_rope|q_rope|rope_q|q_rot|rot_q|q_rotated|query_rotated|q_roped"),
    ("k_post_rope", "k_post_rope|k_rope|rope_k|k_rot|rot_k|k_rotated|key_rotated|k_roped"),
    ("q_norm", "q_norm|q_layernorm"),
    ("k_norm", "k_norm|k_layernorm"),
    ("qkv", "qkv|qkv_proj|c_attn|wqkv|query_key_value"),
    (_QKV[0], "q_proj|wq|query|attn_q|q"),
    (_QKV[1], "k_proj|wk|key|attn_k|k"),
    (_QKV[2], "v_proj|wv|value|attn_v|v"),
    ("attn_scores", "attn_scores|scores|attn_logits|attention_scores|kq"),
    ("attn_softmax", "attn_softmax|softmax|attn_probs|attn_weights|attention_probs|kq_soft_max|probs|pattern"),
    ("attention", "attention|attn_ctx|kqv_out|attn_context|attn_values|heads_out|z"),
    ("attn_out", "attn_out|o_proj|attention_output|attn_output|attn_proj|wo|self_attn"),
    ("post_attn_residual", "post_attn_residual|ffn_inp|resid_mid|after_attn|attn_residual|post_attn"),
    (
        "ffn_norm",
        "ffn_norm|post_attention_layernorm|pre_feedforward_layernorm|mlp_norm|ln_2|ln2|norm_2|norm2|ffn_rmsnorm|ffn_ln|post_norm",
    ),
    ("attn_post_norm", "attn_post_norm"),
    ("ffn_post_norm", "ffn_post_norm|post_feedforward_layernorm"),
    ("ffn_gate", "ffn_gate|gate_proj|mlp_gate|w1|gate"),
    ("ffn_up", "ffn_up|up_proj|mlp_up|w3|up"),
    ("ffn_silu", "ffn_silu|act_fn|silu|ffn_act"),
    ("ffn_swigl", "ffn_swigl|ffn_swiglu|swiglu|ffn_gate_par|gated|mlp_hidden"),
    ("ffn_out", "ffn_out|down_proj|ffn_down|mlp|mlp_out|w2|down"),
    (
        LAYER_OUTPUT,
        "post_ffn_residual|layer_output|layer_out|l_out|resid_post|resid_out|hidden_states?|hidden|block_out|layer|block",
    ),
    ("final_norm", "final_norm|result_norm|ln_f|norm|final_layernorm|output_norm"),
    ("lm_head", "lm_head|logits|result_output"),
)
"""For each stage, what engines call it; for Q, K and V apart, the part of the fused stage."""

_STAGE_OF = {word: stage for stage, words in _WORDS for word in words.replace("s?", "s").split("|")} | {
    word.replace("s?", ""): stage for stage, words in _WORDS for word in words.split("|") if "s?" in word
}
_LAYER = re.compile(r"(?:^|(?<=[._/\-]))((?:layers?|blk|blocks?|h|l|decoder)[._/\-]?)(\d+)(?=[._/\-]|$)", re.IGNORECASE)
_LAST = re.compile(r"(^.*?[._/\-](?:l|layer)?)(\d+)$", re.IGNORECASE)
_FIRST = re.compile(r"(^)(\d+)(?=[._/\-])")
_COUNTER = re.compile(r"(?:layers?|blk|blocks?|h|l|decoder)?[._/\-]?\{layer\}[._/\-]?", re.IGNORECASE)
_TWO_NORMS = "pre_feedforward_layernorm"
"""A name of models that normalise what attention gives before it is added: `post_attention_layernorm` is that, and so
is `post_norm`."""
_TOKEN = re.compile(r"((?:steps?|pos|position|pass|tokens?)[=._\-]?)(\d+)(?=[._/\-]|$)", re.IGNORECASE)
_TOKEN_IDS = ("input_ids", "token_ids", "tokens", "ids")
_ENDINGS = re.compile(r"[._/\-]*(outputs?|out|results?|data|value|0)$", re.IGNORECASE)


class Confidence(StrEnum):
    """How sure a rule of a proposal is."""

    SURE = "sure"
    LIKELY = "likely"
    DOUBTFUL = "doubtful"


@dataclass(frozen=True, slots=True)
class GuessedRule:
    rule: Rule
    confidence: Confidence
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuessedMapping:
    """The proposal; doubtful rules stand in it as comments. `unknown` are names that no word answers to."""

    rules: tuple[GuessedRule, ...]
    tokens: str | None
    unknown: tuple[str, ...]

    @property
    def mapping(self) -> TensorMapping:
        """The rules that are not doubtful."""
        chosen = tuple(entry.rule for entry in self.rules if entry.confidence is not Confidence.DOUBTFUL)
        return TensorMapping(chosen, self.tokens)

    def text(self) -> str:
        """The mapping file: a rule a line, with how sure it is behind it."""
        lines = ["stages:"]
        for entry in self.rules:
            ((name, value),) = as_document(TensorMapping((entry.rule,)))["stages"].items()
            mark = "# " if entry.confidence is Confidence.DOUBTFUL else ""
            lines.append(f"  {mark}{name}: {json.dumps(value)}  # {entry.confidence}: {', '.join(entry.reasons)}")
        if self.tokens is not None:
            lines.append(f"tokens: {json.dumps(self.tokens)}")
        lines += [f"# of no known stage: {name}" for name in self.unknown]
        return "\n".join(lines) + "\n"


@dataclass(slots=True)
class _Family:
    """Tensors whose names differ in the layer and the place among the tokens only."""

    pattern: str
    tensors: list[SourceTensor]
    layers: list[int]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensors[0].shape


def guess(source: Source, graph: StageGraph | None) -> GuessedMapping:
    """A mapping of the tensors of a source; `graph` is that of the model, where it is known."""
    families = list(_families(source.tensors))
    tokens = next((f.pattern for f in families if _stage_named(f.pattern)[0] in _TOKEN_IDS and _holds_ids(f)), None)
    count = _token_count(source, families, tokens)
    found: dict[str, list[GuessedRule]] = defaultdict(list)
    parts: dict[str, _Family] = {}
    unknown = []
    two_norms = any(_TWO_NORMS in family.pattern for family in families) or (
        graph is not None and "attn_post_norm" in graph
    )
    for family in families:
        if family.pattern == tokens:
            continue
        word, stage = _stage_named(family.pattern)
        if word in ("post_attention_layernorm", "post_norm") and two_norms:
            stage = "attn_post_norm"
        if stage in _QKV:
            parts[stage] = family
        elif stage is None:
            unknown.append(family.pattern)
        else:
            name = _fused(graph) if stage == "qkv" else stage
            for rule in _rules(name, family, count, graph):
                found[rule.rule.stage].append(rule)
    if len(parts) == len(_QKV):
        found[_fused(graph)].append(_joined_rule(parts, count, graph))
    else:
        unknown += [family.pattern for family in parts.values()]
    chosen = [rule for rules in found.values() for rule in _distinct(rules)]
    order = {name: number for number, name in enumerate(SCOPES)}
    chosen.sort(key=lambda entry: (order[entry.rule.stage], entry.rule.layer or 0))
    return GuessedMapping(tuple(chosen), tokens, tuple(unknown))


def _families(tensors: Mapping[str, SourceTensor]) -> Iterator[_Family]:
    found: dict[str, _Family] = {}
    for name, tensor in tensors.items():
        pattern, layer = _pattern(name)
        family = found.setdefault(pattern, _Family(pattern, [], []))
        family.tensors.append(tensor)
        if layer is not None:
            family.layers.append(layer)
    for family in found.values():
        if len(family.tensors) == 1 and len(family.layers) == 1 and family.pattern.endswith("{layer}"):
            # A number that nothing counts with.
            yield _Family(family.tensors[0].name, family.tensors, [])
        else:
            yield family


def _pattern(name: str) -> tuple[str, int | None]:
    """The name with `{layer}` and `{token}` in place of the numbers that count those, and the layer."""
    match = _LAYER.search(name) or _LAST.search(name) or _FIRST.search(name)
    if match is None:
        return _with_token(name), None
    before, after = name[: match.start(2)], name[match.end(2) :]
    return (
        f"{_with_token(before)}{{layer}}{_with_token(after) if '{token}' not in _with_token(before) else after}",
        int(match[2]),
    )


def _with_token(text: str) -> str:
    return _TOKEN.sub(r"\1{token}", text, count=1)


def _stage_named(pattern: str) -> tuple[str, str | None]:
    """The last part of a name that says what it is, and the stage or part of one that is called so, or None."""
    rest = _COUNTER.sub(".", pattern, count=1).replace("{token}", "").strip("._/-") or "layer"
    texts = [rest]
    while (shorter := _ENDINGS.sub("", texts[-1])) not in (texts[-1], ""):
        texts.append(shorter)
    words = [re.split(r"[./\-]", text.strip("._/-"))[-1].lower().removeprefix("hook_") for text in texts]
    for word in words:
        found = _STAGE_OF.get(word) or (canonical_name(word) if canonical_name(word) in SCOPES else None)
        if found is not None:
            return word, found
    return words[-1], None


def _holds_ids(family: _Family) -> bool:
    return len(family.tensors) == 1 and family.tensors[0].element.name in INTEGERS


def _token_count(source: Source, families: Sequence[_Family], tokens: str | None) -> int | None:
    """How many tokens there are: as many as ids, or as most tensors of layers have rows."""
    if source.tokens:
        return len(source.tokens)
    if tokens is not None:
        return max(source.tensors[tokens].shape, default=None)
    counts = Counter(f.shape[-2] for f in families if f.layers and len(f.shape) >= 2 and default_axes(f.shape, False))
    return counts.most_common(1)[0][0] if counts else None


def _fused(graph: StageGraph | None) -> str:
    return "qkv_bias" if graph is not None and "qkv_bias" in graph else "qkv_matmul"


def _rules(stage: str, family: _Family, count: int | None, graph: StageGraph | None) -> Iterator[GuessedRule]:
    reasons = [f"called {_stage_named(family.pattern)[0]}"]
    confidence = Confidence.LIKELY
    axes, doubt = _axes(stage, family, count, graph)
    if doubt:
        confidence, reasons = Confidence.DOUBTFUL, [*reasons, doubt]
    width = _width(family.shape, axes, stage in MAPS and len(family.shape) >= 3)
    expected = graph[stage].width if graph is not None and stage in graph else 0
    if graph is not None and stage not in graph:
        confidence, reasons = Confidence.DOUBTFUL, [*reasons, "the model has no such stage"]
    elif expected:
        fits = width == expected
        what = "heads" if stage in MAPS else "width"
        reasons.append(f"{what} {width}" + ("" if fits else f", the stage has {expected}"))
        confidence = (Confidence.SURE if fits else Confidence.DOUBTFUL) if not doubt else confidence
    piece = Piece(family.pattern, axes=axes)
    yield from _placed(stage, piece, family, graph, GuessedRule(Rule(stage, piece), confidence, tuple(reasons)))


def _placed(
    stage: str, piece: Piece, family: _Family, graph: StageGraph | None, found: GuessedRule
) -> Iterator[GuessedRule]:
    """`found` with the layers that its names count, or for the one layer or the model that it is of."""
    scope, layers = SCOPES[stage], sorted(set(family.layers))
    if stage == LAYER_OUTPUT and graph is not None and layers == list(range(graph.layers + 1)):
        # As transformers gives them: what enters the first layer, what leaves each, and the last one normalised.
        name = family.pattern.replace
        why = (*found.reasons, f"{len(layers)} of them for {graph.layers} layers, the last one normalised")
        for stage_name, number in ((ENTRY, 0), ("final_norm", graph.layers)):
            rule = Rule(stage_name, replace(piece, pattern=name("{layer}", str(number))))
            yield replace(found, rule=rule, reasons=why)
        for layer in range(graph.layers - 1):
            rule = Rule(stage, replace(piece, pattern=name("{layer}", str(layer + 1))), layer=layer)
            yield replace(found, rule=rule, reasons=why)
        return
    if layers and scope is Scope.MODEL:
        rule = Rule(stage, replace(piece, pattern=family.tensors[0].name))
        yield _doubtful(replace(found, rule=rule), "there is one of it, not one a layer")
        return
    if not layers and scope is Scope.LAYER:
        yield _doubtful(replace(found, rule=Rule(stage, piece, layer=0)), "no number of a layer in the name")
        return
    first = layers[0] if layers and graph is not None and layers == list(range(1, graph.layers + 1)) else 0
    words = (f"{len(layers)} layers" + (f" of {graph.layers}" if graph is not None else ""),) if layers else ()
    yield replace(found, rule=Rule(stage, piece, first), reasons=(*found.reasons, *words))


def _doubtful(entry: GuessedRule, reason: str) -> GuessedRule:
    return replace(entry, confidence=Confidence.DOUBTFUL, reasons=(*entry.reasons, reason))


def _joined_rule(parts: Mapping[str, _Family], count: int | None, graph: StageGraph | None) -> GuessedRule:
    stage = _fused(graph)
    pieces, width = [], 0
    for name, part in zip(_QKV, (Part.Q, Part.K, Part.V), strict=True):
        axes, _ = _axes(f"{part}_post_rope", parts[name], count, graph)
        pieces.append(Piece(parts[name].pattern, axes=axes))
        width += _width(parts[name].shape, axes)
    reasons = ["Q, K and V apart"]
    confidence = Confidence.LIKELY if graph is not None else Confidence.DOUBTFUL
    if graph is None:
        reasons.append("with or without bias? --model tells")
    else:
        fits = width == graph[stage].width
        reasons.append(f"width {width}" + ("" if fits else f", the stage has {graph[stage].width}"))
        confidence = Confidence.SURE if fits else Confidence.DOUBTFUL
    piece = Piece(parts=tuple(pieces), operation=Operation.CONCATENATE)
    layered = all("{layer}" in pattern for pattern in piece.patterns())
    return GuessedRule(Rule(stage, piece, layer=None if layered else 0), confidence, tuple(reasons))


def _axes(
    stage: str, family: _Family, count: int | None, graph: StageGraph | None
) -> tuple[tuple[SourceAxis, ...] | None, str]:
    """The axes to state, None where they need not be, and what is doubtful about them."""
    shape = family.shape
    is_map = stage in MAPS
    if default_axes(shape, is_map) is not None:
        return None, ""
    lead, rest = shape[:1], shape[1:]
    if is_map and len(shape) == 4:
        return (SourceAxis.BATCH, SourceAxis.HEAD, SourceAxis.QUERY, SourceAxis.KEY), ""
    if len(shape) == 3 and count == shape[1] and (graph is None or shape[2] == _of(graph, stage)):
        return (SourceAxis.BATCH, SourceAxis.TOKEN, SourceAxis.CHANNEL), ""
    if len(shape) == 3:
        lead, rest = (), shape
    if len(rest) != 3:
        return None, f"shape {list(shape)}: axes must be stated"
    batch = (SourceAxis.BATCH,) if lead else ()
    by_token = (*batch, SourceAxis.TOKEN, SourceAxis.HEAD, SourceAxis.CHANNEL)
    by_head = (*batch, SourceAxis.HEAD, SourceAxis.TOKEN, SourceAxis.CHANNEL)
    if count == rest[0] == rest[1]:
        return by_token, f"shape {list(shape)}: heads or tokens first?"
    if count in rest[:2]:
        return (by_token if count == rest[0] else by_head), ""
    return by_token, f"shape {list(shape)}: which axis is that of the tokens?"


def _of(graph: StageGraph, stage: str) -> int:
    return graph[stage].width if stage in graph else 0


def _width(shape: tuple[int, ...], axes: tuple[SourceAxis, ...] | None, is_map: bool = False) -> int:
    """Channels of a token, or heads of a map."""
    if is_map:
        return shape[-3]
    if axes is None:
        return shape[-1] if shape else 1
    width = 1
    for axis, size in zip(axes, shape, strict=True):
        width *= size if axis in (SourceAxis.HEAD, SourceAxis.CHANNEL, SourceAxis.EXPERT) else 1
    return width


def _distinct(rules: Sequence[GuessedRule]) -> Iterator[GuessedRule]:
    """Rules of one stage: where several names want it for the same layers, the surest; the others are doubtful, and all
    of them where none is surer."""
    rank = {confidence: number for number, confidence in enumerate(Confidence)}
    for entry in rules:
        layer = entry.rule.layer
        rivals = [
            other for other in rules
            if other is not entry and (layer is None or other.rule.layer in (None, layer))
        ]  # fmt: skip
        if any(rank[other.confidence] <= rank[entry.confidence] for other in rivals):
            yield _doubtful(entry, "another tensor is called so, too")
        else:
            yield entry
