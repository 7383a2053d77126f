"""A model file's own facts in plain values, and what is unusual about it: what a port of it is likely to miss."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aprtui.compare.wording import counted, ranges
from aprtui.errors import UnreadableError
from aprtui.model.config import ModelConfig, Rope, Yarn
from aprtui.model.model import Model
from aprtui.model.vocabulary import VocabularyKind
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.config import Activation, GraphConfig, GroupScore, Router
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph, graph_for

_USUAL_BASES = (1e4, 5e5, 1e6)
_USUAL_EPSILONS = (1e-5, 1e-6)
_BLOCK = 256
"""Values in a block of a K-quant: a row must be a multiple of it."""
_KINDS = {VocabularyKind.BYTE_PAIR: "byte pairs", VocabularyKind.SENTENCE_PIECE: "SentencePiece"}


@dataclass(frozen=True, slots=True)
class WeightTypeFacts:
    """How many tensors are of one type, with their values and bytes."""

    name: str
    tensors: int
    values: int
    size: int


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """How text becomes tokens. `pre_tokenizer` is as the file names it; `begins`: whether texts begin with `bos`."""

    kind: VocabularyKind
    pre_tokenizer: str
    tokens: int
    bos: str | None
    eos: str | None
    begins: bool
    stops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`size` is that of all `files` in bytes; `template` is the source of the chat template, if there is one.

    `unusual` are sentences. Without a tokenizer that can be read, `tokenizer` says why.
    """

    name: str
    path: Path
    size: int
    files: int
    quantization: str
    parameters: int
    config: ModelConfig
    types: tuple[WeightTypeFacts, ...]
    tokenizer: TokenizerFacts | str
    template: str | None
    temperature: float | None
    unusual: tuple[str, ...]


def model_facts(model: Model) -> ModelFacts:
    """The facts of `model`; builds its tokenizer, which takes a second for a large vocabulary."""
    types = _types(model)
    tokenizer = _tokenizer(model)
    template = model.metadata.get("tokenizer.chat_template")
    source = template if isinstance(template, str) else None
    return ModelFacts(
        model.name, model.path, model.size, len(model.paths), model.quantization,
        sum(found.values for found in types), model.config, types, tokenizer, source, model.sampling_temperature,
        tuple(_unusual(model, types, tokenizer, source)),
    )  # fmt: skip


def _types(model: Model) -> tuple[WeightTypeFacts, ...]:
    """The types of the weights, that of most bytes first."""
    groups: dict[str, list[Weight]] = defaultdict(list)
    for weight in model.weights.values():
        groups[weight.type.name].append(weight)
    found = [
        WeightTypeFacts(
            name, len(group), sum(each.rows * each.columns for each in group), sum(each.data.size for each in group)
        )
        for name, group in groups.items()
    ]
    return tuple(sorted(found, key=lambda each: -each.size))


def decoded_weights(model: Model) -> str | None:
    """A sentence on the weights that no kernel of the CPU reads where they lie; None where there are none."""
    found = [each for each in _types(model) if WeightType[each.name].format.decoded]
    if not found:
        return None
    tensors = ", ".join(f"{counted(each.tensors, 'tensor')} {each.name}" for each in found)
    return f"{tensors}: dequantised row by row, slower"


def _tokenizer(model: Model) -> TokenizerFacts | str:
    try:
        tokenizer = model.tokenizer
    except UnreadableError as error:
        return str(error)
    vocabulary, pre = tokenizer.vocabulary, model.metadata.get("tokenizer.ggml.pre")
    return TokenizerFacts(
        vocabulary.kind, str(pre) if pre else "", tokenizer.size, tokenizer.bos_text, tokenizer.eos_text,
        vocabulary.add_bos, tuple(vocabulary.texts[token] for token in sorted(vocabulary.stop_ids)),
    )  # fmt: skip


