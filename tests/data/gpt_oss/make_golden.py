"""Writes what transformers computes of a small gpt-oss, for `tests/engine/test_gpt_oss.py`.

    python -m tests.data.gpt_oss.make_golden

needs `transformers`, `torch` and `gguf`. The model is `model_file(**MODEL)`, whose blocks are random and dequantised
here; transformers runs it in float64 with eager attention. The JSON has some values of each stage of each layer, at
places that `sampled` chooses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.models.gpt_oss import modeling_gpt_oss as code

from tests.data.gpt_oss.sampling import MODEL, TOKENS, sampled
from tests.model.gguf_files import ModelFile, model_file

NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate_inp": "mlp.router",
}  # fmt: skip


def weights_of(file: ModelFile) -> dict[str, torch.Tensor]:
    """The tensors of `file` by the names of transformers; gate and up interleaved, as its experts have them."""
    found: dict[str, torch.Tensor] = {}
    experts: dict[str, NDArray[np.float32]] = {}
    for name, tensor in file.tensors.items():
        values = gguf.quants.dequantize(tensor.data, gguf.GGMLQuantizationType(tensor.type))
        *block, stem, suffix = name.removeprefix("blk.").split(".")
        prefix = f"model.layers.{block[0]}." if block else ""
        if stem.endswith("_exps"):
            experts[f"{prefix}mlp.experts.{stem.removeprefix('ffn_').removesuffix('_exps')}.{suffix}"] = values
        elif stem == "attn_sinks":
            found[f"{prefix}self_attn.sinks"] = torch.from_numpy(values)
        else:
            found[f"{prefix}{NAMES[stem]}.{suffix}"] = torch.from_numpy(values)
    for name, values in experts.items():
        prefix, part, suffix = name.rsplit(".", 2)
        ending = "_bias" if suffix == "bias" else ""
        if part == "down":
            found[f"{prefix}.down_proj{ending}"] = torch.from_numpy(values if ending else values.swapaxes(1, 2).copy())
        elif part == "gate":
            both = np.stack([values, experts[f"{prefix}.up.{suffix}"]], 2).reshape(len(values), -1, *values.shape[2:])
            found[f"{prefix}.gate_up_proj{ending}"] = torch.from_numpy(both if ending else both.swapaxes(1, 2).copy())
    return found


def transformers_model(file: ModelFile) -> GptOssForCausalLM:
    def of(key: str) -> Any:
        return file.metadata[f"gpt-oss.{key}"]

    config = GptOssConfig(
        vocab_size=len(file.metadata["tokenizer.ggml.tokens"]), hidden_size=of("embedding_length"),
        intermediate_size=of("expert_feed_forward_length"), num_hidden_layers=of("block_count"),
        num_attention_heads=of("attention.head_count"), num_key_value_heads=of("attention.head_count_kv"),
        head_dim=of("embedding_length") // of("attention.head_count"), sliding_window=of("attention.sliding_window"),
        num_local_experts=of("expert_count"), num_experts_per_tok=of("expert_used_count"),
        max_position_embeddings=of("context_length"), rms_norm_eps=of("attention.layer_norm_rms_epsilon"),
        rope_parameters={
            "rope_type": "yarn", "rope_theta": of("rope.freq_base"), "factor": of("rope.scaling.factor"),
            "truncate": False, "original_max_position_embeddings": of("rope.scaling.original_context_length"),
        },
        attn_implementation="eager", experts_implementation="eager",
    )  # fmt: skip
    model = GptOssForCausalLM(config)
    model.load_state_dict(weights_of(file))
    return model.double().eval()


def stages_of(model: GptOssForCausalLM, tokens: list[int]) -> dict[str, NDArray[np.float64]]:
    """The stages of each layer by their paths in a capture, as far as modules of transformers give them."""
    found: dict[str, NDArray[np.float64]] = {}

    def keep(path: str, values: torch.Tensor) -> None:
        found[path] = values.detach().numpy()

    def hook(module: torch.nn.Module, path: str, take: Any = lambda inputs, output: output) -> None:
        def kept(_module: torch.nn.Module, inputs: Any, output: Any) -> None:
            taken = take(inputs, output)
            taken = taken[0] if isinstance(taken, tuple) else taken
            keep(path, taken[0] if taken.ndim == 3 else taken)

        module.register_forward_hook(kept)

    eager = code.eager_attention_forward

    def attend(module: Any, query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any) -> Any:
        for name, values in (("q", query), ("k", key)):
            keep(f"layer-{module.layer_idx}/{name}_post_rope", values[0].transpose(0, 1).flatten(1))
        output, maps = eager(module, query, key, *rest, **options)
        keep(f"layer-{module.layer_idx}/attn_softmax", maps[0])
        return output, maps

    code.eager_attention_forward = attend
    hook(model.model.embed_tokens, "layer-0/embedding")
    hook(model.model.norm, "final_norm")
    hook(model.lm_head, "lm_head")
    for number, layer in enumerate(model.model.layers):
        path = f"layer-{number}/"
        hook(layer.input_layernorm, path + "attn_norm")
        hook(layer.self_attn.o_proj, path + "attention", lambda inputs, output: inputs[0])
        hook(layer.self_attn.o_proj, path + "attn_out")
        hook(layer.post_attention_layernorm, path + "post_attn_residual", lambda inputs, output: inputs[0])
        hook(layer.post_attention_layernorm, path + "ffn_norm")
        hook(layer.mlp.router, path + "moe_router", lambda inputs, output: output[0])
        hook(layer.mlp.router, path + "ffn_moe_weights_softmax", lambda inputs, output: output[1])
        hook(layer.mlp.router, path + "moe_router_indices", lambda inputs, output: output[2].double())
        hook(layer.mlp, path + "moe_ffn_out")
        hook(layer, path + "post_ffn_residual")
    with torch.no_grad():
        model(torch.tensor([tokens]), use_cache=False)
    code.eager_attention_forward = eager
    return found


def main() -> None:
    model = transformers_model(model_file(**MODEL))
    stages = stages_of(model, list(TOKENS))
    lines = ",\n".join(f'"{path}": {json.dumps(sampled(path, values))}' for path, values in sorted(stages.items()))
    (Path(__file__).parent / "golden.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
