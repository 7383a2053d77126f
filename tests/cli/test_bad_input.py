"""Bad input gives one line that says what, where and what to do, and the right exit code; never a traceback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from aprtui.errors import ExitCode
from aprtui.trace.capture import Capture
from tests.cli.conftest import Outcome
from tests.model.gguf_files import Tensor, model_file

Run = Callable[..., Outcome]


def assert_one_line(outcome: Outcome, code: ExitCode, *parts: str) -> None:
    lines = outcome.err.strip().splitlines()
    assert outcome.code == code, outcome.err
    assert len(lines) == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    for part in parts:
        assert part in lines[0], lines[0]


@pytest.mark.parametrize("command", ["run", "trace"])
def test_file_that_is_no_gguf(aprtui: Run, tmp_path: Path, command: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    assert_one_line(aprtui(command, path, "-p", "x"), ExitCode.UNREADABLE, str(path), "GGUF")
    assert_one_line(aprtui(command, tmp_path / "none.gguf", "-p", "x"), ExitCode.UNREADABLE, "none.gguf")
    assert_one_line(aprtui(command, tmp_path, "-p", "x"), ExitCode.UNREADABLE, str(tmp_path))


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.05, 0.5, 0.99])
def test_truncated_gguf(aprtui: Run, tmp_path: Path, tiny_model: Path, kept: float) -> None:
    content = tiny_model.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: int(len(content) * kept)])
    assert_one_line(aprtui("run", path, "-p", "x"), ExitCode.UNREADABLE, str(path))


@pytest.mark.parametrize("command", ["run", "info", "stats", "trace"])
def test_split_model_with_a_missing_or_cut_part(
    aprtui: Run, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = model_file().write_parts(tmp_path, 3)
    more = ("-p", "x") if command in ("run", "trace") else ()
    data = parts[2].read_bytes()
    parts[2].write_bytes(data[:100])
    assert_one_line(aprtui(command, parts[1], *more), ExitCode.UNREADABLE, f"{parts[2]}: ", "truncated")
    parts[2].unlink()
    assert_one_line(aprtui(command, parts[1], *more), ExitCode.UNREADABLE, f"{parts[1]}: part 2 of 3", parts[2].name)


def test_missing_tensor_is_named(aprtui: Run, tmp_path: Path) -> None:
    file = model_file()
    del file.tensors["blk.1.ffn_up.weight"]
    path = file.write(tmp_path / "model.gguf")
    assert_one_line(aprtui("run", path, "-p", "x"), ExitCode.UNREADABLE, "blk.1.ffn_up.weight")


def test_tensor_that_the_graph_lacks_is_named(aprtui: Run, tmp_path: Path) -> None:
    file = model_file()
    file.tensors["blk.0.attn_output.bias"] = file.tensors["blk.0.attn_norm.weight"]
    path = file.write(tmp_path / "model.gguf")
    assert_one_line(aprtui("run", path, "-p", "x"), ExitCode.UNREADABLE, "blk.0.attn_output.bias")


def test_wrong_tensor_shape_is_named_with_what_was_expected(aprtui: Run, tmp_path: Path) -> None:
    file = model_file()
    whole = file.tensors["blk.0.ffn_down.weight"]
    file.tensors["blk.0.ffn_down.weight"] = Tensor(whole.data[:-1], whole.type)
    path = file.write(tmp_path / "model.gguf")
    assert_one_line(aprtui("run", path, "-p", "x"), ExitCode.UNREADABLE, "blk.0.ffn_down.weight")


def test_unknown_architecture_is_named_with_the_supported_ones(aprtui: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "rwkv7")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert_one_line(aprtui("run", path, "-p", "x"), ExitCode.UNREADABLE, "rwkv7", "qwen2")


def test_unsupported_weight_type_is_named_with_its_tensor(aprtui: Run, tmp_path: Path) -> None:
    file = model_file()
    whole = file.tensors["blk.0.attn_norm.weight"]
    doubled = Tensor(whole.data.repeat(2), gguf.GGMLQuantizationType.F64)
    file.tensors["blk.0.attn_norm.weight"] = doubled
    path = file.write(tmp_path / "model.gguf")
    assert_one_line(aprtui("run", path, "-p", "x"), ExitCode.UNREADABLE, "blk.0.attn_norm.weight", "F64")


def test_missing_tokenizer_matters_only_for_text(aprtui: Run, tmp_path: Path) -> None:
    file = model_file()
    for key in [key for key in file.metadata if key.startswith("tokenizer.")]:
        del file.metadata[key]
    path = file.write(tmp_path / "model.gguf")
    assert_one_line(aprtui("run", path, "-p", "x"), ExitCode.UNREADABLE, "tokenizer")
    by_ids = aprtui("run", path, "--tokens", "1,2", "-n", "2", "--backend", "numpy", "--temp", "0")
    assert by_ids.code == ExitCode.PASS
    assert len(by_ids.out.split()) == 2


@pytest.mark.parametrize("command", ["run", "trace"])
def test_prompt_longer_than_the_context(
    aprtui: Run, tmp_path: Path, tiny_model: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = aprtui(command, tiny_model, "--tokens", "1,2,3,4", "--context", "3", "--backend", "numpy")
    assert_one_line(outcome, ExitCode.USAGE, "4", "3", "--context")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--save-tensor", "attn_nrm"], "attn_nrm"),
        (["--save-tensor", "ffn_gate,,ffn_up"], "empty"),
        (["--save-tensor-layers", "1..1"], "1..1"),
        (["--save-tensor-layers", "7..9"], "7..9"),
        (["--save-tensor-layers", "x"], "x"),
    ],
)
def test_selection_that_selects_nothing(
    aprtui: Run, tmp_path: Path, tiny_model: Path, arguments: list[str], part: str
) -> None:
    outcome = aprtui("trace", tiny_model, "--tokens", "1", "--save-tensor-dir", tmp_path / "c", *arguments)
    assert_one_line(outcome, ExitCode.USAGE, part)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--tokens", "1,x"], "'x'"),
        (["--tokens", "999999"], "999999"),
        (["--tokens", "1", "-p", "x"], "either"),
        ([], "either"),
        (["-p", "<|im_start|>user", "--chat"], "control tokens"),
        (["-p", ""], "no tokens"),
        (["-p", "x", "--temp", "-1"], "temperature"),
        (["-p", "x", "--top-p", "2"], "top"),
        (["--tokens", "9" * 5000], "not a token id"),
        (["--tokens", "1", "--chat"], "--chat is for text"),
        (["--tokens", "1", "-n", "0"], "run --help"),
        (["--nonsense"], "run --help"),
    ],
)
def test_requests_that_make_no_sense(aprtui: Run, tiny_model: Path, arguments: list[str], part: str) -> None:
    assert_one_line(aprtui("run", tiny_model, "--backend", "numpy", *arguments), ExitCode.USAGE, part)


def test_request_that_cannot_be_leaves_a_good_capture_alone(aprtui: Run, tmp_path: Path, tiny_model: Path) -> None:
    base = ["trace", tiny_model, "--tokens", "1,2", "--save-tensor-dir", tmp_path / "c", "--backend", "numpy"]
    assert aprtui(*base).code == ExitCode.PASS
    outcome = aprtui(*base, "--overwrite", "--decode-from", "3")
    assert_one_line(outcome, ExitCode.USAGE, "--decode-from 3", "2 tokens")
    assert Capture.open(tmp_path / "c").complete


def test_context_that_does_not_fit_in_memory(aprtui: Run, tiny_model: Path) -> None:
    outcome = aprtui("run", tiny_model, "--tokens", "1", "--context", 10**12)
    assert_one_line(outcome, ExitCode.ENGINE, "K/V cache", "--context")


def test_full_stdout_is_an_output_failure_and_no_bug(tiny_model: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "aprtui", "run", str(tiny_model), "--tokens", "1", "-n", "1", "--backend", "numpy"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == ExitCode.ENGINE
    assert done.stderr.strip().startswith("aprtui: stdout cannot be written")


def test_directory_in_use_is_refused_without_overwrite(aprtui: Run, tmp_path: Path, tiny_model: Path) -> None:
    base = ["trace", tiny_model, "--tokens", "1,2", "--save-tensor-dir", tmp_path / "c", "--backend", "numpy"]
    assert aprtui(*base).code == ExitCode.PASS
    assert_one_line(aprtui(*base), ExitCode.USAGE, "not empty", "--overwrite")
    assert aprtui(*base, "--overwrite").code == ExitCode.PASS


def test_directory_that_cannot_be_made(aprtui: Run, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = aprtui(
        "trace", tiny_model, "--tokens", "1", "--save-tensor-dir", tmp_path / "file" / "c", "--backend", "numpy"
    )
    assert_one_line(outcome, ExitCode.ENGINE, "cannot be written")


def test_kill_in_the_middle_leaves_a_capture_that_says_so(tmp_path: Path, tiny_model: Path) -> None:
    target = tmp_path / "c"
    tokens = ",".join("1" for _ in range(200))
    process = subprocess.Popen(
        [sys.executable, "-m", "aprtui", "trace", str(tiny_model), "--tokens", tokens, "--decode-from", "1",
         "--backend", "numpy", "--save-tensor-dir", str(target)],
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (target / "manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert Capture.open(target).complete is False


def test_interrupt_is_exit_130() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "aprtui", "run", "--tokens", "1", "-n", "500", "--context", "600", "--backend", "numpy",
         "--json", "--temp", "0"],  # the embedded model goes on for more than ten seconds
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED
    assert err.strip() == "aprtui: interrupted"


def raising(error: Exception) -> Callable[..., None]:
    def broken(*_: object, **__: object) -> None:
        raise error

    return broken


def test_internal_error_names_its_report(aprtui: Run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aprtui.engine.opening.open_engine", raising(RuntimeError("planted")))
    outcome = aprtui("run", tiny_model, "--tokens", "1")
    assert_one_line(outcome, ExitCode.INTERNAL, "planted", "report written to")
    report = Path(outcome.err.strip().rsplit(" ", 1)[1])
    assert "RuntimeError: planted" in report.read_text()
    report.unlink()
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", raising(OSError(errno.EMFILE, "Too many open files")))
    again = aprtui("run", tiny_model, "--tokens", "1")
    assert_one_line(again, ExitCode.INTERNAL, "planted", "no report can be written: [Errno 24] Too many open files")


def test_no_more_files_to_open_is_one_line(aprtui: Run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aprtui.engine.opening.open_engine", raising(OSError(errno.EMFILE, "Too many", "x.bin")))
    outcome = aprtui("run", tiny_model, "--tokens", "1")
    assert_one_line(outcome, ExitCode.ENGINE, "x.bin: too many open files", "ulimit -n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?: see aprtui --help"),
        (["contracts", "chek"], "No such command 'chek'. Did you mean 'check'?: see aprtui contracts --help"),
        (["m.gguf"], "No such command 'm.gguf'. To open a file, use 'open': see aprtui --help"),
        (["xyzzy"], "No such command 'xyzzy': see aprtui --help"),
        (["run", "-p"], "Option '-p' requires an argument: see aprtui run --help"),
        (["run", "--promt", "x"], "No such option '--promt'. Did you mean '--prompt'?: see aprtui run --help"),
    ],
)
def test_what_is_spelt_wrong_is_answered_with_what_was_likely_meant(
    aprtui: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gguf").touch()
    outcome = aprtui(*words)
    assert (outcome.code, outcome.err) == (ExitCode.USAGE, f"aprtui: {said}\n")


def test_a_sweep_that_is_to_write_to_an_address_is_told_how(aprtui: Run) -> None:
    outcome = aprtui("sweep", "plan.yaml", "--out", "s3://bucket/sweep")
    assert_one_line(outcome, ExitCode.USAGE, "s3://bucket/sweep", "--results writes tables to an address")