def _unusual(
    model: Model, types: tuple[WeightTypeFacts, ...], tokenizer: TokenizerFacts | str, template: str | None
) -> Iterator[str]:
    yield from _unusual_shape(model)
    yield from _unusual_numbers(model.config)
    yield from _unusual_types(model, types)
    if template is None:
        yield "no chat template: prompts are plain text"
    if isinstance(tokenizer, str):
        yield f"no tokenizer that can be used here: {tokenizer}"
    elif tokenizer.tokens != model.config.graph.vocabulary:
        yield (
            f"{model.config.graph.vocabulary} rows of embeddings for {tokenizer.tokens} tokens: "
            "the logits of the rest mean nothing"
        )


def _unusual_shape(model: Model) -> Iterator[str]:
    graph = model.config.graph
    if graph.qkv_bias:
        yield "Q, K and V have biases"
    if graph.latent is not None:
        yield from _unusual_latent(model.config)
    if graph.qk_norm:
        yield "each head of Q and K is normalised before RoPE"
    if graph.gated_attention:
        yield "what attention gives is multiplied by a gate, which stands behind the query in each head of Q"
    if 1 < graph.linear_key_heads < graph.linear_value_heads:
        ways = ["across the key heads", "key head by key head"]
        words = ", not ".join(reversed(ways) if graph.grouped_value_heads else ways)
        yield f"value heads of recurrent layers are counted {words}"
    if graph.fused_beta_alpha:
        yield "one product gives beta and alpha of recurrent layers: for each key head its betas, then its alphas"
    if graph.sinks:
        yield "attention has sinks: a logit of each head joins the sum of its softmax, and no key gets its share"
    yield from _unusual_experts(model.config)
    if graph.activation is Activation.SWIGLU_OAI:
        yield "the SwiGLU is clamped, adds 1 to up, and multiplies the gate by 1.702 in its sigmoid"
    if model.params(Node(None, "lm_head")) == model.params(Node(0, "embedding")):
        yield "tied: the head multiplies by the embedding matrix, there is no output.weight"
    if graph.q_width != graph.hidden and graph.latent is None:
        heads = f"{graph.heads} heads of {graph.head_dim} make {graph.q_width} channels"
        yield f"{heads}, the hidden size is {graph.hidden}"


def _unusual_latent(config: ModelConfig) -> Iterator[str]:
    latent = config.graph.latent
    assert latent is not None
    yield f"latent attention: keys and values of all heads are made of one row of {latent.rank} channels a token"
    if latent.absorbed:
        yield "the file has attn_k_b and attn_v_b: all heads meet that row itself (the absorbed form)"
    yield f"RoPE turns the last {latent.rope} channels of a head; of keys, all heads share them"
    plain = (latent.nope + latent.rope) ** -0.5
    if abs(config.score_scale / plain - 1) > 1e-6:
        yield f"YaRN makes the scores {config.score_scale / plain:.6g} times as large, in place of queries and keys"


def _unusual_experts(config: ModelConfig) -> Iterator[str]:
    graph = config.graph
    if graph.shared_expert_ffn:
        gate = ", times a gate" if graph.shared_expert_gate else ""
        yield f"beside the experts that are chosen there is one that every token uses{gate}"
    if any(graph.dense):
        yield f"{counted(sum(graph.dense), 'layer')} of {graph.layers} have no experts: a dense block in their place"
    if graph.router is Router.SIGMOID:
        yield "the router gives each expert a sigmoid of its own: they do not add up to 1"
    if graph.router_bias:
        yield "experts are chosen by what the router gives plus a bias, and weighted by what it gives without"
    if graph.expert_groups is not None:
        groups = graph.expert_groups
        score = "largest number" if groups.score is GroupScore.LARGEST else "two largest numbers"
        others = "; llama.cpp takes the two largest" if groups.score is GroupScore.LARGEST else ""
        yield f"a token chooses {groups.used} of {groups.count} groups of experts first, by the {score} of each{others}"
    if graph.scaled_experts:
        yield f"the weights of a token's experts are multiplied by {config.expert_weights_scale:g}"
    if graph.biased_experts:
        yield "router and experts have biases, and the weights of a token's experts are a softmax of theirs alone"


