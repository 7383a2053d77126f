"""Two recordings side by side: the same meaning in other words passes, another meaning is named on both sides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from aprtui.cli.main import cli
from aprtui.compare.verdict import Verdict
from aprtui.errors import ExitCode, UsageError
from aprtui.progress import no_progress
from aprtui.recordings.alignment.meaning import MeaningComparison, compare_meaning
from aprtui.recordings.alignment.weights import matched_weights
from aprtui.recordings.reading import Recording
from aprtui.recordings.weights import weights_of_recording
from tests.model.gguf_files import ModelFile, Tensor, model_file, write_model
from tests.recordings.made import documented_recorder, edited

TOKENS = ",".join(str(token) for token in np.random.default_rng(3).integers(0, 256, 9))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)


def compared(a: Path, b: Path) -> MeaningComparison:
    left, right = Recording.open(a), Recording.open(b)
    weights = weights_of_recording(left, None), weights_of_recording(right, None)
    return compare_meaning(left, right, *weights, no_progress)


RNG = np.random.default_rng(11)
TABLE, NORM = (RNG.normal(size=shape).astype(np.float32) for shape in ((20, 64), (64,)))
FIRST, SECOND, THIRD = (RNG.normal(size=shape).astype(np.float32) / 8 for shape in ((96, 64), (96, 64), (64, 96)))


def one_layer(folder: Path, *, in_parts: bool = False, epsilon: float = 1e-6, exchanged: bool = False) -> Path:
    """A gated layer, its norm as one op or as four, the gate as one op or as two."""
    recorder = documented_recorder()(folder, [4, 2, 7])
    weights: dict[str, NDArray[Any]] = {"table": TABLE, "norm": NORM, "gate": FIRST, "up": SECOND, "down": THIRD}
    table, norm, gate, up, down = (recorder.array(v.copy(), "weight", n) for n, v in weights.items())
    ids = recorder.array(np.array([4, 2, 7], np.int32), "input")
    x = recorder.op("GET_ROWS", table[ids], table, ids)
    if in_parts:
        squares = recorder.op("SQR", x * x, x)
        mean = recorder.op("MEAN", squares.mean(-1, keepdims=True), squares)
        shifted = recorder.op("SCALE", mean + np.float32(epsilon), mean, scale=1.0, bias=epsilon)
        root = recorder.op("SQRT", np.sqrt(shifted), shifted)
        plain = recorder.op("DIV", x / root, x, root)
    else:
        rms = np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(epsilon))
        plain = recorder.op("RMS_NORM", x / rms, x, epsilon=epsilon)
    normed = recorder.op("MUL", plain * norm, plain, norm, name="ffn_norm-0")
    g = recorder.op("MUL_MAT", normed @ gate.T, gate, normed, name="ffn_gate-0")
    u = recorder.op("MUL_MAT", normed @ up.T, up, normed, name="ffn_up-0")
    g, u = (u, g) if exchanged else (g, u)
    if in_parts:
        active = recorder.op("UNARY", g / (1 + np.exp(-g)), g, function="SILU")
        both = recorder.op("MUL", active * u, active, u)
    else:
        both = recorder.op("GLU", g / (1 + np.exp(-g)) * u, g, u, function="SWIGLU", swapped=0, name="ffn_swiglu-0")
    out = recorder.op("MUL_MAT", both @ down.T, down, both, name="ffn_out-0")
    recorder.op("ADD", out + x, out, x, name="l_out-0")
    recorder.finish("test")
    return folder


def test_another_factoring_of_the_same_passes(tmp_path: Path) -> None:
    found = compared(one_layer(tmp_path / "a"), one_layer(tmp_path / "b", in_parts=True))
    assert found.verdict is Verdict.PASS
    assert (found.products, found.unique, found.weights, found.matched) == (3, 3, 4, 4)
    assert [pin.weight for pin in found.pins] == ["gate", "up", "down", ""]
    assert max(pin.error or 0.0 for pin in found.pins) < 1e-7


@pytest.mark.parametrize("in_parts", [False, True])
def test_an_epsilon_is_named_on_both_sides(tmp_path: Path, in_parts: bool) -> None:
    found = compared(one_layer(tmp_path / "a"), one_layer(tmp_path / "b", in_parts=in_parts, epsilon=1e-3))
    assert found.verdict is Verdict.FAIL
    assert found.deviation is not None
    assert found.deviation.pin.weight == "gate"
    assert found.deviation.a is not None
    assert found.deviation.a.op == "RMS_NORM"
    assert found.deviation.b is not None
    assert found.deviation.b.op == ("SQR" if in_parts else "RMS_NORM"), "A has no value between the ends of its one op"


def test_gate_and_up_exchanged_are_named(tmp_path: Path) -> None:
    found = compared(one_layer(tmp_path / "a"), one_layer(tmp_path / "b", exchanged=True))
    assert found.deviation is not None
    assert found.deviation.pin.weight == "down"
    assert found.deviation.b is not None
    assert str(found.deviation.b.name) == "layer 0 ffn_swigl (ffn_swiglu-0)"


def test_rounding_of_an_engine_is_no_difference_of_meaning(tmp_path: Path) -> None:
    from tests.recordings.made import plant

    one_layer(tmp_path / "b")
    plant(tmp_path / "b", 0, 3, "noise of 1e-4")
    found = compared(one_layer(tmp_path / "a"), tmp_path / "b")
    assert found.verdict is Verdict.PASS
    assert max(pin.numeric or 0.0 for pin in found.pins) > 1e-5


def test_other_tokens_and_other_weights_are_told(tmp_path: Path) -> None:
    a, b = one_layer(tmp_path / "a"), one_layer(tmp_path / "b")
    edited(b, lambda d: d.update(tokens=[1, 2, 3]))
    with pytest.raises(UsageError, match="are of other tokens"):
        compared(a, b)
    edited(b, lambda d: d.update(tokens=[4, 2, 7]))
    edited(b, lambda d: d["graphs"][0].update(position=1))
    with pytest.raises(UsageError, match="are of other passes"):
        compared(a, b)


def test_weights_match_by_value_in_another_type_or_order() -> None:
    random = np.random.default_rng(5)
    a = {"first": random.normal(size=50), "second": random.normal(size=50), "turned": random.normal(size=50)}
    order = random.permutation(50)
    b = {
        "eins": a["first"] * (1 + 0.05 * random.normal(size=50)), "zwei": a["second"].copy(),
        "drei": a["turned"][order], "vier": random.normal(size=50),
    }  # fmt: skip
    columns = {f"a:{name}": 8 for name in a} | {f"b:{name}": 8 for name in b}
    found = {match.a: match for match in matched_weights(a, b, columns)}
    assert {name: match.b for name, match in found.items()} == {"first": "eins", "second": "zwei", "turned": "drei"}
    turned = found["turned"]
    assert np.array_equal(a["turned"][turned.rows_a], b["drei"][turned.rows_b])
    twice = {"one": a["first"], "other": a["first"].copy()}
    assert matched_weights(a, twice, columns | {"b:one": 8, "b:other": 8}) == []


def test_diff_of_recordings_prints_a_verdict(tmp_path: Path) -> None:
    a, b = one_layer(tmp_path / "a"), one_layer(tmp_path / "b", in_parts=True)
    result = run("diff", a, b)
    assert result.return_value == ExitCode.PASS
    assert "3 of 3 products of B to exactly one of A (100.0 %)" in " ".join(result.stdout.split())
    result = run("diff", a, one_layer(tmp_path / "c", epsilon=1e-3), "--json")
    assert result.return_value == ExitCode.DIVERGENCE
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["record"] for record in records] == ["header", *["pair"] * 4, "summary"]
    assert records[-1]["first_divergence"]["in_b"]["op"] == "RMS_NORM"
    assert isinstance(run("diff", a, b, "--stage", "ffn*").exception, UsageError)
    (tmp_path / "capture").mkdir()
    assert "holds no capture" in str(run("diff", a, tmp_path / "capture").exception)


def recorded_by_both(folder: Path, architecture: str) -> tuple[Path, Path]:
    """A small model as transformers and as llama.cpp execute it."""
    model = write_model(folder / "m.gguf", architecture=architecture)
    for engine, options in (("torch", []), ("llamacpp", ["--flash-attention", "on"])):
        result = run(
            "record", engine, model, "--tokens", TOKENS, "--decode-from", "8", "--out", folder / engine, *options
        )
        assert result.exception is None, (result.exception, result.output)
    return folder / "torch", folder / "llamacpp"


@pytest.mark.group("llama_cpp")
@pytest.mark.group("transformers")
@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma3"])
def test_llamacpp_and_transformers_mean_the_same(tmp_path: Path, architecture: str) -> None:
    found = compared(*recorded_by_both(tmp_path, architecture))
    assert found.verdict is Verdict.PASS, (found.reason, found.deviation, found.statements)
    assert found.unique == found.products
    assert found.matched == found.weights


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return recorded_by_both(tmp_path_factory.mktemp("qwen"), "qwen2")


def parameter(op: str, name: str, key: str, value: float) -> Callable[[dict[str, Any]], None]:
    def edit(document: dict[str, Any]) -> None:
        for graph in document["graphs"]:
            for node in graph["nodes"]:
                if node["op"] == op and node.get("name", "").startswith(name):
                    node["params"][key] = value

    return edit


@pytest.mark.group("llama_cpp")
@pytest.mark.group("transformers")
@pytest.mark.parametrize(
    ("edit", "op"),
    [
        (parameter("RMS_NORM", "norm-1", "epsilon", 1e-3), "RMS_NORM"),
        (parameter("ROPE", "Qcur-1", "base", 11000.0), "ROPE"),
        (parameter("FLASH_ATTN_EXT", "", "scale", 0.13), "FLASH_ATTN_EXT"),
    ],
)
def test_what_llamacpp_means_otherwise_is_named(
    qwen: tuple[Path, Path], tmp_path: Path, edit: Callable[[dict[str, Any]], None], op: str
) -> None:
    for name in ("graph.json", "data.bin"):
        (tmp_path / name).write_bytes((qwen[1] / name).read_bytes())
    found = compared(qwen[0], edited(tmp_path, edit))
    assert found.verdict is Verdict.FAIL
    assert found.deviation is not None
    assert found.deviation.b is not None
    assert found.deviation.b.op == op


def gate_and_up(file: ModelFile) -> None:
    names = [f"blk.1.ffn_{part}.weight" for part in ("gate", "up")]
    file.tensors |= dict(zip(names, [file.tensors[name] for name in reversed(names)], strict=True))


def norm_weight(file: ModelFile) -> None:
    tensor = file.tensors["blk.1.attn_norm.weight"]
    values = tensor.data.view(np.float32) * np.float32(1.001)
    file.tensors["blk.1.attn_norm.weight"] = Tensor(values.view(np.uint8), tensor.type)


def rope_base(file: ModelFile) -> None:
    file.metadata[f"{file.architecture}.rope.freq_base"] = 10500.0


@pytest.mark.group("llama_cpp")
@pytest.mark.group("transformers")
@pytest.mark.parametrize(
    ("bug", "stage"), [(gate_and_up, "ffn_swigl"), (norm_weight, "attn_norm"), (rope_base, "q_post_rope")]
)
def test_a_file_that_was_converted_wrong_is_named(
    qwen: tuple[Path, Path], tmp_path: Path, bug: Callable[[ModelFile], None], stage: str
) -> None:
    file = model_file(architecture="qwen2")
    bug(file)
    options = ("--tokens", TOKENS, "--decode-from", "8", "--out", tmp_path / "r")
    assert run("record", "llamacpp", file.write(tmp_path / "m.gguf"), *options).exception is None
    found = compared(qwen[0], tmp_path / "r")
    assert found.verdict is Verdict.FAIL
    assert found.deviation is not None
    assert found.deviation.b is not None
    assert found.deviation.b.name.stage == stage
