"""A model of transformers with the weights of a GGUF file, dequantised by our loader.

Its configuration follows from the metadata that our engines read, so a file that they refuse is refused here too.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.capture.module_taps import columns_of_shared_module, module_name, parameter_path
from aprtui.errors import EngineError, UsageError
from aprtui.model.architectures.base import Architecture
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.config import ModelConfig, QueryTemperature, Rope
from aprtui.model.model import Model
from aprtui.model.weights import Weight
from aprtui.trace.graph.config import Activation, GraphConfig, RopeLayout, Router
from aprtui.trace.graph.ops import BIASES, Op
from aprtui.trace.graph.stage import Node, Stage, TokenMixer

# The class of gpt-oss has its SwiGLU fixed.
_ACTIVATIONS = {Activation.SILU: "silu", Activation.GELU_TANH: "gelu_pytorch_tanh", Activation.SWIGLU_OAI: "silu"}


class DataType(StrEnum):
    """What transformers computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class AttentionKind(StrEnum):
    """How transformers computes the attention; only `eager` has maps of it."""

    EAGER = "eager"
    SDPA = "sdpa"


@dataclass(frozen=True, slots=True)
class TransformersModel:
    """`module` has the weights of `source`; `version` is that of transformers and torch."""

    module: Any
    source: Model
    version: str


def require_supported(model: Model, attention: AttentionKind) -> Architecture:
    """The architecture of `model`. Raises `UsageError` for an attention or a router that transformers does not have
    for it."""
    if model.config.graph.sinks and attention is not AttentionKind.EAGER:
        raise UsageError(
            f"--attention {attention}: transformers has none with sinks (architecture {model.architecture}): "
            f"use --attention {AttentionKind.EAGER}"
        )
    graph = model.config.graph
    if graph.latent is not None and graph.experts and graph.router is Router.SOFTMAX:
        normalised = graph.normalised_experts and not ARCHITECTURES[model.architecture].normalises(graph)
        for name, has in (("a bias", graph.router_bias), ("weights that are normalised", normalised)):
            if has:
                raise UsageError(f"{model.path}: its router takes a softmax and has {name}: transformers has none so")
    return ARCHITECTURES[model.architecture]


def load(model: Model, kind: DataType, attention: AttentionKind, threads: int | None) -> TransformersModel:
    """`model` as transformers runs it, with all its weights in `kind`.

    Raises `EngineError` where torch or transformers is missing, `UsageError` for an attention that it does not have.
    """
    architecture = require_supported(model, attention)
    torch, transformers = libraries()
    if threads:
        torch.set_num_threads(threads)
    of_model = getattr(transformers, architecture.class_for(model.config.graph))
    if attention is AttentionKind.SDPA and not getattr(of_model, "_supports_sdpa", True):
        raise UsageError(
            f"--attention {attention}: {of_model.__name__} of transformers {transformers.__version__} has none: use "
            f"--attention {AttentionKind.EAGER}"
        )
    # Where layers with a window have a RoPE of their own, the class has two bases.
    two_bases = isinstance(getattr(of_model.config_class, "default_theta", None), dict)
    config = of_model.config_class(**settings(model, two_bases), attn_implementation=str(attention))
    with importlib.import_module("transformers.initialization").no_init_weights():
        module = of_model(config)
    found = {name: torch.from_numpy(np.array(values)) for name, values in named_parameters(model)}
    if model.config.graph.experts:
        found = (_interleaved if model.config.graph.biased_experts else _fused)(found, torch)
    missing, unexpected = module.load_state_dict(found, strict=False, assign=True)
    lost = sorted({*missing} - {"lm_head.weight"}) + sorted(unexpected)
    if lost:
        raise EngineError(f"{model.path}: transformers {transformers.__version__} has other parameters: {lost[0]}")
    module.tie_weights()
    _set_factors(module, model.config)
    version = f"{transformers.__version__} (torch {torch.__version__})"
    # Not `module.to`: frequencies of RoPE are a buffer, which stays in float32 where weights are loaded in 16 bits. So
    # do parameters that the class names, of routers.
    kept = tuple(f".{name}." for name in getattr(module, "_keep_in_fp32_modules_strict", None) or ())
    for name, parameter in module.named_parameters():
        if not any(part in f".{name}." for part in kept):
            parameter.data = parameter.data.to(getattr(torch, kind))
    return TransformersModel(module.eval(), model, version)


