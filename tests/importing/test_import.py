"""From a folder of arrays to a verdict: guessed, mapped, imported, judged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.trace.capture import Capture
from aprtui.trace.export.tensors import MAPPING_FILE
from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome
from tests.importing.dumps import EXACT, TOKENS, Ours, ours, require_same, write_safetensors, write_torch

Command = Callable[..., Outcome]
NAMES = {
    "embedding": "embed_tokens", "attn_norm": "input_layernorm", "attention": "attn_ctx", "attn_out": "o_proj",
    "attn_softmax": "attn_weights", "post_attn_residual": "resid_mid", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "gate_proj", "ffn_up": "up_proj", "ffn_silu": "act_fn", "ffn_out": "down_proj",
    "post_ffn_residual": "hidden_states", "final_norm": "norm", "lm_head": "logits",
}  # fmt: skip


def write_arrays(own: Ours, folder: Path) -> Path:
    """Our capture as somebody would save it from PyTorch: names of modules, heads first, Q, K and V apart."""
    folder.mkdir()
    for node in own.capture.files:
        if node.stage in NAMES:
            where = "" if node.layer is None or node.stage == "embedding" else f"layers.{node.layer}."
            np.save(folder / f"{where}{NAMES[node.stage]}.npy", own.values(node.layer, node.stage)[None])
    for layer in range(2):
        for name, part in zip("qkv", own.parts(layer, "qkv_bias"), strict=True):
            np.save(folder / f"layers.{layer}.{name}_proj.npy", part[None])
        for name in "qk":
            np.save(folder / f"layers.{layer}.{name}_rot.npy", own.heads(layer, f"{name}_post_rope"))
    np.save(folder / "input_ids.npy", np.array([TOKENS]))
    return folder


def test_a_guessed_mapping_gives_the_capture_that_was_saved(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    arrays, mapping, out = write_arrays(qwen2, tmp_path / "arrays"), tmp_path / "map.yaml", tmp_path / "out"
    model = qwen2.model.path
    told = aprtui("import", arrays, "--guess", "--model", model, "--write-map", mapping)
    assert told.code == 0 and told.out == mapping.read_text()
    assert not re.search("likely|doubtful|no known stage", told.out), "the widths of the model fit every name"
    assert 'axes": ["one", "head", "token", "channel"]' in told.out or "head" in told.out
    done = aprtui("import", arrays, "--map", mapping, "--out", out, "--model", model)
    assert done.code == 0 and "of 12 tokens" in done.out and "replay" in done.err
    stages = {*NAMES, "qkv_bias", "q_post_rope", "k_post_rope"}
    capture = require_same(qwen2, out, {node for node in qwen2.capture.files if node.stage in stages})
    assert capture.tokens == TOKENS and capture.token_count == len(TOKENS)
    assert capture.model is not None and capture.model.name == qwen2.model.name


def test_replay_takes_a_mapped_folder_and_names_what_is_wrong_in_it(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    arrays, model = write_arrays(qwen2, tmp_path / "arrays"), qwen2.model.path
    assert aprtui("import", arrays, "--guess", "--model", model, "--write-map", arrays / MAPPING_FILE).code == 0
    honest = aprtui("replay", arrays, "--model", model, "--rounding", EXACT)
    assert honest.code == 0 and "read as mapped" in honest.err
    path = arrays / "layers.1.up_proj.npy"
    values = np.load(path)
    values[0, 4] *= 1.01
    np.save(path, values)
    assert aprtui("diff", arrays, arrays).code == 0
    wrong = aprtui("replay", arrays, "--model", model, "--rounding", EXACT, "--json")
    verdict = json.loads(wrong.out.splitlines()[-1])
    assert wrong.code == 1 and "ffn_up" in json.dumps(verdict)


def test_diff_holds_a_mapped_folder_against_a_capture(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    arrays = write_arrays(qwen2, tmp_path / "arrays")
    aprtui("import", arrays, "--guess", "--model", qwen2.model.path, "--write-map", arrays / MAPPING_FILE)
    missing = ["--allow-missing", "qkv_matmul,attn_scores,ffn_swigl"]
    same = aprtui("diff", qwen2.capture.path, arrays, *missing)
    assert same.code == 0, same
    path = arrays / "layers.0.down_proj.npy"
    np.save(path, np.load(path) * 1.5)
    other = aprtui("diff", qwen2.capture.path, arrays, *missing, "--tolerance", "rel_l2=1e-4")
    assert other.code == 1 and "ffn_out" in other.out


def test_open_shows_a_mapped_folder_for_as_long_as_the_app_runs(
    qwen2: Ours, tmp_path: Path, aprtui: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = write_arrays(qwen2, tmp_path / "arrays")
    aprtui("import", arrays, "--guess", "--model", qwen2.model.path, "--write-map", arrays / MAPPING_FILE)
    seen: list[Path] = []

    def shown(state: object, paths: tuple[Path, ...], ascii_only: bool) -> int:
        seen.extend(paths)
        require_same(qwen2, paths[0])
        return 0

    monkeypatch.setattr("aprtui.cli.open.on_terminal", lambda: True)
    monkeypatch.setattr("aprtui.tui.app.run_app", shown)
    opened = aprtui("open", arrays, qwen2.capture.path)
    assert opened.code == 0 and seen[1] == qwen2.capture.path, opened
    assert seen[0] != arrays and not seen[0].exists()
    assert aprtui("stats", arrays, "--stage", "ffn_up").out.count("ffn_up") == 2


def test_without_a_model_a_guess_says_what_it_cannot_know(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    told = aprtui("import", write_arrays(qwen2, tmp_path / "arrays"), "--guess").out
    assert re.search(r"# qkv_matmul: .*doubtful: .*--model tells", told)
    assert "sure" not in told and told.count("likely") == len(NAMES) + 2


def hidden_states(ours: Ours) -> list[NDArray[np.float32]]:
    """As `output_hidden_states=True` of transformers gives them: what enters the first layer, what leaves each but the
    last one, and what the last norm makes of that."""
    layers = range(ours.model.graph.layers - 1)
    inner = [ours.values(layer, "post_ffn_residual") for layer in layers]
    return [ours.values(0, "embedding"), *inner, ours.values(None, "final_norm")]


def in_one_archive(path: Path, states: list[NDArray[np.float32]]) -> Path:
    arrays: dict[str, Any] = {f"hidden_states_{number}": values for number, values in enumerate(states)}
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def as_a_tuple(path: Path, states: list[NDArray[np.float32]]) -> Path:
    import torch

    torch.save(tuple(torch.from_numpy(values)[None] for values in states), path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def stacked(path: Path, states: list[NDArray[np.float32]]) -> Path:
    np.save(path.with_suffix(".npy"), np.stack(states))
    return path.with_suffix(".npy")


def stacked_in_a_batch(path: Path, states: list[NDArray[np.float32]]) -> Path:
    np.save(path.with_suffix(".npy"), np.stack(states)[:, None])
    return path.with_suffix(".npy")


@pytest.mark.parametrize("saved", [in_one_archive, as_a_tuple, stacked, stacked_in_a_batch])
def test_hidden_states_are_one_more_than_layers_however_they_are_saved(
    tmp_path: Path, aprtui: Command, saved: Callable[[Path, list[NDArray[np.float32]]], Path]
) -> None:
    """Every layer is imported by the mapping that was written, and none is told by the values of another."""
    if saved is as_a_tuple:
        pytest.importorskip("torch")
    own = ours(tmp_path, layers=4)
    source, mapping, out = saved(tmp_path / "states", hidden_states(own)), tmp_path / "map.yaml", tmp_path / "out"
    told = aprtui("import", source, "--guess", "--model", own.model.path, "--write-map", mapping)
    assert re.search("final_norm: .*# likely: .*if the last one is normalised", told.out)
    assert "without a tensor: attn_norm," in told.out
    done = aprtui("import", source, "--map", mapping, "--out", out)
    assert done.code == 0 and done.err.endswith(f"next: aprtui replay {out} --model MODEL\n")
    layers = {Node(layer, "post_ffn_residual") for layer in range(3)}
    require_same(own, out, {Node(0, "embedding"), *layers, Node(None, "final_norm")})


def test_outputs_of_modules_count_once_where_one_gives_what_its_last_part_does(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    """As hooks on all modules of transformers see them."""
    names = {"self_attn.o_proj": "attn_out", "self_attn": "attn_out", "mlp": "ffn_out", "": "post_ffn_residual"}
    arrays: dict[str, Any] = {
        f"model.layers.{layer}.{name}".rstrip("."): qwen2.values(layer, stage)
        for layer in range(2)
        for name, stage in names.items()
    }
    np.savez(tmp_path / "hooks.npz", **arrays)
    mapping, out = tmp_path / "map.yaml", tmp_path / "out"
    source = tmp_path / "hooks.npz"
    told = aprtui("import", source, "--guess", "--model", qwen2.model.path, "--write-map", mapping).out
    assert "model.layers.{layer}.self_attn is the same" in told and "doubtful" not in told
    aprtui("import", source, "--map", mapping, "--out", out)
    require_same(qwen2, out, {Node(layer, stage) for layer in range(2) for stage in names.values()})


def test_hooks_and_hidden_states_in_one_file_count_once(tmp_path: Path, aprtui: Command) -> None:
    own = ours(tmp_path, layers=4)
    arrays: dict[str, Any] = {f"hidden_states.{i}": values for i, values in enumerate(hidden_states(own))}
    arrays |= {f"model.layers.{layer}": own.values(layer, "post_ffn_residual") for layer in range(4)}
    arrays |= {"model.embed_tokens": own.values(0, "embedding"), "model.norm": own.values(None, "final_norm")}
    np.savez(tmp_path / "all.npz", **arrays)
    mapping, out = tmp_path / "map.yaml", tmp_path / "out"
    told = aprtui("import", tmp_path / "all.npz", "--guess", "--model", own.model.path, "--write-map", mapping).out
    assert "hidden_states.{layer} is the same" in told and "doubtful" not in told
    aprtui("import", tmp_path / "all.npz", "--map", mapping, "--out", out)
    layers = {Node(layer, "post_ffn_residual") for layer in range(4)}
    require_same(own, out, {Node(0, "embedding"), *layers, Node(None, "final_norm")})


@pytest.mark.parametrize(("name", "first", "sure"), [("mystery", 0, "likely"), ("key_cache", 1, "doubtful")])
def test_a_stack_of_an_unknown_name_is_not_sure(
    tmp_path: Path, aprtui: Command, name: str, first: int, sure: str
) -> None:
    """One entry more than there are layers is likely to be hidden states; as many entries may be anything."""
    own = ours(tmp_path, layers=4)
    told = aprtui("import", stacked(tmp_path / name, hidden_states(own)[first:]), "--guess", "--model", own.model.path)
    assert f"# {sure}: by its shape alone" in told.out and "sure:" not in told.out


def test_a_proposal_without_a_rule_says_that_none_is_there(tmp_path: Path, aprtui: Command) -> None:
    np.save(tmp_path / "mystery.npy", np.zeros((2, 2), np.float32))
    told = aprtui("import", tmp_path / "mystery.npy", "--guess")
    assert told.code == 0 and "no stage is sure or likely" in told.err


def test_a_mapping_that_fits_nothing_says_what_there_is(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    arrays, mapping = write_arrays(qwen2, tmp_path / "arrays"), tmp_path / "map.yaml"
    mapping.write_text("stages: {attn_norm: 'blocks.{layer}.norm'}")
    told = aprtui("import", arrays, "--map", mapping, "--out", tmp_path / "out")
    assert told.code == 3 and "no tensor is named 'blocks.{layer}.norm'; there are 'embed_tokens'" in told.err


def test_a_name_of_the_wrong_width_is_doubtful(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    arrays = write_arrays(qwen2, tmp_path / "arrays")
    for layer in range(2):
        np.save(arrays / f"layers.{layer}.up_proj.npy", np.zeros((1, 12, 7), np.float32))
    told = aprtui("import", arrays, "--guess", "--model", qwen2.model.path).out
    assert re.search(r"# ffn_up: .*doubtful: .*width 7, the stage has", told)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 2, "either --out DIR, or --guess"),
        (("--guess", "--out", "x"), 2, "either --out DIR, or --guess"),
        (("--out", "x", "--write-map", "y"), 2, "goes with --guess"),
        (("--out", "x", "--as", "tarot"), 2, "no such format: there are mapped"),
        (("--out", "x"), 3, "--guess proposes it"),
        (("--out", "x", "--step", "3..3"), 2, "empty range"),
        (("--out", "x", "--map", "gone.yaml"), 2, "gone.yaml"),
    ],
)
def test_requests_that_make_no_sense_are_refused_in_one_line(
    tmp_path: Path, aprtui: Command, words: tuple[str, ...], code: int, told: str
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2), np.float32))
    done = aprtui("import", tmp_path, *words)
    assert done.code == code and told in done.err and done.err.count("\n") == 1


def test_replay_of_arrays_without_a_mapping_says_how_to_get_one(tmp_path: Path, aprtui: Command) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2), np.float32))
    done = aprtui("replay", tmp_path)
    assert done.code == 3 and "--guess proposes it" in done.err


def test_a_failed_import_leaves_the_capture_that_was_there(qwen2: Ours, tmp_path: Path, aprtui: Command) -> None:
    arrays, out = write_arrays(qwen2, tmp_path / "arrays"), tmp_path / "out"
    mapping = tmp_path / "map.yaml"
    aprtui("import", arrays, "--guess", "--model", qwen2.model.path, "--write-map", mapping)
    aprtui("import", arrays, "--map", mapping, "--out", out)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert aprtui("import", arrays, "--map", mapping, "--out", out).code == 2
    np.save(arrays / "norm.npy", np.zeros((1, 2, 3, 4, 5), np.float32))
    assert aprtui("import", arrays, "--map", mapping, "--out", out, "--overwrite").code == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    require_same(qwen2, out)
    (out / "layer-0" / "notes.txt").write_text("mine")
    (arrays / "norm.npy").unlink()
    done = aprtui("import", arrays, "--map", mapping, "--out", out, "--overwrite")
    assert done.code == 0 and "final_norm: no tensor is named 'norm'" in done.err
    assert (out / "layer-0" / "notes.txt").read_text() == "mine"
    assert Node(None, "final_norm") not in Capture.open(out).files


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "pt"])
def test_nan_keeps_its_payload_from_the_file_to_the_capture(tmp_path: Path, aprtui: Command, suffix: str) -> None:
    bits = np.array([[0x7FC00123, 0xFF800001, 0x80000000], [0x7F800000, 0x00000001, 0x3F800000]], np.uint32)
    values, path = bits.view(np.float32), tmp_path / f"l0.{suffix}"
    match suffix:
        case "npy":
            np.save(path, values)
        case "npz":
            np.savez(path, l0=values)
        case "safetensors":
            write_safetensors(path, {"l0": ("F32", values.shape, values.tobytes())})
        case _:
            write_torch(path, {"l0": values})
    (tmp_path / "map.yaml").write_text('stages: {attn_norm: "l{layer}"}')
    done = aprtui("import", path, "--map", tmp_path / "map.yaml", "--out", tmp_path / "out", "--json")
    assert json.loads(done.out)["stage_tensors"] == 1
    found = Capture.open(tmp_path / "out").values(Node(0, "attn_norm"))
    assert np.array_equal(found.view(np.uint32), bits)


def test_what_a_dump_calls_itself_moves_no_cursor(tmp_path: Path, aprtui: Command) -> None:
    (tmp_path / MAPPING_FILE).write_text(
        'stages: {attn_norm: "l{layer}"}\nmodel: "a\\x1b[2J\\ntokens: [9]"\nengine: "mine"'
    )
    np.save(tmp_path / "l0.npy", np.zeros((3, 4), np.float32))
    assert aprtui("import", tmp_path, "--out", tmp_path / "out").code == 0
    capture = Capture.open(tmp_path / "out")
    assert capture.tokens is None and capture.token_count == 3 and capture.provenance["engine"] == "mine"
    assert "\x1b" not in (tmp_path / "out" / "_PROVENANCE.txt").read_text()
