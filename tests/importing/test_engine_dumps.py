"""Dumps of TensorRT-LLM, Edge-LLM, llama.cpp and apr: files as the tool names them, values ours again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.importing.formats.registry import FORMATS, format_of
from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome
from tests.importing.dumps import EXACT, TOKENS, Ours, require_same, write_safetensors, write_torch
from tests.importing.rank_folders import RankShare

Command = Callable[..., Outcome]
Array = NDArray[Any]


class TrtLlm:
    """The hooks of TensorRT-LLM: chains of calls, arguments saved before a module and again behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chain: list[str] = []
        self.calls = [0]

    def enter(self, name: str, arguments: dict[str, Array]) -> None:
        self.calls[-1] += 1
        self.chain.append(f"{self.calls[-1]}.{name}")
        self.calls.append(0)
        self._save("input", list(arguments.items()))

    def leave(self, arguments: dict[str, Array], names: tuple[str, ...], *given: Array) -> None:
        """`names` are those of all arguments of the module's `forward`."""
        self._save("output", [(names[i] if i < len(names) else str(i), values)
                              for i, values in enumerate([*arguments.values(), *given])])  # fmt: skip
        self.chain.pop()
        self.calls.pop()

    def call(self, name: str, arguments: dict[str, Array], names: tuple[str, ...], *given: Array) -> None:
        self.enter(name, arguments)
        self.leave(arguments, names, *given)

    def _save(self, kind: str, tensors: list[tuple[str, Array]]) -> None:
        for name, values in tensors:
            write_torch(self.folder / f"{'-'.join(self.chain)}-{kind}.{name}.pt", values)


def trt_llm(ours: Ours | RankShare, folder: Path, rank: int = 0) -> Path:
    hooks, ids = TrtLlm(folder / f"rank{rank}"), np.array(TOKENS, np.int32)
    of, norm, linear = ours.values, ("hidden_states", "residual"), ("input", "all_reduce_params")
    hooks.enter("Qwen2Model", {})
    hooks.call("Embedding", {"input": ids}, ("input",), of(0, "embedding"))
    for layer in range(2):
        entering = of(0, "embedding") if not layer else of(0, "ffn_out")
        hooks.enter("Qwen2DecoderLayer", {"position_ids": np.arange(12), "hidden_states": entering})
        if layer:
            given = {"hidden_states": entering, "residual": of(0, "post_attn_residual")}
            hooks.call("RMSNorm", given, norm, of(layer, "attn_norm"), of(0, "post_ffn_residual"))
        else:
            hooks.call("RMSNorm", {"hidden_states": entering}, norm, of(layer, "attn_norm"))
        hooks.enter("Qwen2Attention", {})
        hooks.call("Linear", {"input": of(layer, "attn_norm")}, linear, of(layer, "qkv_bias"))
        hooks.call("Linear", {"input": of(layer, "attention")}, linear, of(layer, "attn_out"))
        hooks.leave({}, ("position_ids",), of(layer, "attn_out"))
        given = {"hidden_states": of(layer, "attn_out"), "residual": entering}
        hooks.call("RMSNorm", given, norm, of(layer, "ffn_norm"), of(layer, "post_attn_residual"))
        hooks.enter("GatedMLP", {"x": of(layer, "ffn_norm")})
        both = np.concatenate([of(layer, "ffn_gate"), of(layer, "ffn_up")], 1)
        hooks.call("Linear", {"input": of(layer, "ffn_norm")}, linear, both)
        hooks.call("Linear", {"input": of(layer, "ffn_swigl")}, linear, of(layer, "ffn_out"))
        hooks.leave({"x": of(layer, "ffn_norm")}, ("x",), of(layer, "ffn_out"))
        hooks.leave({"position_ids": np.arange(12), "hidden_states": entering}, ("position_ids", "hidden_states"),
                    of(layer, "ffn_out"), of(layer, "post_attn_residual"))  # fmt: skip
    given = {"hidden_states": of(1, "ffn_out"), "residual": of(1, "post_attn_residual")}
    hooks.call("RMSNorm", given, norm, of(None, "final_norm"), of(1, "post_ffn_residual"))
    hooks.leave({}, ("attn_metadata",), of(None, "final_norm"))
    hooks.call("LMHead", {"input": of(None, "final_norm")[-1:]}, ("input",), of(None, "lm_head")[-1:])
    return folder


