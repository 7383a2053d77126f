"""The CUDA engine on a real device: what holds on the fake driver holds here, and what only a device can show.

Nothing here resets a device or changes its settings.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Mode
from aprtui.errors import EngineError
from aprtui.resources import embedded_model
from tests.engine.cuda.engine_claims import *  # noqa: F403  # the tests among them run here
from tests.engine.cuda.engine_claims import opened, run
from tests.engine.cuda.test_engine import TRAPPED
from tests.engine.tiny_model import MODELS

pytestmark = pytest.mark.group("gpu")

LONG = [int(token) for token in range(300)]


def aprtui(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aprtui", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def free_memory() -> int:
    """Bytes free on the device while a small engine is open."""
    with opened(MODELS["qwen2"](), context=32) as engine:
        return engine.on_device(lambda device: device.driver.free_memory())


def test_a_run_repeats_to_the_byte() -> None:
    model = MODELS["qwen3"]()
    for mode in Mode:
        with opened(model, mode) as engine:
            first = run(engine).tobytes()
            assert all(run(engine).tobytes() == first for _ in range(3))
        with opened(model, mode) as engine:
            assert run(engine).tobytes() == first


def test_captures_of_the_embedded_model_replay_in_both_modes(tmp_path: Path) -> None:
    for mode, kv in (("exact", "f32"), ("q8", "f32"), ("q8", "f16")):
        capture = tmp_path / f"{mode}-{kv}"
        tokens = ",".join(map(str, LONG))
        words = ("--backend", "cuda", "--mode", mode, "--kv", kv, "--decode-from", "280", "--save-tensor-dir", capture)
        done = aprtui("trace", "--tokens", tokens, *words)
        assert done.returncode == 0, done.stderr
        judged = aprtui("replay", capture, "--model", embedded_model(), "--json")
        summary = json.loads(judged.stdout.splitlines()[-1])
        assert (judged.returncode, summary["verdict"]) == (0, "PASS"), judged.stdout
        manifest = json.loads((capture / "manifest.json").read_text())
        assert manifest["engine"]["code_path"].endswith("graphs")


def test_exact_captures_differ_from_the_cpus_by_last_bits(tmp_path: Path) -> None:
    for backend in ("cpu", "cuda"):
        words = (
            "--backend",
            backend,
            "--mode",
            "exact",
            "--decode-from",
            "280",
            "--save-tensor-dir",
            tmp_path / backend,
        )
        assert aprtui("trace", "--tokens", ",".join(map(str, LONG)), *words).returncode == 0
    done = aprtui("diff", tmp_path / "cpu", tmp_path / "cuda", "--tolerance", "rel_l2=1e-5")
    assert done.returncode == 0, done.stdout


def test_two_engines_take_turns_and_their_memory_comes_back() -> None:
    before = free_memory()
    for _ in range(3):
        with opened(MODELS["qwen2"]()) as one, opened(MODELS["llama"](), Mode.EXACT) as other:
            expected = run(one), run(other)
            assert (run(one).tobytes(), run(other).tobytes()) == tuple(logits.tobytes() for logits in expected)
    assert before - free_memory() <= 4 << 20


def test_what_does_not_fit_is_refused_with_the_numbers_and_harms_nobody() -> None:
    model = MODELS["qwen2"]()
    with opened(model) as other:
        expected = run(other).tobytes()
        with pytest.raises(EngineError, match=r"are needed on the device, .* are free: use --context \d+"):
            open_engine(model, backend="cuda", context=1 << 31)  # type: ignore[arg-type]
        assert run(other).tobytes() == expected
    with closing(open_engine(model, backend="cuda", kv=KvType.F16, context=1 << 16, fit=True)) as engine:  # type: ignore[arg-type]
        assert engine.context == 1 << 16


def test_a_trapping_kernel_ends_a_command_with_one_line_and_the_next_run_is_right() -> None:
    words = ("run", "--tokens", "1,2,3", "-n", "9", "--backend", "cuda")
    before = aprtui(*words)
    trapped = subprocess.run([sys.executable, "-c", TRAPPED], capture_output=True, text=True, check=False)
    assert trapped.returncode == 4
    lines = [line for line in trapped.stderr.splitlines() if "…" not in line]
    assert len(lines) == 1, trapped.stderr
    assert re.fullmatch(r"aprtui: the device failed .*: open the engine again in a new process", lines[0])
    after = aprtui(*words)
    assert (after.returncode, after.stdout) == (0, before.stdout)


@pytest.mark.group("sanitizer")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_the_sanitizer_finds_nothing(tool: str, tmp_path: Path) -> None:
    words = ["-m", "aprtui", "trace", "--tokens", ",".join(map(str, LONG[:40])), "--decode-from", "36", "--mode", "q8"]
    words += ["--backend", "cuda", "--save-tensor-dir", str(tmp_path / "capture")]
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # A copy to the host of more than was written is no fault: what lies between tapped stages is copied with them.
    of_copies = tool == "initcheck" and done.returncode == 9 and "Uninitialized __global__ memory" not in done.stdout
    assert done.returncode == 0 or of_copies, done.stdout[-4000:]


def test_the_benchmark_runs_on_a_small_model(tmp_path: Path) -> None:
    words = ("--shape", "tiny", "--dir", tmp_path, "--rounds", "2", "--prompt", "64", "--decode", "32", "--soak", "200")
    done = aprtui("bench", "gpu", *words, "--json")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert records[0]["record"] == "setting"
    measured = {record.get("what") for record in records}
    assert {"copy on the device", "decode, q8, K/V f16", "prefill, q8, K/V f16", "decode, exact, K/V f32"} <= measured
