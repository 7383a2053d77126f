"""Dumps that hold parts of tensors: what they have is judged, and what they lack is not claimed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome
from tests.importing.dumps import TOKENS, Ours

Command = Callable[..., Outcome]
Array = NDArray[np.float32]


def ggml_lines(
    name: str, op: str, a: str, b: str, values: Array, prefix: str = "common_debug_cb_eval"
) -> Iterator[str]:
    """As `common_debug_print_tensor` of llama.cpp prints `values`, axes slowest first."""
    ne = [*values.shape[::-1], *[1] * (4 - values.ndim)]
    dims = ", ".join(map(str, ne))
    second = f"{b}{{{dims}}}" if b else ""
    yield f"{prefix}: {name:>24} = (f32) {op:>10}({a}{{{dims}}}, {second}}}) = {{{dims}}}"
    cube = values.reshape(ne[2], ne[1], ne[0])

    def edge(size: int) -> list[int]:
        return list(range(size)) if size <= 6 else [0, 1, 2, size - 3, size - 2, size - 1]

    yield "    ["
    for i2 in edge(ne[2]):
        if i2 == ne[2] - 3 and ne[2] > 6:
            yield "        ..., "
        yield "        ["
        for i1 in edge(ne[1]):
            if i1 == ne[1] - 3 and ne[1] > 6:
                yield "            ..., "
            numbers = [f"{cube[i2, i1, i0]:12.4f}" for i0 in edge(ne[0])]
            dots = ["   ..."] if ne[0] > 6 else []
            yield "            [" + ", ".join([*numbers[:3], *dots, *numbers[3:]]) + "  ],"
        yield "        ],"
    yield "    ]"
    yield f"    sum = {values.sum(dtype=np.float32):f}"


def eval_text(ours: Ours, path: Path) -> Path:
    """What llama-eval-callback prints of our numbers: only the last token behind the attention of the last layer."""
    heads = ours.model.config.graph
    lines = [f"number of input tokens = {len(ours.tokens)}", *(f"  {token}" for token in ours.tokens)]

    def say(name: str, op: str, values: Array, a: str = "x", b: str = "") -> None:
        lines.extend(ggml_lines(name, op, a, b, values))

    say("inp_embd", "GET_ROWS", ours.values(0, "embedding"), "token_embd.weight", "inp_tokens")
    for layer in range(2):
        rows = slice(None) if layer == 0 else slice(-1, None)
        for name, part, width in zip(
            "qkv", ours.parts(layer, "qkv_bias"), (heads.heads, *[heads.kv_heads] * 2), strict=True
        ):
            cur = f"{name.upper()}cur-{layer}"
            say(cur, "ADD", part, cur, f"blk.{layer}.attn_{name}.bias")
            if name != "v":
                turned = ours.values(layer, f"{name}_post_rope").reshape(len(ours.tokens), width, -1)
                say(cur, "ROPE", turned, f"{cur} (reshaped)", "inp_pos")
        say(f"attn_out-{layer}", "MUL_MAT", ours.values(layer, "attn_out"), f"blk.{layer}.attn_output.weight", "kqv")
        say(f"ffn_inp-{layer}", "ADD", ours.values(layer, "post_attn_residual")[rows])
        say(f"ffn_gate-{layer}", "MUL_MAT", ours.values(layer, "ffn_gate")[rows], f"blk.{layer}.ffn_gate.weight", "n")
        say(f"ffn_swiglu-{layer}", "SWIGLU", ours.values(layer, "ffn_swigl")[rows])
        say(f"l_out-{layer}", "ADD", ours.values(layer, "post_ffn_residual")[rows])
    say("result_output", "MUL_MAT", ours.values(None, "lm_head")[-1:], "token_embd.weight", "result_norm")
    path.write_text("\n".join(["build: 1 (abc)", *lines, "llama_perf_context_print: done"]))
    return path


STAGES = "embedding,qkv_bias,q_post_rope,k_post_rope,attn_out,post_attn_residual,ffn_gate,ffn_swigl,post_ffn_residual"


def test_printed_corners_that_agree_to_their_digits_pass(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    text = eval_text(qwen2, tmp_path / "dump.txt")
    for a, b in ((qwen2.capture.path, text), (text, qwen2.capture.path)):
        same = aprtui("diff", a, b, "--model", qwen2.model.path)
        assert same.code == 0, same
        assert "read as eval-callback" in same.err and "the rest of them is not known" in same.err


def test_a_corner_that_differs_is_named_and_judged_by_the_users_bound(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    text = eval_text(qwen2, tmp_path / "dump.txt")
    changed = qwen2.values(1, "attn_out")
    changed[2, 1] += 0.5
    before = "\n".join(
        ggml_lines("attn_out-1", "MUL_MAT", "blk.1.attn_output.weight", "kqv", qwen2.values(1, "attn_out"))
    )
    after = "\n".join(ggml_lines("attn_out-1", "MUL_MAT", "blk.1.attn_output.weight", "kqv", changed))
    text.write_text(text.read_text().replace(before, after))
    unjudged = aprtui("diff", qwen2.capture.path, text, "--model", qwen2.model.path)
    assert unjudged.code == 125, unjudged
    wrong = aprtui(
        "diff", qwen2.capture.path, text, "--model", qwen2.model.path, "--tolerance", "rel_l2=1e-2", "--json"
    )
    assert wrong.code == 1 and '"attn_out"' in wrong.out.splitlines()[-1]


def test_printed_numbers_of_other_tokens_or_without_a_model_are_refused(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    text = eval_text(qwen2, tmp_path / "dump.txt")
    done = aprtui("diff", qwen2.capture.path, text)
    assert done.code == 2 and "--model says which weights make which stages" in done.err
    done = aprtui("diff", qwen2.capture.path, text, "--model", qwen2.model.path, "--replay")
    assert done.code == 2 and "of the others, give --model" in done.err
    done = aprtui("diff", text, text, "--model", qwen2.model.path)
    assert done.code == 2 and "both hold parts of tensors" in done.err
    done = aprtui("import", text, "--out", tmp_path / "out")
    assert done.code == 3 and "which are no capture: aprtui diff CAPTURE" in done.err
    done = aprtui("replay", text, "--model", qwen2.model.path)
    assert done.code == 3 and "aprtui diff CAPTURE" in done.err
    text.write_text(text.read_text().replace("  16\n", "  17\n"))
    done = aprtui("diff", qwen2.capture.path, text, "--model", qwen2.model.path)
    assert done.code == 2 and "is of other tokens" in done.err


def kld(ours: Ours, path: Path, noise: float = 0.0) -> Path:
    """As `log_softmax` of llama.cpp's perplexity tool packs a row, of one chunk with our tokens."""
    logits = ours.values(None, "lm_head")
    context, vocabulary = logits.shape
    data = b"_logits_" + struct.pack("<iii", context, vocabulary, 1) + np.array(ours.tokens, "<i4").tobytes()
    for row in logits[context // 2 : context - 1] + np.float32(noise) * np.arange(vocabulary, dtype=np.float32):
        largest, least = row.max(), max(row.min(), row.max() - 16)
        total = np.log(np.exp((row - largest).astype(np.float64)).sum())
        scale = np.float32((largest - least) / 65535)
        steps = np.where(row > least, np.rint((row - least) / scale), 0).astype("<u2")
        padding = b"\0\0" * (vocabulary % 2)
        data += struct.pack("<ff", scale, least - largest - total) + steps.tobytes() + padding
    path.write_bytes(data)
    return path


def test_log_probabilities_in_16_bits_agree_to_a_step(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    same = aprtui("diff", qwen2.capture.path, kld(qwen2, tmp_path / "base.kld"))
    assert same.code == 0 and "log-probabilities of positions 6 … 10" in same.err, same
    other = kld(qwen2, tmp_path / "other.kld", noise=1e-2)
    assert aprtui("diff", qwen2.capture.path, other).code == 125
    assert aprtui("diff", qwen2.capture.path, other, "--tolerance", "rel_l2=1e-3").code == 1


@pytest.mark.parametrize("size", [4, 8, 15, 20, 40, -1])
def test_a_kld_that_ends_early_is_refused(qwen2: Ours, tmp_path: Path, aprtui: Command, size: int) -> None:
    path = kld(qwen2, tmp_path / "base.kld")
    path.write_bytes(path.read_bytes()[:size])
    done = aprtui("diff", qwen2.capture.path, path)
    assert done.code in (2, 3) and done.err.count("\n") == 1
    path.write_bytes(b"_logits_" + struct.pack("<iii", 1 << 30, 1 << 30, 1 << 30))
    done = aprtui("diff", qwen2.capture.path, path)
    assert done.code == 3 and done.err.count("\n") == 1


def imatrix(ours: Ours, path: Path, factor: float = 1.0) -> Path:
    """As `save_imatrix` of llama.cpp writes it."""
    writer = gguf.GGUFWriter(path, "imatrix")
    del writer.kv_data[0]["general.architecture"]
    writer.add_string("general.type", "imatrix")
    writer.add_uint32("imatrix.chunk_count", 1)
    takes = {"attn_q": "attn_norm", "attn_output": "attention", "ffn_gate": "ffn_norm", "ffn_down": "ffn_swigl"}
    for layer in range(2):
        for weight, stage in takes.items():
            sums = np.square(ours.values(layer, stage)).sum(0, dtype=np.float32)
            if (layer, stage) == (1, "ffn_swigl"):
                sums *= np.float32(factor)
            writer.add_tensor(f"blk.{layer}.{weight}.weight.in_sum2", sums[None])
            writer.add_tensor(f"blk.{layer}.{weight}.weight.counts", np.full((1, 1), len(ours.tokens), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_mean_squares_of_an_imatrix_are_those_of_what_products_take_in(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    path, model = imatrix(qwen2, tmp_path / "imatrix.gguf"), qwen2.model.path
    ids = ",".join(map(str, TOKENS))
    same = aprtui("diff", qwen2.capture.path, path, "--model", model, "--tokens", ids)
    assert same.code == 0 and "8 stages by" in same.err, same
    assert aprtui("diff", qwen2.capture.path, path, "--model", model).code == 125, "it records no tokens"
    other = imatrix(qwen2, tmp_path / "other.gguf", 1.5)
    wrong = aprtui(
        "diff", qwen2.capture.path, other, "--model", model, "--tokens", ids, "--tolerance", "rel_l2=1e-2", "--json"
    )
    assert wrong.code == 1 and '"ffn_swigl"' in wrong.out.splitlines()[-1]
    assert Node(1, "ffn_swigl") in qwen2.capture.files
