"""Write the embedded model: `python -m aprtui.demo.export --work DIR --out FILE.gguf [--quality FILE.json]`.

A checkpoint of the training becomes a GGUF file with Q4_K and Q6_K weights, its tokenizer, chat template, licence,
training facts and, once they have been measured on that very file's weights, its quality figures.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from aprtui.demo.corpus import SPECIAL_TOKENS, TURN_END
from aprtui.demo.network import NetworkShape, load_torch
from aprtui.demo.prompts import TEMPERATURE
from aprtui.demo.quantize import quantize_q4_k, quantize_q6_k
from aprtui.demo.vocabulary import TrainedVocabulary, load_vocabulary

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' "
    "+ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Where a rounding error costs most: the embedding (it is the output matrix too), queries, keys and values (one softmax
# makes much of little), and the way back to the stream.
Q6_K_TENSORS = ("token_embd.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight", "ffn_down.weight")


def export(
    checkpoint: dict[str, Any], vocabulary: TrainedVocabulary, quality: dict[str, Any] | None, out: Path
) -> None:
    """Quantise the checkpoint's weights and write `out` atomically."""
    import gguf

    shape = NetworkShape(**checkpoint["shape"])
    part = out.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "qwen2")
    _add_general(writer, checkpoint)
    _add_shape(writer, shape, int(checkpoint["settings"]["decay_context"]))
    _add_tokenizer(writer, vocabulary)
    _add_training(writer, checkpoint)
    if quality is not None:
        _add_quality(writer, quality)
    for name, size in shape.tensors():
        values = checkpoint["weights"][name].detach().float().cpu().numpy()
        if values.shape != size:
            raise ValueError(f"checkpoint tensor {name}: expected shape {size}, got {values.shape}")
        if values.ndim == 1:
            writer.add_tensor(name, values)
        elif name.endswith(Q6_K_TENSORS):
            writer.add_tensor(name, quantize_q6_k(values), raw_dtype=gguf.GGMLQuantizationType.Q6_K)
        else:
            writer.add_tensor(name, quantize_q4_k(values), raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(part, out)


def _add_general(writer: Any, checkpoint: dict[str, Any]) -> None:
    import gguf

    python = checkpoint["versions"]["python"]
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("aprtui demo")
    writer.add_author("the aprtui authors")
    writer.add_description(f"A small Qwen2 that imitates Python, trained on the source of CPython {python}'s library")
    writer.add_size_label(f"{sum(weight.numel() for weight in checkpoint['weights'].values()) / 1e6:.1f}M")
    writer.add_license("PSF-2.0")
    writer.add_license_name("Python Software Foundation License 2.0 (the training text's)")
    writer.add_license_link("https://docs.python.org/3/license.html")
    writer.add_dataset_count(1)
    writer.add_dataset_name(0, "CPython standard library source")
    writer.add_dataset_version(0, python)
    writer.add_dataset_organization(0, "Python Software Foundation")
    writer.add_dataset_url(0, "https://github.com/python/cpython")
    writer.add_tags(["text-generation", "python"])
    writer.add_sampling_temp(TEMPERATURE)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_shape(writer: Any, shape: NetworkShape, context: int) -> None:
    writer.add_context_length(context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocabulary)


def _add_tokenizer(writer: Any, vocabulary: TrainedVocabulary) -> None:
    import gguf

    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types([control if token in SPECIAL_TOKENS else normal for token in vocabulary.tokens])
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_bos_token_id(vocabulary.end_of_text)
    writer.add_eos_token_id(vocabulary.end_of_text)
    writer.add_pad_token_id(vocabulary.end_of_text)
    writer.add_eot_token_id(vocabulary.tokens.index(TURN_END))
    # In training every text follows an end-of-text mark, so a prompt should, too.
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_training(writer: Any, checkpoint: dict[str, Any]) -> None:
    progress, settings, versions = checkpoint["progress"], checkpoint["settings"], checkpoint["versions"]
    for key in ("seed", "batch_tokens", "context", "decay_context"):
        writer.add_uint32(f"aprtui.training.{key}", settings[key])
    for key in ("step", "decay_at", "steps", "polish"):
        if progress[key] is not None:
            writer.add_uint32(f"aprtui.training.{key}", progress[key])
    writer.add_uint64("aprtui.training.tokens", progress["step"] * settings["batch_tokens"])
    writer.add_float32("aprtui.training.minutes", progress["seconds"] / 60.0)
    writer.add_string("aprtui.training.python_version", versions["python"])
    writer.add_string("aprtui.training.torch_version", versions["torch"])


def _add_quality(writer: Any, quality: dict[str, Any]) -> None:
    for key in ("held_out_bits_per_byte", "xz_bits_per_byte"):
        writer.add_float32(f"aprtui.quality.{key}", quality[key])
    for key in ("held_out_bytes", "training_bytes", "repeat_passes", "parse_passes"):
        writer.add_uint32(f"aprtui.quality.{key}", quality[key])
    samples = quality["samples"]
    writer.add_array("aprtui.quality.prompts", [sample["prompt"] for sample in samples])
    writer.add_array("aprtui.quality.most_repeated_line", [int(sample["most_repeated_line"]) for sample in samples])
    writer.add_array("aprtui.quality.parses", [bool(sample["parses"]) for sample in samples])
    writer.add_array("aprtui.quality.tokens", [int(sample["tokens"]) for sample in samples])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m aprtui.demo.export", description="Write the embedded model.")
    parser.add_argument("--work", type=Path, required=True, help="folder of the training")
    parser.add_argument("--checkpoint", default="checkpoint.pt", help="checkpoint file in that folder")
    parser.add_argument("--quality", type=Path, help="figures measured on an earlier export of the same checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="GGUF file to write")
    options = parser.parse_args(arguments)
    checkpoint = load_torch().load(options.work / options.checkpoint, map_location="cpu", weights_only=True)
    quality = json.loads(options.quality.read_text(encoding="utf-8")) if options.quality else None
    export(checkpoint, load_vocabulary(options.work / "tokenizer.json"), quality, options.out)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
