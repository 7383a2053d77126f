"""Dumps of modules by SGLang, msProbe and transformers: files as the tool names them, values ours again."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.model.model import Model
from aprtui.oracle.requests import Evaluation
from aprtui.oracle.transformers_capture import TransformersOptions, write_transformers_captures
from aprtui.oracle.transformers_model import AttentionKind, DataType, load
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome
from tests.importing.dumps import EXACT, TOKENS, Ours, ours, require_same, write_safetensors, write_torch
from tests.importing.rank_folders import RankShare

Command = Callable[..., Outcome]
Array = NDArray[Any]
LAYERS = (0, 1)
FUSED_AWAY = {"qkv_matmul", "attn_scores", "attn_softmax", "ffn_silu"}


def expected_nodes(ours: Ours, *missing: str) -> set[Node]:
    return {node for node in ours.capture.files if node.stage not in missing}


def sglang_modules(ours: Ours | RankShare, rows: slice) -> dict[str, Array | list[Array]]:
    """What the modules of SGLang's qwen2, and vLLM's, give for some tokens, in the order in which they are called."""

    def of(layer: int | None, stage: str) -> Array:
        return ours.values(layer, stage)[rows]

    found: dict[str, Array | list[Array]] = {"model.embed_tokens": of(0, "embedding")}
    for layer in LAYERS:
        block = f"model.layers.{layer}"
        norm = of(layer, "attn_norm")
        found |= {
            f"{block}.input_layernorm": [norm, of(layer - 1, "post_ffn_residual")] if layer else norm,
            f"{block}.self_attn.qkv_proj": of(layer, "qkv_bias"),
            f"{block}.self_attn.rotary_emb": [of(layer, "q_post_rope"), of(layer, "k_post_rope")],
            f"{block}.self_attn.attn": of(layer, "attention"),
            f"{block}.self_attn.o_proj": of(layer, "attn_out"),
            f"{block}.post_attention_layernorm": [of(layer, "ffn_norm"), of(layer, "post_attn_residual")],
            f"{block}.mlp.gate_up_proj": np.concatenate([of(layer, "ffn_gate"), of(layer, "ffn_up")], 1),
            f"{block}.mlp.act_fn": of(layer, "ffn_swigl"),
            f"{block}.mlp.down_proj": of(layer, "ffn_out"),
        }
    return found | {"model.norm": [of(None, "final_norm"), of(1, "post_ffn_residual")]}


def sglang_passes(ours: Ours, folder: Path, steps: tuple[slice, ...]) -> Path:
    """As its hooks write them: logits of a pass in the file of the next, one rotary module under all its names."""
    logits: dict[str, Array] = {}
    for number, rows in enumerate(steps):
        modules: dict[str, Any] = {**logits, **sglang_modules(ours, rows)}
        for layer in LAYERS:
            modules[f"model.layers.{layer}.self_attn.rotary_emb"] = modules["model.layers.1.self_attn.rotary_emb"]
        batch = {
            "input_ids": np.array(TOKENS[rows]), "seq_lens": np.array([rows.stop]),
            "positions": np.arange(rows.start, rows.stop),
        }  # fmt: skip
        modules |= {f"model.forward_batch_info.{name}": values for name, values in batch.items()}
        write_torch(folder / "TP0_PP0_Rank0_pid77" / f"Pass{number:05d}.pt", modules)
        logits = {"logits_processor": ours.values(None, "lm_head")[rows.stop - 1 : rows.stop]}
    write_torch(folder / "TP0_PP0_Rank0_pid77" / f"Pass{len(steps):05d}.pt", logits | sglang_modules(ours, slice(0, 0)))
    return folder


PREFILL_AND_DECODE = (slice(0, 7), *(slice(n, n + 1) for n in range(7, 12)))


def test_sglang_passes_are_joined_to_the_sequence_that_they_are_of(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    dump, out = sglang_passes(qwen2, tmp_path / "dump", PREFILL_AND_DECODE), tmp_path / "out"
    done = aprtui("import", dump, "--out", out, "--model", qwen2.model.path, "--step", "0..6")
    assert done.code == 0, done
    capture = require_same_rows(qwen2, out)
    assert set(capture.files) == expected_nodes(qwen2, *FUSED_AWAY) - {Node(0, "q_post_rope"), Node(0, "k_post_rope")}
    assert capture.tokens == TOKENS


def require_same_rows(ours: Ours, folder: Path) -> Capture:
    """As `require_same`, but of logits there is the last row."""
    capture = Capture.open(folder)
    logits = Node(None, "lm_head")
    assert np.array_equal(capture.values(logits).reshape(-1), ours.values(None, "lm_head")[-1])
    for node in capture.files.keys() - {logits}:
        own = ours.values(node.layer, node.stage)
        assert np.array_equal(capture.values(node).view(np.uint32), own.view(np.uint32)), node
    return capture


def test_replay_judges_a_dump_of_sglang_as_it_is(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    dump = sglang_passes(qwen2, tmp_path / "dump", (slice(0, 12),))
    judged = aprtui("replay", dump, "--model", qwen2.model.path, "--rounding", EXACT)
    assert judged.code == 0 and "read as sglang-passes" in judged.err, judged
    assert aprtui("diff", dump, qwen2.capture.path, "--stage", "ffn_gate,post_attn_residual").code == 0


def test_a_pass_that_begins_in_a_cache_or_holds_two_sequences_is_not_guessed_at(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    dump = sglang_passes(qwen2, tmp_path / "cached", (slice(3, 12),))
    done = aprtui("import", dump, "--out", tmp_path / "out")
    assert done.code == 3 and "begins at position 3" in done.err and done.err.count("\n") == 1
    two = dict(sglang_modules(qwen2, slice(0, 12)))
    double = {name: np.concatenate([values, values]) for name, values in two.items() if isinstance(values, np.ndarray)}
    info = {"input_ids": np.array(TOKENS * 2), "positions": np.array([*range(12)] * 2), "seq_lens": np.array([12, 12])}
    write_torch(
        tmp_path / "two" / "Pass00000.pt", double | {f"model.forward_batch_info.{k}": v for k, v in info.items()}
    )
    done = aprtui("import", tmp_path / "two", "--out", tmp_path / "out")
    assert done.code == 2 and "2 sequences: choose one" in done.err
    assert aprtui("import", tmp_path / "two", "--out", tmp_path / "out", "--sequence", 1).code == 0
    require_same(qwen2, tmp_path / "out")


def test_one_rank_is_taken_and_its_parts_of_wider_stages_are_left_out(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    modules: dict[str, Any] = sglang_modules(qwen2, slice(0, 12))
    for name in list(modules):
        if name.endswith(("qkv_proj", "gate_up_proj", "act_fn", ".attn", "rotary_emb")):
            modules[name] = modules[name][0][:, :32] if isinstance(modules[name], list) else modules[name][:, :32]
    for rank in range(2):
        write_torch(tmp_path / f"TP{rank}_PP0_Rank{rank}_pid{rank}" / "Pass00000.pt", modules)
    done = aprtui("import", tmp_path, "--out", tmp_path / "out", "--model", qwen2.model.path)
    assert done.code == 2 and "the ranks 0, 1: choose one with --rank" in done.err
    done = aprtui("import", tmp_path, "--out", tmp_path / "out", "--model", qwen2.model.path, "--rank", 1)
    assert done.code == 0 and "of another width than the model's (a part of several ranks?): qkv_bias" in done.err
    capture = require_same(qwen2, tmp_path / "out")
    assert {node.stage for node in capture.files} == {
        "embedding", "attn_norm", "attn_out", "post_attn_residual", "ffn_norm", "ffn_out", "post_ffn_residual",
        "final_norm",
    }  # fmt: skip


def sglang_dumper(ours: Ours, folder: Path) -> Path:
    """A file a value, as `non_intrusive_mode="all"` names them; the rotary module is that of layer 0."""

    def files() -> Iterator[tuple[str, int | None, Array]]:
        yield "input_ids", None, np.array(TOKENS)
        yield "positions", None, np.arange(12)
        yield "seq_lens", None, np.array([12])
        for module, value in sglang_modules(ours, slice(0, 12)).items():
            layer = int(module.split(".")[2]) if "layers." in module else None
            name = module.replace("layers.1.self_attn.rotary_emb", "layers.0.self_attn.rotary_emb")
            for number, part in enumerate(value) if isinstance(value, list) else (("", value),):
                yield f"non_intrusive__{name}.output" + (f".{number}" if number != "" else ""), layer, part
        yield "non_intrusive__logits_processor.output.next_token_logits", None, ours.values(None, "lm_head")[-1:]
        yield "my_attn", 1, ours.values(1, "attention")

    for index, (name, layer, values) in enumerate(files(), 1):
        tags = {"step": 0, "rank": 0, "dump_index": index, "name": name, "recompute_status": "disabled"}
        tags |= {} if layer is None else {"layer_id": layer}
        path = folder / "dump_20261129_101010_000001" / ("___".join(f"{k}={v}" for k, v in tags.items()) + ".pt")
        write_torch(path, {"value": values, "meta": {**tags, "world_rank": 0, "world_size": 1}})
    return folder


def test_the_dumper_of_sglang_is_read_by_the_layer_that_called(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    dump, out = sglang_dumper(qwen2, tmp_path / "dumper"), tmp_path / "out"
    done = aprtui("import", dump, "--out", out, "--model", qwen2.model.path)
    assert done.code == 0, done
    capture = require_same_rows(qwen2, out)
    assert set(capture.files) == expected_nodes(qwen2, *FUSED_AWAY) and capture.tokens == TOKENS
    (tmp_path / "map.yaml").write_text('stages: {attention: "my_attn/layer={layer}/step=0"}')
    done = aprtui("import", dump, "--as", "sglang-dumper", "--map", tmp_path / "map.yaml", "--out", out, "--overwrite")
    assert done.code == 0
    require_same(qwen2, out, {Node(1, "attention")})


def transformers_values(ours: Ours) -> Iterator[tuple[str, str, Array]]:
    """Module, whether it takes or gives, and the values, as the leaves of transformers' qwen2 have them."""

    def of(layer: int | None, stage: str) -> Array:
        return ours.values(layer, stage)[None]

    yield "model.embed_tokens", "input", np.array([TOKENS])
    yield "model.embed_tokens", "output", of(0, "embedding")
    for layer in LAYERS:
        block = f"model.layers.{layer}"
        entering = of(layer - 1, "post_ffn_residual") if layer else of(0, "embedding")
        yield f"{block}.input_layernorm", "input", entering
        yield f"{block}.input_layernorm", "output", of(layer, "attn_norm")
        for name, part in zip("qkv", ours.parts(layer, "qkv_bias"), strict=True):
            yield f"{block}.self_attn.{name}_proj", "output", part[None]
        yield f"{block}.self_attn.o_proj", "input", of(layer, "attention")
        yield f"{block}.self_attn.o_proj", "output", of(layer, "attn_out")
        yield f"{block}.post_attention_layernorm", "input", of(layer, "post_attn_residual")
        yield f"{block}.post_attention_layernorm", "output", of(layer, "ffn_norm")
        yield f"{block}.mlp.gate_proj", "output", of(layer, "ffn_gate")
        yield f"{block}.mlp.act_fn", "output", of(layer, "ffn_silu")
        yield f"{block}.mlp.up_proj", "output", of(layer, "ffn_up")
        yield f"{block}.mlp.down_proj", "input", of(layer, "ffn_swigl")
        yield f"{block}.mlp.down_proj", "output", of(layer, "ffn_out")
    yield "model.norm", "input", of(1, "post_ffn_residual")
    yield "model.norm", "output", of(None, "final_norm")
    yield "lm_head", "output", of(None, "lm_head")