def libraries() -> tuple[Any, Any]:
    """torch and transformers. Raises `EngineError` where they are not installed."""
    try:
        torch = importlib.import_module("torch")
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise EngineError(f"{error.name or 'transformers'} is not installed: pip install 'aprtui[oracle]'") from error
    return torch, transformers


def settings(model: Model, two_bases: bool) -> dict[str, Any]:
    """What the configuration class of transformers is made with; it ignores what its models do not have.

    `two_bases`: its layers with a window have a RoPE of their own. Raises `UsageError` where only the file's do.
    """
    config, graph = model.config, model.config.graph
    head, table = model.params(Node(None, "lm_head")), model.params(Node(0, "embedding"))
    found: dict[str, Any] = {
        "vocab_size": graph.vocabulary, "hidden_size": graph.hidden, "intermediate_size": graph.ffn,
        "num_hidden_layers": graph.layers, "num_attention_heads": graph.heads, "num_key_value_heads": graph.kv_heads,
        "head_dim": graph.head_dim, "rms_norm_eps": config.norm_epsilon, "max_position_embeddings": config.context,
        "hidden_act": _ACTIVATIONS[graph.activation], "tie_word_embeddings": head == table,
        "attention_bias": graph.qkv_bias, "rope_parameters": _rope_parameters(model, two_bases),
        "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    found |= _layer_settings(graph) | _expert_settings(config) | _latent_settings(graph)
    if graph.latent is not None:
        del found["head_dim"]  # a class knows what its RoPE takes for a head
    if config.norm_offset and not graph.recurrent:
        scalar = config.score_scale**-2
        found |= {
            "hidden_activation": found.pop("hidden_act"),
            "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-9 else scalar,
            "attn_logit_softcapping": config.attn_softcap or None,
            "final_logit_softcapping": config.logit_softcap or None,
        }
    return found


def _layer_settings(graph: GraphConfig) -> dict[str, Any]:
    """In what layers differ, and what recurrent ones have."""
    windows, found = graph.windows or (0,) * graph.layers, dict[str, Any]()
    if any(windows):
        found |= {"sliding_window": max(windows), "use_sliding_window": True}
    if any(windows) or any(graph.recurrent):
        kinds = ["sliding_attention" if window else "full_attention" for window in windows]
        recurrent = graph.layers_with(TokenMixer.RECURRENCE)
        found["layer_types"] = [
            "linear_attention" if layer in recurrent else kind for layer, kind in enumerate(kinds)
        ]  # fmt: skip
    if graph.no_rope:
        found["no_rope_layers"] = [int(not left_out) for left_out in graph.no_rope]
    if graph.recurrent:
        found |= {
            "linear_conv_kernel_dim": graph.conv_kernel, "linear_num_key_heads": graph.linear_key_heads,
            "linear_num_value_heads": graph.linear_value_heads, "linear_key_head_dim": graph.linear_head_dim,
            "linear_value_head_dim": graph.linear_head_dim,
        }  # fmt: skip
    return found


def _latent_settings(graph: GraphConfig) -> dict[str, Any]:
    latent = graph.latent
    if latent is None:
        return {}
    return {
        "kv_lora_rank": latent.rank, "q_lora_rank": latent.query_rank or None, "qk_nope_head_dim": latent.nope,
        "qk_rope_head_dim": latent.rope, "v_head_dim": latent.value,
        "num_key_value_heads": graph.heads,
    }  # fmt: skip


def _expert_settings(config: ModelConfig) -> dict[str, Any]:
    graph = config.graph
    if not graph.experts:
        return {}
    found = {
        "num_experts": graph.experts, "num_experts_per_tok": graph.experts_used, "norm_topk_prob": True,
        "moe_intermediate_size": graph.expert_ffn, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "shared_expert_intermediate_size": graph.shared_expert_ffn,
    }  # fmt: skip
    if not graph.shared_expert_gate:
        groups = graph.expert_groups
        count, used = (1, 1) if groups is None else (groups.count, groups.used)
        found |= {
            "n_routed_experts": graph.experts, "n_shared_experts": graph.shared_expert_ffn // graph.expert_ffn,
            "first_k_dense_replace": sum(graph.dense), "routed_scaling_factor": config.expert_weights_scale,
            "norm_topk_prob": graph.normalised_experts, "n_group": count, "topk_group": used,
            "use_qk_norm": graph.qk_norm, "topk_method": "greedy" if groups is None else "group_limited_greedy",
        }  # fmt: skip
    if graph.biased_experts:
        found |= {"num_local_experts": graph.experts, "intermediate_size": graph.expert_ffn}
    return found


def _rope_parameters(model: Model, two_bases: bool) -> dict[str, Any]:
    config = model.config
    rope, of_windows = (_rope(each) for each in (config.rope, config.window_rope or config.rope))
    if not two_bases and rope != of_windows:
        raise UsageError(f"{model.path}: its layers with a window have a RoPE of their own, which transformers lacks")
    if ARCHITECTURES[model.architecture].query_temperature or config.query_temperature is not None:
        # YaRN reads the same length.
        length = config.context if config.rope.yarn is None else config.rope.yarn.original_context
        growth = config.query_temperature or QueryTemperature(0.0, length)
        if config.rope.yarn is not None and growth.length != length:
            raise UsageError(
                f"{model.path}: queries grow every {growth.length} positions, YaRN is from a context of {length}: "
                "transformers has one number for both"
            )
        rope |= {"llama_4_scaling_beta": growth.scale, "original_max_position_embeddings": growth.length}
    if config.graph.latent is not None and config.rope.yarn is not None:
        rope = _rope_of_scores(rope, config)
    elif config.graph.rope_dim and config.graph.latent is None:
        rope |= {"partial_rotary_factor": config.graph.rotated / config.graph.head_dim}
    return {"full_attention": rope, "sliding_attention": of_windows} if two_bases else rope


def _rope_of_scores(rope: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Parameters of YaRN that makes scores larger, in place of queries and keys."""
    latent = config.graph.latent
    assert latent is not None
    larger = config.score_scale * (latent.nope + latent.rope) ** 0.5
    multiplier = (larger**0.5 - 1) / (0.1 * math.log(config.rope.scale)) if config.rope.scale > 1 else 1.0
    return {name: value for name, value in rope.items() if name != "attention_factor"} | {
        "mscale": multiplier, "mscale_all_dim": multiplier
    }  # fmt: skip


def _rope(rope: Rope) -> dict[str, Any]:
    if rope.yarn is not None:
        return {
            "rope_type": "yarn", "rope_theta": rope.theta, "factor": rope.scale, "attention_factor": rope.magnitude,
            "original_max_position_embeddings": rope.yarn.original_context, "beta_fast": rope.yarn.fast,
            "beta_slow": rope.yarn.slow, "truncate": rope.yarn.whole_pairs,
        }  # fmt: skip
    if rope.scale != 1:
        return {"rope_type": "linear", "rope_theta": rope.theta, "factor": rope.scale}
    return {"rope_type": "default", "rope_theta": rope.theta}


def _set_factors(module: Any, config: ModelConfig) -> None:
    """Divide the frequencies of RoPE by the factors of the file; converters write those of Llama 3 as such."""
    if config.rope.factors is not None:
        frequencies = module.model.rotary_emb.inv_freq
        frequencies /= frequencies.new_tensor(config.rope.factors)


def named_parameters(model: Model) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The parameters of the module of transformers by name, each with its values as float32."""
    for node in model.graph.nodes:
        stage = model.graph[node.stage]
        if stage.op is Op.HEAD_MATMUL:
            if node.stage == "attention":
                yield _keys_and_values(model, node)
            continue
        for parameter, weight in zip(stage.params, model.params(node), strict=True):
            name = module_name(ARCHITECTURES[model.architecture].transformers_modules, node, parameter)
            values = _values(model, stage.op, parameter, weight)
            if name.endswith("in_proj_qkvz"):
                if parameter == "attn_qkv":
                    yield f"{name}.weight", _queries_to_gates(model, node, values)
            elif stage.mixer is TokenMixer.RECURRENCE:
                yield _recurrent_parameter(model, stage, name, values)
            else:
                yield parameter_path(name, stage.op in BIASES), values


def _keys_and_values(model: Model, node: Node) -> tuple[str, NDArray[np.float32]]:
    """The one matrix that makes keys and values of each head of a latent row, of those that an absorbed form has."""
    (values,), (keys,) = model.params(node), model.params(Node(node.layer, "q_nope_absorbed"))
    of_keys, of_values = (each.dequantize().reshape(each.experts, -1, each.columns) for each in (keys, values))
    both = np.concatenate([of_keys.swapaxes(1, 2), of_values], axis=1)
    name = module_name(ARCHITECTURES[model.architecture].transformers_modules, node, "attn_v_b")
    return f"{name}.weight", both.reshape(-1, values.columns)


def _queries_to_gates(model: Model, node: Node, qkv: NDArray[np.float32]) -> NDArray[np.float32]:
    """The one matrix that gives queries, keys, values and gates of a recurrent layer; `qkv` is the file's without
    gates."""
    (gates,) = model.params(Node(node.layer, "linear_attn_z"))
    places = columns_of_shared_module(model.config.graph)
    found = np.empty((len(qkv) + gates.rows, qkv.shape[1]), np.float32)
    found[list(places["attn_qkv"])], found[list(places["attn_gate"])] = qkv, gates.dequantize()
    return found


def _recurrent_parameter(
    model: Model, stage: Stage, name: str, values: NDArray[np.float32]
) -> tuple[str, NDArray[np.float32]]:
    """A parameter of a recurrent layer, with value heads counted key head by key head."""
    config = model.config.graph
    order = np.argsort(config.value_heads_by_key_head)
    if stage.op is Op.HEAD_RMS_NORM:
        return f"{name}.weight", values + np.float32(model.config.norm_offset)
    if stage.name == "linear_attn_out":
        heads = values.reshape(len(values), config.linear_value_heads, -1)
        return f"{name}.weight", heads[:, order].reshape(values.shape)
    if stage.op in (Op.SOFTPLUS, Op.DECAY):
        found = values.reshape(-1)[order]
        # Parameters of the layer itself: a bias, and the logarithm of what the file holds.
        return (name.replace("dt_proj", "dt_bias"), found) if stage.op is Op.SOFTPLUS else (name, np.log(-found))
    first = 2 * config.linear_key_width if stage.width == config.linear_qkv_width else 0
    heads = values[first:].reshape(config.linear_value_heads, -1, values.shape[1])
    found = np.concatenate([values[:first], heads[order].reshape(-1, values.shape[1])])
    return f"{name}.weight", found[:, None] if stage.op is Op.CONVOLUTION else found


def _values(model: Model, op: Op, parameter: str, weight: Weight) -> NDArray[np.float32]:
    values = weight.dequantize()
    graph = model.config.graph
    if op in (Op.RMS_NORM, Op.HEAD_RMS_NORM):
        return values.reshape(-1) - np.float32(model.config.norm_offset)
    if op in (Op.BIAS, Op.SOFTMAX):
        values = values.reshape(-1)
    if op is Op.EXPERT_MATMUL:
        return values.reshape(weight.experts, weight.expert_rows, weight.columns)
    is_permuted = graph.rope_layout is RopeLayout.INTERLEAVED and graph.latent is None
    if parameter in ("attn_q", "attn_k") and is_permuted:
        # Converters turn the rows of a head from halves into pairs.
        heads = graph.heads if parameter == "attn_q" else graph.kv_heads
        pairs = values.reshape(heads, graph.head_dim // 2, 2, -1)
        return pairs.swapaxes(1, 2).reshape(values.shape)
    return values


def _fused(found: dict[str, Any], torch: Any) -> dict[str, Any]:
    """The same parameters with those of experts as transformers keeps them: gates and ups in one."""
    result = {}
    for name, values in found.items():
        if name.endswith(".experts.gate_proj.weight"):
            ups = found[name.replace("gate_proj", "up_proj")]
            result[name.replace("gate_proj.weight", "gate_up_proj")] = torch.cat([values, ups], 1)
        elif name.endswith(".experts.down_proj.weight"):
            result[name.removesuffix(".weight")] = values
        elif not name.endswith(".experts.up_proj.weight"):
            result[name] = values
    return result


def _interleaved(found: dict[str, Any], torch: Any) -> dict[str, Any]:
    """The same as gpt-oss keeps them: gates and ups in turn, matrices the other way round, and sinks by their name."""
    result = {}
    for name, values in found.items():
        module, _, suffix = name.rpartition(".")
        ending = "_bias" if suffix == "bias" else ""
        if module.endswith("experts.gate_proj"):
            both = torch.stack([values, found[name.replace("gate_proj", "up_proj")]], 2).flatten(1, 2)
            result[module.replace("gate_proj", "gate_up_proj") + ending] = both if ending else both.mT.contiguous()
        elif module.endswith("experts.down_proj"):
            result[module + ending] = values if ending else values.mT.contiguous()
        elif module.endswith("self_attn.sinks"):
            result[module] = values
        elif not module.endswith("experts.up_proj"):
            result[name] = values
    return result