def _unusual_numbers(config: ModelConfig) -> Iterator[str]:
    rope = config.rope
    if not any(abs(config.norm_epsilon / usual - 1) < 1e-6 for usual in _USUAL_EPSILONS):
        yield f"the norms' epsilon is {config.norm_epsilon:.6g}, where 1e-5 and 1e-6 are common"
    if rope.theta not in _USUAL_BASES:
        yield f"RoPE's base is {rope.theta:.12g}, where 1e4, 5e5 and 1e6 are common"
    if rope.scale != 1:
        yield "RoPE's {} are {}".format(*_scaled(rope))
    if rope.yarn is not None:
        yield from _unusual_yarn(rope.yarn, rope.yarn_of_llama_cpp)
    if rope.magnitude != 1:
        yield f"RoPE makes queries and keys {rope.magnitude:.6g} times as large"
    if rope.factors is not None:
        yield f"RoPE's frequencies are divided by {min(rope.factors):g} … {max(rope.factors):g} (rope_freqs.weight)"


def _unusual_yarn(own: Yarn, of_llama_cpp: Yarn | None) -> Iterator[str]:
    usual = Yarn(own.original_context)
    if (own.fast, own.slow) != (usual.fast, usual.slow):
        common = f"{usual.fast:g} and {usual.slow:g}"
        others = "" if of_llama_cpp is None else f"; llama.cpp takes {common} all the same"
        yield f"YaRN's beta_fast and beta_slow are {own.fast:g} and {own.slow:g}, where {common} are common{others}"
    if not own.whole_pairs:
        yield "YaRN's range begins and ends between channel pairs; llama.cpp rounds it to whole ones"


def _scaled(rope: Rope) -> tuple[str, str]:
    """What is scaled, and how."""
    if rope.yarn is None:
        return "positions", f"divided by {rope.scale:g}"
    return "slow frequencies", f"divided by {rope.scale:g} (YaRN from a context of {rope.yarn.original_context})"


def _unusual_types(model: Model, types: tuple[WeightTypeFacts, ...]) -> Iterator[str]:
    named = model.quantization.removesuffix("_S").removesuffix("_M").removesuffix("_L")
    largest, total = types[0], sum(found.size for found in types)
    if named != largest.name:
        yield f"called {model.quantization}, but {100 * largest.size / total:.0f} % of the bytes are {largest.name}"
    decoded = decoded_weights(model)
    if decoded is not None:
        yield decoded
    hidden = model.config.graph.hidden
    if hidden % _BLOCK and any(name.endswith("_K") for name in (named, *(found.name for found in types))):
        yield f"the hidden size {hidden} is no multiple of {_BLOCK}: rows of that length cannot be K-quants"
    for parameter, kinds in _mixed(model).items():
        counts = ", ".join(f"{kind} in {count}" for kind, count in sorted(kinds.items()))
        yield f"{parameter} is not of one type in all layers: {counts}"


def _mixed(model: Model) -> dict[str, dict[str, int]]:
    """The parameters of layers that are not of the same type in all of them, with the number of layers of each."""
    kinds: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, weight in model.weights.items():
        if name.startswith("blk."):
            kinds[name.split(".", 2)[2].removesuffix(".weight")][weight.type.name] += 1
    return {parameter: dict(found) for parameter, found in kinds.items() if len(found) > 1}


