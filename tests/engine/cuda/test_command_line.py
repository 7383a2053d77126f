"""The command line with `--backend cuda`, on PyCUDA over the fake driver."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.engine.protocol import Mode
from aprtui.resources import embedded_model, parity_cache
from tests.cli.conftest import Outcome, aprtui  # noqa: F401  # a fixture of tests here too
from tests.model.gguf_files import write_model
from tests.thinning import often

pytestmark = [
    pytest.mark.group("pycuda"),
    pytest.mark.fake_driver(together=True, FAKE_CUDA_MEMORY="90000000"),
    pytest.mark.usefixtures("emulated_kernels"),
]


@pytest.mark.gate
def test_the_command_line_runs_traces_and_replays_on_the_device(
    aprtui: Callable[..., Outcome],  # noqa: F811
    tmp_path: Path,
) -> None:
    run_ = aprtui("run", "--tokens", "1,2,3", "-n", "4", "--backend", "cuda", "--mode", "exact", "--context", "fit")
    assert (run_.code, run_.out) == (0, aprtui("run", "--tokens", "1,2,3", "-n", "4", "--mode", "exact").out)
    for mode in Mode:
        captured = tmp_path / str(mode)
        words = ("--tokens", "1,2,3,4,5", "--decode-from", "3", "--backend", "cuda", "--mode", mode)
        assert aprtui("trace", *words, "--save-tensor-dir", captured).code == 0
        engine = json.loads((captured / "manifest.json").read_text())["engine"]
        assert (engine["backend"], engine["threads"], engine["device"][:15]) == ("cuda", None, "emulated device")
        assert re.fullmatch(r"sm_90, kernels [0-9a-f]{12}, graphs", engine["code_path"])
        assert aprtui("replay", captured, "--model", embedded_model()).code == 0
    faulty = aprtui("run", "-p", "x", "--backend", "cuda", "--inject", "layer=0,stage=ffn_gate,kind=scale")
    assert (faulty.code, faulty.err.splitlines()[-1][:60]) == (
        2, "aprtui: backend cuda: its kernels compute several stages at o"[:60],
    )  # fmt: skip
    full = aprtui("run", "-p", "x", "--backend", "cuda", "--context", "99999")
    assert full.code == 4
    assert "are needed on the device, 90.0 MB are free: use --context" in full.err
    doctor = [json.loads(line) for line in aprtui("doctor", "--json").out.splitlines()]
    (cuda,) = [found for found in doctor if found["what"] == "CUDA"]
    assert (cuda["state"], cuda["found"][:15]) == ("ok", "emulated device")


def test_the_benchmark_measures_and_writes_what_it_printed(
    aprtui: Callable[..., Outcome],  # noqa: F811
    tmp_path: Path,
) -> None:
    peer = tmp_path / "llama-bench"
    build = {"build_commit": "abc", "build_number": 7, "samples_ts": [1.0, 3.0, 2.0]}
    results = [build | {"n_prompt": 6, "n_gen": 0}, build | {"n_prompt": 0, "n_gen": 2}]
    peer.write_text(f"#!/bin/sh\necho '{json.dumps(results)}'\n")
    peer.chmod(0o755)
    sizes = ("--rounds", "1", "--prompt", "6", "--decode", "2", "--soak", "2", "--llama-bench", peer)
    done = aprtui("bench", "gpu", "--shape", "tiny", "--dir", tmp_path, *sizes, "--json", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert (tmp_path / "out").read_text() == done.out
    setting, *figures = [json.loads(line) for line in done.out.splitlines()]
    assert (setting["record"], setting["device"][:15]) == ("setting", "emulated device")
    assert setting["peer"] == "llama.cpp abc (build 7)"
    judged = {figure["against"]: figure["ratio"] for figure in figures if figure["ratio"] is not None}
    assert {"time without taps", "time of greedy choices", "decode, llama.cpp abc (build 7), -fa 0"} <= judged.keys()
    moved = sum(
        figure["what"].count("qkv") + figure["what"].count("gate_up") + figure["what"].count("matvec")
        for figure in figures
    )
    assert moved >= 3
    peer.write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    failed = aprtui("bench", "gpu", "--shape", "tiny", "--dir", tmp_path, *sizes)
    assert (failed.code, failed.err.splitlines()[-1]) == (4, f"aprtui: {peer}: broken: build it for this GPU")


def test_auto_takes_the_processor_for_a_model_with_an_op_that_has_no_kernel_and_names_it(
    aprtui: Callable[..., Outcome],  # noqa: F811
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path / "hybrid.gguf", architecture="qwen35")
    words = ("run", model, "--tokens", "1,2,3", "-n", "2", "--mode", "exact")
    by_auto = aprtui(*words)
    assert (by_auto.code, by_auto.out) == (0, aprtui(*words, "--backend", "cpu").out)
    missing = "qwen35 has layers with a recurrence (op delta_state), for which there are no kernels"
    assert f"backend cpu: {missing}" in by_auto.err
    refused = aprtui(*words, "--backend", "cuda")
    assert (refused.code, refused.err.splitlines()[-1]) == (4, f"aprtui: backend cuda: {missing}: use --backend cpu")


@pytest.mark.parametrize("architecture", often(("gpt-oss", "gemma3", "qwen3moe", "glm4moe"), ("gpt-oss",)))
def test_experts_windows_and_sinks_are_traced_and_replayed_on_the_device(
    aprtui: Callable[..., Outcome],  # noqa: F811
    tmp_path: Path,
    architecture: str,
) -> None:
    model = write_model(tmp_path / "model.gguf", architecture=architecture)
    words = ("--tokens", "1,2,3,4,5", "--decode-from", "3", "--backend", "cuda", "--mode", "q8")
    assert aprtui("trace", model, *words, "--save-tensor-dir", tmp_path / "capture").code == 0
    assert aprtui("replay", tmp_path / "capture", "--model", model).code == 0


def test_auto_takes_the_device_once_it_has_shown_what_it_computes(
    aprtui: Callable[..., Outcome],  # noqa: F811
) -> None:
    for cached in parity_cache().glob("*"):
        cached.unlink()
    words = ("run", "--tokens", "1,2,3", "-n", "3", "--mode", "exact")
    first = aprtui(*words)
    assert (first.code, first.out) == (0, aprtui(*words, "--backend", "cpu").out)
    (why,) = [line for line in first.err.splitlines() if "backend cuda: emulated device" in line]
    assert "of the CPU's at 96 positions" in why and "mode q8 replays" in why
    again = aprtui(*words)
    assert why in again.err and "parity with the CPU" not in again.err, "kept"
    doctor = [json.loads(line) for line in aprtui("doctor", "--json").out.splitlines()]
    (parity,) = [found for found in doctor if found["what"] == "CUDA parity"]
    assert (parity["state"], parity["found"][:11]) == ("ok", "aprtui demo")