NOT_OF_MODULES = ("qkv_matmul", "q_post_rope", "k_post_rope", "attn_scores", "attn_softmax")


def msprobe_dump(ours: Ours, folder: Path) -> Path:
    for module, kind, values in transformers_values(ours):
        name = f"Module.{module}.Qwen2Thing.forward.0.{kind}.0.pt"
        write_torch(folder / "dump_tensor_data" / name, values)
    write_torch(folder / "dump_tensor_data" / "Functional.linear.3.forward.output.0.pt", np.zeros((2, 2), np.float32))
    (folder / "dump.json").write_text(json.dumps({"task": "tensor", "level": "mix", "data": {}}))
    return folder


def test_msprobe_is_read_by_step_and_rank(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    folder = msprobe_dump(qwen2, tmp_path / "dump" / "step0" / "rank")
    for path in (tmp_path / "dump", folder):
        out = tmp_path / f"out-{path.name}"
        done = aprtui("import", path, "--out", out, "--model", qwen2.model.path)
        assert done.code == 0, done
        capture = require_same(qwen2, out, expected_nodes(qwen2, *NOT_OF_MODULES))
        assert capture.tokens == TOKENS


def test_without_a_model_stages_follow_from_modules_but_for_q_k_and_v(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    for module, kind, values in transformers_values(qwen2):
        name = f"Qwen2ForCausalLM.{module}_{'outputs' if kind == 'output' else 'inputs_args_0'}.safetensors"
        kind_of = "I64" if values.dtype == np.int64 else "F32"
        write_safetensors(tmp_path / name, {"data": (kind_of, values.shape, values.tobytes())})
    (tmp_path / "Qwen2ForCausalLM_debug_tree_FULL_TENSORS.json").write_text("{}")
    out = tmp_path / "out"
    done = aprtui("import", tmp_path, "--out", out)
    assert done.code == 0 and "with or without bias? --model tells" in done.err
    require_same(qwen2, out, expected_nodes(qwen2, *NOT_OF_MODULES, "qkv_bias"))


def debugged(model: Model, folder: Path) -> None:
    """What the debugger of transformers writes of a model."""
    torch = importlib.import_module("torch")
    debugging = importlib.import_module("transformers.model_debugging_utils")
    loaded = load(model, DataType.FLOAT32, AttentionKind.EAGER, None).module
    with debugging.model_addition_debugger_context(loaded, debug_path=str(folder), use_repr=False):
        loaded.forward(torch.tensor([TOKENS]))


@pytest.mark.group("transformers")
@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_what_the_debugger_of_transformers_writes_is_what_the_oracle_captures(
    tmp_path: Path, aprtui: Command, architecture: str
) -> None:
    """Held against the capture by hooks of the same model."""
    model = ours(tmp_path, architecture).model
    work = {tmp_path / "theirs": Evaluation(TOKENS, None, len(TOKENS))}
    write_transformers_captures(model, work, TransformersOptions(), no_progress)
    debugged(model, tmp_path / "debug")
    done = aprtui("import", tmp_path / "debug", "--out", tmp_path / "out", "--model", model.path)
    assert done.code == 0, done
    theirs, found = Capture.open(tmp_path / "theirs"), Capture.open(tmp_path / "out")
    assert found.tokens == TOKENS
    in_attention = {"q_post_rope", "k_post_rope", "attn_scores", "attn_softmax"}
    assert set(found.files) == {node for node in theirs.files if node.stage not in in_attention}
    for node in found.files:
        assert np.array_equal(found.values(node).reshape(-1), theirs.values(node).reshape(-1)), node


def test_printed_numbers_of_five_digits_are_refused(tmp_path: Path, aprtui: Command) -> None:
    (tmp_path / "Qwen2ForCausalLM_debug_tree_FULL_TENSORS.json").write_text('{"outputs": {"value": ["1.2345e+00"]}}')
    done = aprtui("import", tmp_path, "--out", tmp_path / "out")
    assert done.code == 3 and "dump again with use_repr=False" in done.err


@pytest.mark.group("msprobe")
@pytest.mark.parametrize("kind", [DataType.FLOAT32, DataType.BFLOAT16])
def test_a_dump_by_the_real_msprobe_is_judged(aprtui: Command, qwen2: Ours, tmp_path: Path, kind: DataType) -> None:
    script = tmp_path / "dump.py"
    script.write_text(MSPROBE)
    for name, factor in (("honest", "1"), ("wrong", "1.05")):  # each in a process of its own: msProbe patches torch
        words = [str(tmp_path / name), str(qwen2.model.path), str(kind), factor, ",".join(map(str, TOKENS))]
        done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    model = ("--model", qwen2.model.path)
    assert aprtui("import", tmp_path / "honest", *model, "--out", tmp_path / "capture").code == 0
    stages = {node.stage for node in Capture.open(tmp_path / "capture").files}
    assert stages >= {"embedding", "qkv_bias", "attention", "ffn_swigl", "post_ffn_residual", "lm_head"}
    assert aprtui("replay", tmp_path / "honest", *model).code == 0
    wrong = aprtui("replay", tmp_path / "wrong", *model, "--json")
    assert wrong.code == 1
    first = json.loads(wrong.out.splitlines()[-1])["first_divergence"]
    assert (first["layer"], first["stage"]) == (1, "ffn_norm")


MSPROBE = """
import json, pathlib, sys, torch
from msprobe.pytorch import PrecisionDebugger
from aprtui.model.model import load_model
from aprtui.oracle.transformers_model import AttentionKind, DataType, load

folder, model, kind, factor, tokens = sys.argv[1:]
module = load(load_model(pathlib.Path(model)), DataType(kind), AttentionKind.EAGER, 1).module
pathlib.Path(folder + ".json").write_text(json.dumps({
    "task": "tensor", "dump_path": folder, "rank": [], "step": [], "level": "L0",
    "tensor": {"scope": [], "list": [], "data_mode": ["forward"]},
}))
debugger = PrecisionDebugger(config_path=folder + ".json")
with torch.no_grad():
    module.model.layers[1].post_attention_layernorm.weight.mul_(float(factor))
    debugger.start(model=module)
    module(torch.tensor([[int(token) for token in tokens.split(",")]]))
    debugger.stop()
    debugger.step()
"""