def described(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    """Every fact but what is unusual in words, each with its name; an empty name continues the one before."""
    yield from _model_rows(facts)
    yield from _type_rows(facts)
    yield from _tokenizer_rows(facts)


def _model_rows(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    config, graph = facts.config, facts.config.graph
    yield "model", facts.name
    parts = f" in {facts.files} files" if facts.files > 1 else ""
    yield "file", f"{facts.path}, {size_words(facts.size)}{parts}"
    yield "architecture", f"{graph.architecture}, {facts.quantization}, {_count(facts.parameters)} parameters"
    yield "layers", f"{graph.layers}, hidden size {graph.hidden}, feed-forward {graph.ffn}"
    yield from _kind_rows(graph_for(graph))
    yield "heads", _heads(graph)
    yield from _recurrence_rows(graph)
    yield "context", f"{config.context} tokens"
    end = "first" if graph.latent is None else "last"
    turned = f", the {end} {graph.rope_dim} channels of a head" if graph.rope_dim else ""
    scale = "" if config.rope.scale == 1 else ", {} {}".format(*_scaled(config.rope))
    factors = "" if config.rope.factors is None else ", with factors of its own for each frequency"
    yield "RoPE", f"base {config.rope.theta:.12g}, {graph.rope_layout} pairs{turned}{scale}{factors}"
    yield "norms", f"RMS, epsilon {config.norm_epsilon:.6g}"
    if facts.temperature is not None:
        yield "temperature", f"{facts.temperature:g} recommended"


def _heads(graph: GraphConfig) -> str:
    latent = graph.latent
    if latent is None:
        return f"{graph.heads} for Q, {graph.kv_heads} for K and V, of {graph.head_dim} channels"
    of_query = f"{latent.nope} + {latent.rope} channels for Q and K, {latent.value} for V"
    rows = f", of rows of {latent.query_rank} for Q" if latent.query_rank else ""
    return f"{graph.heads} of {of_query}{rows}, of rows of {latent.rank} + {latent.rope} for K and V"


def _recurrence_rows(graph: GraphConfig) -> Iterator[tuple[str, str]]:
    """What a layer with a recurrence keeps of the tokens before: one state, however many they are."""
    if any(graph.recurrent):
        heads = f"{graph.linear_key_heads} heads for Q and K, {graph.linear_value_heads} for V"
        taps = f"a convolution over {graph.conv_kernel} tokens"
        yield "recurrence", f"{heads}, of {graph.linear_head_dim} channels, {taps}"
        yield "", f"a state of {size_words(4 * graph.linear_state_width)} a layer"


def _kind_rows(graph: StageGraph) -> Iterator[tuple[str, str]]:
    """A row for each kind of layers, with the mark that grids show beside them; none where all are of one kind."""
    layers: dict[str, list[int]] = defaultdict(list)
    for layer, mark in enumerate(graph.layer_marks):
        layers[f"{mark} {graph.kind_words(layer)}".strip()].append(layer)
    for number, (words, found) in enumerate(layers.items() if len(layers) > 1 else ()):
        yield "" if number else "layer kinds", f"{words}: {ranges(found)}"


def _type_rows(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    for number, found in enumerate(facts.types):
        tensors = "1 tensor" if found.tensors == 1 else f"{found.tensors} tensors"
        bits = 8 * found.size / found.values
        words = f"{found.name:<5} {tensors:>12}, {size_words(found.size):>9}, {bits:.3g} bits a value"
        yield "" if number else "weights", words


def _tokenizer_rows(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    found = facts.tokenizer
    if not isinstance(found, TokenizerFacts):
        yield "tokenizer", found
        return
    pre = f", pre-tokenizer {found.pre_tokenizer}" if found.pre_tokenizer else ""
    yield "tokenizer", f"{_KINDS[found.kind]}{pre}, {found.tokens} tokens"
    begin = "none" if found.bos is None else _quoted(found.bos)
    yield "begins with", begin if found.begins or found.bos is None else f"nothing ({begin} is known, but not added)"
    yield "stops at", ", ".join(map(_quoted, found.stops)) or "nothing"
    yield "chat template", "none" if facts.template is None else "yes"


def _count(value: int) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return str(value)


def size_words(count: int) -> str:
    """`count` bytes: `941.0 kB`, `2.6 MB`."""
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if count >= unit), (1e3, "kB"))
    return f"{count / unit:.1f} {name}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