def test_tensorrt_llm_modules_are_told_by_class_and_order(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    dump, out = trt_llm(qwen2, tmp_path / "data_dump"), tmp_path / "out"
    done = aprtui("import", dump, "--out", out, "--model", qwen2.model.path)
    assert done.code == 0, done
    capture = Capture.open(out)
    logits = Node(None, "lm_head")
    assert np.array_equal(capture.values(logits).reshape(-1), qwen2.values(None, "lm_head")[-1])
    for node in capture.files.keys() - {logits}:
        assert np.array_equal(capture.values(node), qwen2.values(node.layer, node.stage)), node
    missing = {"qkv_matmul", "q_post_rope", "k_post_rope", "attn_scores", "attn_softmax", "ffn_silu"}
    assert set(capture.files) == {node for node in qwen2.capture.files if node.stage not in missing}
    judged = aprtui("replay", dump, "--model", qwen2.model.path, "--rounding", EXACT, "--stage", "ffn_*,lm_head")
    assert judged.code == 0, judged


def edge_llm(ours: Ours, path: Path, lengths: Sequence[int]) -> Path:
    """A file with a round for each of `lengths`."""
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for number, length in enumerate(lengths):
        for layer in range(2):
            keys = ours.heads(layer, "k_post_rope")[:, :, :length]
            room = np.zeros((1, 2, keys.shape[1], 16, keys.shape[3]), np.float32)
            room[:, 0, :, :length] = keys
            tensors[f"round_{number}.layer_{layer}.kv"] = ("F32", room.shape, room.tobytes())
        logits = ours.values(None, "lm_head")[length - 1][None]
        tensors[f"round_{number}.logits"] = ("F32", logits.shape, logits.tobytes())
        tensors[f"round_{number}.context_lengths"] = ("I32", (1,), np.int32(length).tobytes())
        tensors[f"round_{number}.generated_token_ids"] = ("I32", (1, 1), np.int32(3).tobytes())
    return write_safetensors(path, tensors)


def test_edge_llm_holds_keys_of_all_positions_and_the_last_logits(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    path = edge_llm(qwen2, tmp_path / "dump.safetensors", (8, 12))
    assert aprtui("import", path, "--out", tmp_path / "out").code == 0
    capture = Capture.open(tmp_path / "out")
    assert capture.token_count == 12
    assert np.array_equal(capture.values(Node(None, "lm_head")).reshape(-1), qwen2.values(None, "lm_head")[-1])
    for layer in range(2):
        found = capture.values(Node(layer, "k_post_rope"))
        assert np.array_equal(found, qwen2.values(layer, "k_post_rope"))
    assert aprtui("import", path, "--out", tmp_path / "first", "--step", "0").code == 0
    assert Capture.open(tmp_path / "first").token_count == 8
    done = aprtui("import", path, "--out", tmp_path / "gone", "--step", "7")
    assert done.code == 2 and "has the rounds 0 … 1" in done.err


def llama_debug(ours: Ours, folder: Path, name: str) -> None:
    """As `examples/debug/debug.cpp` of llama.cpp writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    ours.values(None, "lm_head")[-1].tofile(folder / f"{name}.bin")
    np.array(ours.tokens, np.int32).tofile(folder / f"{name}-tokens.bin")
    (folder / f"{name}-prompt.txt").write_text(f"prompt: x\nn_tokens: {len(ours.tokens)}\n")
    np.zeros(8, np.float32).tofile(folder / f"{name}-embeddings.bin")


@pytest.mark.parametrize("prefix", ["llamacpp", "pytorch"])
def test_logits_of_llama_debug_are_those_of_the_last_token(
    qwen2: Ours, tmp_path: Path, aprtui: Command, prefix: str
) -> None:
    llama_debug(qwen2, tmp_path, f"{prefix}-qwen2")
    logits = qwen2.values(None, "lm_head")[-1]
    out = tmp_path / "out"
    for source in (tmp_path, tmp_path / f"{prefix}-qwen2.bin"):
        done = aprtui("import", source, "--out", out, "--overwrite", "--model", qwen2.model.path)
        assert done.code == 0, done
        capture = Capture.open(out)
        assert capture.tokens == TOKENS and set(capture.files) == {Node(None, "lm_head")}
        assert np.array_equal(capture.values(Node(None, "lm_head")).reshape(-1), logits)
    same = aprtui("diff", tmp_path / f"{prefix}-qwen2.bin", qwen2.capture.path, "--stage", "lm_head")
    assert same.code == 0, same
    logits[:-1].tofile(tmp_path / f"{prefix}-qwen2.bin")
    done = aprtui("import", tmp_path, "--out", out, "--overwrite", "--model", qwen2.model.path)
    assert done.code == 3 and "of another model" in done.err


def apr_positions(ours: Ours, tree: Path) -> None:
    """As `apr parity --per-op` lays out those of a device."""
    for position in range(len(ours.tokens)):
        for node in ours.capture.files:
            values = ours.values(node.layer, node.stage)
            row = values[:, position] if node.stage in ("attn_scores", "attn_softmax") else values[position]
            folder = tree / f"pos-{position:04d}"
            write_aprt(folder / (f"layer-{node.layer}" if node.layer is not None else "") / f"{node.stage}.bin",
                       node.layer, np.ascontiguousarray(row))  # fmt: skip


def test_trees_of_single_positions_are_joined(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    apr_positions(qwen2, tmp_path / "cpu")
    assert aprtui("import", tmp_path / "cpu", "--out", tmp_path / "out").code == 0
    maps = {"attn_scores", "attn_softmax"}
    require_same(qwen2, tmp_path / "out", {node for node in qwen2.capture.files if node.stage not in maps})
    (tmp_path / "cpu" / "pos-0003").rename(tmp_path / "cpu" / "pos-0033")
    done = aprtui("import", tmp_path / "cpu", "--out", tmp_path / "out", "--overwrite")
    assert done.code == 3 and "without a gap" in done.err


def test_every_format_is_listed_and_none_takes_a_capture_of_ours(qwen2: Ours, aprtui: Command) -> None:
    told = aprtui("import", "--formats")
    assert told.code == 0 and all(entry.name in told.out for entry in FORMATS)
    assert format_of(qwen2.capture.path) is None


def test_a_capture_is_told_to_be_one_and_what_takes_it(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    own = qwen2.capture.path
    for path in (own, own / "layer-0", own / "layer-0" / "attn_norm.bin"):
        for how in (("--out", tmp_path / "out"), ("--guess",)):
            refused = aprtui("import", path, *how)
            assert refused.code == 3 and f"{path}: is a capture already: aprtui replay {path}" in refused.err
    assert not (tmp_path / "out").exists()
