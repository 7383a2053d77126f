"""A mapping that is proposed from names, shapes, counts and the graph, with how sure each rule is.

A name is looked up among the words that engines use for a stage; the numbers in it that count layers and tokens become
`{layer}` and `{token}`. With a model, a width that no stage of that name has rules the name out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aprtui.errors import UsageError
from aprtui.importing.elements import INTEGERS, SourceTensor
from aprtui.importing.mapping import SCOPES, Operation, Piece, Rule, SourceAxis, TensorMapping
from aprtui.importing.planning import MAPS, Ingredient, default_axes, plan, values_of
from aprtui.importing.proposal import Confidence, GuessedMapping, GuessedRule
from aprtui.importing.source import Source
from aprtui.importing.stage_words import QKV, STAGE_OF
from aprtui.trace.graph.ops import Part, Scope
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, Node, canonical_name
from aprtui.trace.graph.stage_graph import StageGraph

_OF_LAYER = r"(?:layers?|blk|blocks?|h|l|decoder)[._/\-]?"
_LAYER = re.compile(rf"(?:^|(?<=[._/\-]))({_OF_LAYER})(\d+)(?=[._/\-]|$)", re.IGNORECASE)
_LAST = re.compile(r"(^.*?[._/\-](?:l|layer)?)(\d+)$", re.IGNORECASE)
_FIRST = re.compile(r"(^)(\d+)(?=[._/\-]|$)")
_COUNTER = re.compile(rf"(?:{_OF_LAYER}|[._/\-])?\{{layer\}}[._/\-]?", re.IGNORECASE)
_LAYER_ITSELF = re.compile(rf"(?:^|[._/\-]){_OF_LAYER}\{{layer\}}$", re.IGNORECASE)
"""A name that ends with the number of its layer, as `model.layers.3`."""
_TWO_NORMS = "pre_feedforward_layernorm"
"""A name of models that normalise what attention gives before it is added: `post_attention_layernorm` is that, and so
is `post_norm`."""
_TOKEN = re.compile(r"((?:steps?|pos|position|pass|tokens?)[=._\-]?)(\d+)(?=[._/\-]|$)", re.IGNORECASE)
_STATES = re.compile(r"(?:(?:.*[._/\-])?hidden(?:_states?)?[._/\-]?)?\{layer\}", re.IGNORECASE)
"""Entries of a list, or of one that is called hidden states: transformers counts the embedding as the first."""
_TOKEN_IDS = ("input_ids", "token_ids", "tokens", "ids")
_ENDINGS = re.compile(r"[._/\-]*(outputs?|out|results?|data|value|0)$", re.IGNORECASE)


@dataclass(slots=True)
class _Family:
    """Tensors whose names differ in the layer and the place among the tokens only."""

    pattern: str
    tensors: list[SourceTensor]
    layers: list[int]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensors[0].shape

    @property
    def layer_of_stack(self) -> _Family:
        """One layer of a tensor whose first axis counts them."""
        (tensor,) = self.tensors
        return replace(self, tensors=[replace(tensor, shape=tensor.shape[1:])])


def guess(source: Source, graph: StageGraph | None) -> GuessedMapping:
    """A mapping of the tensors of a source; `graph` is that of the model, where it is known."""
    families = list(_families(source.tensors))
    residuals = dict(_residuals(families))
    tokens = next((f.pattern for f in families if _stage_named(f.pattern)[0] in _TOKEN_IDS and _holds_ids(f)), None)
    count = _token_count(source, families, tokens, graph)
    found: dict[str, list[GuessedRule]] = defaultdict(list)
    parts: dict[str, _Family] = {}
    unknown = []
    two_norms = any(_TWO_NORMS in family.pattern for family in families) or (
        graph is not None and "attn_post_norm" in graph
    )
    for family in families:
        if family.pattern == tokens or family in residuals.values():
            continue
        word, stage = _stage_named(family.pattern)
        if stage != "lm_head" and graph is not None and _is_of_vocabulary(family, graph):
            stage = "lm_head" if "logits" in word.split("_") else None
        if word in ("post_attention_layernorm", "post_norm") and two_norms:
            stage = "attn_post_norm"
        if stage in QKV:
            parts[stage] = family
            continue
        if stage is not None:
            rules = list(_rules(_fused(graph) if stage == "qkv" else stage, family, count, graph))
        elif graph is not None and _holds_all_layers(LAYER_OUTPUT, family, graph):
            rules = [_by_shape(rule, family, graph) for rule in _rules(LAYER_OUTPUT, family, count, graph)]
        elif graph is not None and _is_of_vocabulary(family, graph):
            rules = [_by_width(rule) for rule in _rules("lm_head", family, count, graph)]
        else:
            rules = []
            unknown.append(family.pattern)
        for rule in rules:
            found[rule.rule.stage].append(_with_residual(rule, residuals.get(family.pattern)))
    if len(parts) == len(QKV):
        found[_fused(graph)].append(_joined_rule(parts, count, graph))
    else:
        unknown += [family.pattern for family in parts.values()]
    chosen = [rule for rules in found.values() for rule in _distinct(_without_copies(rules, source.tensors))]
    order = {name: number for number, name in enumerate(SCOPES)}
    chosen.sort(key=lambda entry: (order[entry.rule.stage], entry.rule.layer or 0))
    named = {entry.rule.stage for entry in chosen if entry.confidence is not Confidence.DOUBTFUL}
    missing = [] if graph is None else [stage.name for stage in graph.stages if stage.name not in named]
    return GuessedMapping(tuple(chosen), tokens, tuple(unknown), tuple(missing))


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
        found = STAGE_OF.get(word) or (canonical_name(word) if canonical_name(word) in SCOPES else None)
        if found is not None:
            return word, found
    if _LAYER_ITSELF.search(_ENDINGS.sub("", pattern)):
        return "layer", LAYER_OUTPUT
    return words[-1], None


def _residuals(families: Sequence[_Family]) -> Iterator[tuple[str, _Family]]:
    """Hidden states that are given apart from a residual, by their pattern, with that."""
    by_pattern = {family.pattern: family for family in families}
    for family in families:
        other = by_pattern.get(re.sub(r"hidden_states?(?=[._/\-]|$)", "residual", family.pattern, flags=re.IGNORECASE))
        if other is not None and other is not family and (other.layers, other.shape) == (family.layers, family.shape):
            yield family.pattern, other


def _with_residual(entry: GuessedRule, residual: _Family | None) -> GuessedRule:
    """`entry` plus the residual that stands beside it: layers of vLLM and SGLang give what is to be added to it."""
    if residual is None:
        return entry
    piece = entry.rule.piece
    both = Piece(parts=(piece, replace(piece, pattern=residual.pattern)), operation=Operation.SUM)
    reasons = (*entry.reasons, "if the residual is apart, as by vLLM and SGLang")
    return replace(_likely(entry), rule=replace(entry.rule, piece=both), reasons=reasons)


def _is_of_vocabulary(family: _Family, graph: StageGraph) -> bool:
    return bool(family.shape) and "lm_head" in graph and family.shape[-1] == graph["lm_head"].width


def _holds_ids(family: _Family) -> bool:
    return len(family.tensors) == 1 and family.tensors[0].element.name in INTEGERS


def _token_count(
    source: Source, families: Sequence[_Family], tokens: str | None, graph: StageGraph | None
) -> int | None:
    """How many tokens there are: as many as ids, or as most tensors of layers have rows; of a batch, as most of those
    that are as wide as their stage."""
    if source.tokens:
        return len(source.tokens)
    if tokens is not None:
        return max(source.tensors[tokens].shape, default=None)
    counts = Counter(f.shape[-2] for f in families if f.layers and len(f.shape) >= 2 and default_axes(f.shape, False))
    if not counts and graph is not None:
        counts = Counter(f.shape[1] for f in families if f.layers and _is_batch_of(f, graph))
    return counts.most_common(1)[0][0] if counts else None


def _is_batch_of(family: _Family, graph: StageGraph) -> bool:
    _, stage = _stage_named(family.pattern)
    return len(family.shape) == 3 and stage is not None and family.shape[2] == _of(graph, stage)


def _fused(graph: StageGraph | None) -> str:
    return "qkv_bias" if graph is not None and "qkv_bias" in graph else "qkv_matmul"


def _rules(stage: str, family: _Family, count: int | None, graph: StageGraph | None) -> Iterator[GuessedRule]:
    if graph is None or not _holds_all_layers(stage, family, graph):
        yield from _placed(family, graph, _rule(stage, family, count, graph))
        return
    found = _rule(stage, family.layer_of_stack, count, graph)
    inner = found.rule.piece.axes or default_axes(family.shape[1:], stage in MAPS) or ()
    piece = replace(found.rule.piece, axes=(SourceAxis.LAYER, *inner))
    yield from _stacked(family, graph, replace(found, rule=Rule(stage, piece)))


def _rule(stage: str, family: _Family, count: int | None, graph: StageGraph | None) -> GuessedRule:
    """The rule of one layer, by the name and the width, without the layers that it is for."""
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
    return GuessedRule(Rule(stage, Piece(family.pattern, axes=axes)), confidence, tuple(reasons))


def _holds_all_layers(stage: str, family: _Family, graph: StageGraph) -> bool:
    """Whether the first axis of one tensor is as long as there are layers; of layers' outputs one more, as transformers
    has hidden states, if the last axis is as long as they are wide."""
    is_map, shape = stage in MAPS, family.shape
    if SCOPES[stage] is not Scope.LAYER or family.layers or len(family.tensors) > 1 or len(shape) < 3 + is_map:
        return False
    if stage == LAYER_OUTPUT:
        return shape[0] in (graph.layers, graph.layers + 1) and shape[-1] == graph[stage].width
    return shape[0] == graph.layers


def _stacked(family: _Family, graph: StageGraph, found: GuessedRule) -> Iterator[GuessedRule]:
    """`found` of a tensor of all layers, by its first axis."""
    entries = family.shape[0]
    found = replace(found, reasons=(*found.reasons, f"{entries} entries for {graph.layers} layers"))
    if entries == graph.layers:
        counted = found.rule.stage == LAYER_OUTPUT and _stage_named(family.pattern)[0].startswith("hidden")
        yield _doubtful(found, "without the embedding, or without the last one?") if counted else found
        return
    ends = {ENTRY: (0, 1), LAYER_OUTPUT: (1, graph.layers), "final_norm": (graph.layers, graph.layers + 1)}
    for stage, taken in ends.items():
        piece = replace(found.rule.piece, slices={SourceAxis.LAYER: taken})
        yield _end_of_states(replace(found, rule=Rule(stage, piece)))


def _end_of_states(entry: GuessedRule) -> GuessedRule:
    """`entry`, of which it is to be said that transformers normalises the last of its hidden states."""
    if entry.rule.stage != "final_norm":
        return entry
    reasons = (*entry.reasons, "if the last one is normalised, as by transformers")
    return replace(_likely(entry), reasons=reasons)


def _likely(entry: GuessedRule) -> GuessedRule:
    """`entry`, of which the name alone is not enough to be sure."""
    return replace(entry, confidence=Confidence.LIKELY) if entry.confidence is Confidence.SURE else entry


def _placed(family: _Family, graph: StageGraph | None, found: GuessedRule) -> Iterator[GuessedRule]:
    """`found` with the layers that its names count, or for the one layer or the model that it is of."""
    stage, piece = found.rule.stage, found.rule.piece
    scope, layers = SCOPES[stage], sorted(set(family.layers))
    if stage == LAYER_OUTPUT and layers and (_STATES.fullmatch(family.pattern) or _are_all_states(layers, graph)):
        yield from _states(family, layers, graph, found)
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


def _are_all_states(layers: Sequence[int], graph: StageGraph | None) -> bool:
    return graph is not None and list(layers) == list(range(graph.layers + 1))


def _states(
    family: _Family, layers: Sequence[int], graph: StageGraph | None, found: GuessedRule
) -> Iterator[GuessedRule]:
    """Hidden states as transformers gives them: what enters the first layer, what leaves each, and the last one
    normalised. Of a part of them without the first or the last, their numbers may be those of layers as well."""
    last = None if graph is None else graph.layers
    of = "" if last is None else f" for {last} layers"
    why = replace(found, reasons=(*found.reasons, f"{len(layers)} of them{of}"))
    if not _are_all_states(layers, graph):
        why = _likely(why)
        if last is None or not {0, last} <= set(layers):
            why = _doubtful(why, "counted from the embedding, as by transformers, or from the first layer?")
    for stage, number in ((ENTRY, 0), ("final_norm", last)):
        if number is not None and number in layers:
            name = family.tensors[family.layers.index(number)].name
            yield _end_of_states(replace(why, rule=Rule(stage, replace(found.rule.piece, pattern=name))))
    yield replace(why, rule=Rule(LAYER_OUTPUT, found.rule.piece, first=1, end=last))


def _by_shape(entry: GuessedRule, family: _Family, graph: StageGraph) -> GuessedRule:
    """`entry` of a stack whose name says nothing: one entry more than layers is likely to be hidden states; as many may
    be anything."""
    entry = replace(entry, reasons=("by its shape alone", *entry.reasons[1:]))
    return _likely(entry) if family.shape[0] > graph.layers else replace(entry, confidence=Confidence.DOUBTFUL)


def _by_width(entry: GuessedRule) -> GuessedRule:
    """`entry` of a tensor as wide as the vocabulary whose name says nothing."""
    entry = replace(entry, reasons=("by its width alone", *entry.reasons[1:]))
    return _doubtful(entry, "logits, or what was made of them?")


def _doubtful(entry: GuessedRule, reason: str) -> GuessedRule:
    return replace(entry, confidence=Confidence.DOUBTFUL, reasons=(*entry.reasons, reason))


def _joined_rule(parts: Mapping[str, _Family], count: int | None, graph: StageGraph | None) -> GuessedRule:
    stage = _fused(graph)
    pieces, width = [], 0
    for name, part in zip(QKV, (Part.Q, Part.K, Part.V), strict=True):
        like = Part.Q if part is Part.Q else Part.K
        axes, _ = _axes(f"{like}_post_rope", parts[name], count, graph)
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


def _without_copies(rules: Sequence[GuessedRule], tensors: Mapping[str, SourceTensor]) -> Sequence[GuessedRule]:
    """`rules` of one stage without those of tensors that another one has, too, as a module gives what its last part
    does: of two, the one that makes more stages stays."""
    if len(rules) < 2:
        return rules
    made = {id(entry): _made_by(entry, tensors) for entry in rules}
    kept: list[GuessedRule] = []
    reasons: dict[int, tuple[str, ...]] = defaultdict(tuple)
    for entry in sorted(rules, key=lambda entry: -len(made[id(entry)])):
        copied = next((other for other in kept if _are_copies(made[id(entry)], made[id(other)])), None)
        if copied is None:
            kept.append(entry)
        else:
            reasons[id(copied)] += (f"{entry.rule.piece.pattern} is the same",)
    return [replace(entry, reasons=(*entry.reasons, *reasons[id(entry)])) for entry in kept]


def _made_by(entry: GuessedRule, tensors: Mapping[str, SourceTensor]) -> Mapping[Node, Ingredient]:
    """What a rule makes; nothing where it is doubtful, or does not fit."""
    if entry.confidence is Confidence.DOUBTFUL:
        return {}
    try:
        return plan(TensorMapping((entry.rule,)), tensors).nodes
    except UsageError:
        return {}


def _are_copies(a: Mapping[Node, Ingredient], b: Mapping[Node, Ingredient]) -> bool:
    """Whether the first and the last stage that both make have the same values."""
    common = [node for node in a if node in b]
    try:
        return bool(common) and all(
            np.array_equal(values_of(node, a[node]), values_of(node, b[node]), equal_nan=True)
            for node in {common[0], common[-1]}
        )
    except UsageError:
        return False


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
