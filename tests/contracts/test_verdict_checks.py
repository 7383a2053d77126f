"""Checks of verdicts: faults that are named, honest runs that are not blamed, and blocks that mean what they must."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks import verdicts
from aprtui.contracts.checks.judgement import Judgement
from aprtui.engine.cpu import matmul
from aprtui.engine.evaluation import false_alarms, fault_detection
from aprtui.engine.evaluation.false_alarms import JudgedCapture
from aprtui.engine.evaluation.fault_detection import Tally
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Engine, Mode
from aprtui.model.model import Model, load_model
from aprtui.resources import embedded_model
from aprtui.trace.capture import Capture
from tests.contracts.captures import judged

# Float16 0.5 and 0.25; scales 1 2 3 4 33 18 51 63 and minimums 0 1 2 3 48 17 34 63, packed; quants of column c are
# (7 c + c // 32) mod 16.
BLOCK = (
    "003800348142c3c4c04182c3011223ff1087fe65dc43ba21980f76ed54cb32a91087fe65dc43ba21980f76ed54cb32a9"
    "32a91087fe65dc43ba21980f76ed54cb32a91087fe65dc43ba21980f76ed54cb54cb32a91087fe65dc43ba21980f76ed"
    "54cb32a91087fe65dc43ba21980f76ed76ed54cb32a91087fe65dc43ba21980f76ed54cb32a91087fe65dc43ba21980f"
)
VALUES = {"0": 0, "1": 3.5, "32": 0.75, "159": 202.5, "223": 374.0, "255": -15.75}


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(embedded_model())


def judge(check: str, model: Model, **parameters: object) -> Judgement:
    return judged(check, None, None, model, **parameters)


# --- detection ---


def test_faults_that_are_named_at_their_stage_pass_with_their_share(model: Model) -> None:
    judgement = judge("detection_rate", model, every=331)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 1, 0.99)
    assert "3 of 3 faults named" in judgement.reason and "one in 331 of the matrix" in judgement.reason


def test_faults_that_are_named_elsewhere_fail(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_detection, "accepted_answers", lambda fault: frozenset())
    judgement = judge("detection_rate", model, every=662, at_least=0.5)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 0, 0.5)
    assert "the first that is missed: " in judgement.reason


def test_no_fault_above_the_bound_is_no_detection(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "run_detection", lambda model, **options: [Tally("nan", "diff", below=3)])
    assert judge("detection_rate", model, signal="diff").verdict is Verdict.UNKNOWN


# --- false alarms ---


@pytest.fixture
def two_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Honest runs of one mode only: the others take seconds."""

    def some(model: Model, tokens: tuple[int, ...], folder: Path) -> Iterator[Capture]:
        yield from islice(false_alarms.own_captures(model, tokens, folder), 2)

    monkeypatch.setattr(verdicts, "own_captures", some)
    monkeypatch.setattr(verdicts, "PROMPT", "def f(n):")


@pytest.mark.usefixtures("two_runs")
@pytest.mark.parametrize("signal", ["replay", "diff"])
def test_honest_runs_that_are_not_blamed_pass(model: Model, signal: str) -> None:
    judgement = judge("false_alarms", model, signal=signal)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 0, 0)


@pytest.mark.usefixtures("two_runs")
def test_a_run_that_is_blamed_fails(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs that the judges take for honest have a fault, so the judges must blame them."""
    honest = open_engine
    fault = parse_fault("layer=1,stage=ffn_up,kind=scale,magnitude=0.5", model)

    def faulty(model: Model, *, mode: Mode, **options: object) -> Engine:
        return honest(model, mode=mode, intervention=FaultInjector(model, mode, [fault]), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(false_alarms, "open_engine", faulty)
    judgement = judge("false_alarms", model)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 2, 0)
    assert "layer 1 ffn_up" in judgement.reason


@pytest.mark.usefixtures("two_runs")
def test_a_run_that_cannot_be_judged_makes_the_whole_unknown(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    doubt = JudgedCapture("q8", "replay", Verdict.UNKNOWN, "no tokens")
    monkeypatch.setattr(verdicts, "judge_replays", lambda *args: [doubt])
    judgement = judge("false_alarms", model)
    assert (judgement.verdict, judgement.reason) == (Verdict.UNKNOWN, "q8 cannot be judged: no tokens")


# --- blocks ---


def test_a_block_that_decodes_to_the_given_values_passes(model: Model) -> None:
    judgement = judge("block_values", model, block=BLOCK, values=VALUES)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 0, 0)
    assert judgement.reason == "6 columns as expected, by the reference and the kernels"


def test_a_value_that_is_another_fails_with_its_column(model: Model) -> None:
    judgement = judge("block_values", model, block=BLOCK, values={**VALUES, "255": -15.5})
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 2, 0)
    assert judgement.reason == "column 255 is -15.75 to the reference, expected -15.5"


def test_kernels_that_decode_as_the_reference_pass(model: Model) -> None:
    judgement = judge("block_decoding", model)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 0, 0)


def test_a_kernel_that_is_one_bit_off_fails(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = matmul.decoded_rows

    def off(weight: object, begin: int, end: int) -> np.ndarray:
        values = honest(weight, begin, end)  # type: ignore[arg-type]
        values[0, 0] = np.nextafter(values[0, 0], np.float32(np.inf))
        return values

    monkeypatch.setattr(matmul, "decoded_rows", off)
    judgement = judge("block_decoding", model)
    assert judgement.verdict is Verdict.FAIL and judgement.number is not None and judgement.number > 0
    assert "blk.0." in judgement.reason


@pytest.mark.parametrize("check", ["block_values", "block_decoding"])
def test_blocks_of_a_type_that_the_model_lacks_are_not_judged(model: Model, check: str) -> None:
    parameters = {"block": BLOCK, "values": VALUES} if check == "block_values" else {}
    judgement = judge(check, model, type="Q5_0", **parameters)
    assert (judgement.verdict, judgement.reason) == (Verdict.UNKNOWN, "the model has no tensor of type Q5_0")


@pytest.mark.parametrize(
    ("check", "parameters", "reason"),
    [
        ("block_values", {"block": "zz", "values": VALUES}, "not hexadecimal"),
        ("block_values", {"block": "00", "values": VALUES}, "1 bytes: a block of the type has 144"),
        ("block_values", {"block": BLOCK}, "expected numbers by column"),
        ("block_values", {"block": BLOCK, "values": {"256": 1}}, "expected numbers by column, 0 … 255"),
        ("block_values", {"block": BLOCK, "values": {"0": "x"}}, "expected numbers by column"),
        ("block_decoding", {"type": "Q9"}, "expected one of F32, F16, "),
        ("detection_rate", {"at_least": 2}, "is no share"),
        ("detection_rate", {"signal": "guess"}, "expected one of replay, diff"),
        ("detection_rate", {"every": 0}, "expected a whole number"),
        ("false_alarms", {"every": 2}, "takes no 'every'"),
    ],
)
def test_a_check_with_a_wrong_parameter_says_so(
    model: Model, check: str, parameters: dict[str, object], reason: str
) -> None:
    judgement = judge(check, model, **parameters)
    assert judgement.verdict is Verdict.UNKNOWN and reason in judgement.reason
