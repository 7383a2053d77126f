"""A few wrong channels in an engine of 16 bits: small against a token's rounding, and named all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.align.coverage import Selection
from aprtui.compare.align.pairing import StagePair
from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.report.headline import headline
from aprtui.compare.verdict import StageVerdict, Verdict
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.floors.criteria import criteria_by_model
from aprtui.engine.protocol import Rounding
from aprtui.engine.replay.arithmetic import KnownArithmetic
from aprtui.engine.replay.errors_by_place import ErrorsByPlace
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.engine.replay.value_types import half_step
from aprtui.engine.rounding import ROUND
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Axis
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import TOKENS
from tests.thinning import crossed, often

Array = NDArray[np.float32]
KINDS = {"bfloat16": "bf16", "float16, float32 logits": "f16"}
SHARES = {"bfloat16": 0.1, "float16, float32 logits": 0.0125}


def tail_off(values: Array, share: float) -> Array:
    """The last two channels are off by a share of the root mean square of their token."""
    values = values.copy()
    values[:, -2:] += np.float32(share) * np.sqrt((values**2).mean(1, keepdims=True))
    return values


@pytest.fixture
def written(model: Model, evaluators: Evaluators, tmp_path: Path) -> Callable[..., Capture]:
    def run(
        arithmetic: str, at: Node | None = None, share: float = 0.0, kind: str = "complete",
        fault: Callable[[Array, float], Array] = tail_off,
    ) -> Capture:  # fmt: skip
        def change(node: Node, values: Array) -> Array:
            return ROUND[KINDS[arithmetic]](fault(values, share)) if node == at else values

        tensors = stage_tensors(ARITHMETICS[arithmetic], model, TOKENS, evaluators, change=change)
        return write_kind(CAPTURE_KINDS[kind], tensors, model.graph, TOKENS, tmp_path / f"{kind}-{share}")

    return run


@pytest.mark.parametrize(("arithmetic", "stage"), crossed(SHARES, ["qkv_matmul", "ffn_out", "ffn_norm"]))
def test_channels_that_are_off_are_named_where_their_stage_is_within_its_bound(
    written: Callable[..., Capture], model: Model, evaluators: Evaluators, arithmetic: str, stage: str
) -> None:
    fault = Node(2, stage)
    capture = written(arithmetic, fault, SHARES[arithmetic])
    result = replay_capture(capture, model, ReplayOptions(), evaluators)
    divergence = result.first_divergence
    assert divergence is not None and divergence.verdict.node == fault
    assert divergence.verdict.metric is Metric.PLACE
    width = model.graph[stage].width
    said = headline(result)
    assert said.startswith(f"layer 2 {stage}: channels {width - 2}–{width - 1} are off by ")
    assert said.endswith(f"× what rounding gives there; the {width - 2} other channels are not")


def noise_in(place: tuple[slice, slice]) -> Callable[[Array, float], Array]:
    """A fault: normal noise of a share of the root mean square of each token, in one place."""

    def fault(values: Array, share: float) -> Array:
        values = values.copy()
        size = np.float32(share) * np.sqrt((values**2).mean(1, keepdims=True))
        noise = np.random.default_rng(4).standard_normal(values.shape).astype(np.float32)
        values[place] += (noise * size)[place]
        return values

    return fault


@pytest.mark.parametrize(
    ("stage", "place", "said"),
    [
        ("ffn_gate", (slice(None), slice(64, 96)), "channels 64–95 are off by "),
        ("ffn_norm", (slice(5, 6), slice(None)), "token 5 is off by "),
        ("q_post_rope", (slice(None), slice(64, 128)), "head 1 is off by "),
    ],
)
def test_blocks_tokens_and_heads_are_named_that_are_off_by_less_than_a_channel_must(
    written: Callable[..., Capture], model: Model, evaluators: Evaluators, stage: str, place: tuple[slice, slice],
    said: str,
) -> None:  # fmt: skip
    capture = written("bfloat16", Node(2, stage), 0.0095, fault=noise_in(place))
    result = replay_capture(capture, model, ReplayOptions(), evaluators)
    assert headline(result).startswith(f"layer 2 {stage}: {said}"), headline(result)
    assert result.first_divergence is not None and result.first_divergence.verdict.metric is Metric.PLACE


def test_diff_says_the_same_of_the_side_that_has_them(
    written: Callable[..., Capture], model: Model, evaluators: Evaluators
) -> None:
    fault = Node(2, "ffn_out")
    honest, faulty = written("bfloat16"), written("bfloat16", fault, 0.1)
    criteria = criteria_by_model(honest, faulty, model, TOKENS, evaluators)
    result = compare_captures(honest, faulty, DiffOptions(tokens=TOKENS), None, criteria)
    assert result.first_divergence is not None and result.first_divergence.verdict.node == fault
    assert "injected in B, channels 254–255 are off by" in headline(result)


@pytest.mark.parametrize(
    ("kind", "arithmetic"), crossed(["complete", "last token", "stored in bf16", "no attention maps"], KINDS)
)
def test_no_channel_of_an_honest_engine_stands_out(
    written: Callable[..., Capture], model: Model, evaluators: Evaluators, arithmetic: str, kind: str
) -> None:
    result = replay_capture(written(arithmetic, kind=kind), model, ReplayOptions(), evaluators)
    assert result.verdict is not Verdict.FAIL
    assert all(stage.verdict.metric is not Metric.PLACE for stage in result.stages)


@pytest.mark.parametrize("share", [0.0, 0.15])
@pytest.mark.parametrize("arithmetic", often(["float32", *KINDS], ["float32", "bfloat16"]))
def test_outlier_channels_never_hide_an_error(
    model: Model, evaluators: Evaluators, tmp_path: Path, arithmetic: str, share: float
) -> None:
    """One channel is so much larger than the others, as models have it, that a cosine is 0.9998 where these are off by
    15 %."""
    outlier, fault = Node(2, "ffn_out"), Node(2, "post_ffn_residual")

    def change(node: Node, values: Array) -> Array:
        values = values.copy()
        if node == outlier:
            values[:, 7] = 5000
        if node == fault:
            noise = np.random.default_rng(1).standard_normal(values.shape).astype(np.float32)
            off = np.float32(share) * noise * np.abs(values)
            off[:, 7] = 0
            values += off
        return ROUND[KINDS[arithmetic]](values) if arithmetic in KINDS else values

    honest, changed = {}, {}

    def kept(node: Node, values: Array) -> Array:
        if node == fault:
            honest[node] = values
            changed[node] = change(node, values)
        return change(node, values)

    tensors = stage_tensors(ARITHMETICS[arithmetic], model, TOKENS, evaluators, change=kept)
    a, b = (x[fault].astype(np.float64).ravel() for x in (honest, changed))
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.9998
    capture = write_kind(CAPTURE_KINDS["complete"], tensors, model.graph, TOKENS, tmp_path / "capture")
    options = ReplayOptions(selection=Selection(stages=fault.stage, layers="2"))
    result = replay_capture(capture, model, options, evaluators)
    assert (result.verdict is Verdict.FAIL) == (share > 0), headline(result)
    if (share > 0) and arithmetic == "bfloat16":
        assert "beside 1 channel up to" in headline(result) and "(7), the others of token" in headline(result)


class StoredProduct:
    """A product `node` with weights `table`, whose inputs were stored as `kept` by an engine of 8-bit inputs: what is
    said of results."""

    def __init__(self, model: Model, node: Node, table: Array, kept: Array, known: KnownArithmetic) -> None:
        stages = SimpleNamespace(tokens=TOKENS[: len(kept)], values=lambda source: kept, rows=lambda source: len(kept))
        self.places = ErrorsByPlace(model, stages, known)  # type: ignore[arg-type]
        self.node, self.known = node, known
        self.right = ROUND[known.rounding.matmul_input](kept) @ table.T

    def verdict(self, results: Array) -> Verdict:
        stored = ROUND[self.known.stored](results)
        pair = StagePair(self.node, self.right, stored, (Axis.TOKEN, Axis.CHANNEL), 0, "")
        passed = StageVerdict(self.node, Verdict.PASS, Metric.TOKEN_REL_L2, 0.0, 1.0, 1.0, "")
        return self.places.judged(pair, passed).verdict


@pytest.fixture
def node_and_table(model: Model, monkeypatch: pytest.MonkeyPatch) -> tuple[Node, Array]:
    """A product of the model, and weights of normal numbers that it has instead of its own."""
    node = Node(2, "ffn_out")
    (weight,) = model.params(node)
    table = np.random.default_rng(5).standard_normal((weight.rows, weight.columns), np.float32)
    monkeypatch.setattr(type(weight), "dequantize", lambda self, rows: table[rows])
    return node, table


@pytest.mark.parametrize("settled", [True, False])
def test_a_level_that_storage_has_decided_is_no_wrong_channel(
    model: Model, node_and_table: tuple[Node, Array], settled: bool
) -> None:
    """A value at the border of two levels was stored beyond it: every channel errs by its weight for that value, which
    may be large for one alone. So it is where storage hides whether there are levels."""
    node, table = node_and_table
    table[:, 1] *= 1e-3
    table[7, 1] = 4
    x = ROUND["f16"](np.random.default_rng(6).standard_normal((10, table.shape[1]), np.float32))
    x[4, :32], x[4, 0], x[4, 1] = 0, 127, 60.5  # levels of 1
    kept, level_of = x.copy(), ROUND["q8_1"]
    nearest_level = level_of(kept)[4, 1]
    x[4, 1] = 60.495 if nearest_level == 61 else 60.505
    assert np.array_equal(ROUND["f16"](x), kept) and level_of(x)[4, 1] != nearest_level
    rounding = Rounding("q8_1" if settled else "f16", "f16", "f64")
    known = KnownArithmetic(rounding, stored="f16", alternatives=() if settled else ({"matmul_input": "q8_1"},))
    product = StoredProduct(model, node, table, kept, known)
    assert product.verdict(level_of(x) @ table.T) is Verdict.PASS
    wrong = level_of(x) @ table.T
    wrong[:, 7] += 8
    assert product.verdict(wrong) is Verdict.FAIL


@pytest.mark.parametrize("channels", [1, 32])
def test_levels_of_one_token_are_no_wrong_channel_and_no_wrong_block(
    model: Model, node_and_table: tuple[Node, Array], channels: int
) -> None:
    """Of a single token, a level that storage has decided is all that some channels err by."""
    node, table = node_and_table
    table[:, 1] *= 1e-3
    table[64 : 64 + channels, 1] = 4
    kept = ROUND["f16"](np.random.default_rng(6).standard_normal((1, table.shape[1]), np.float32))
    kept[0, :32], kept[0, 0], kept[0, 1] = 0, 127, 60.5
    x, level_of = kept.copy(), ROUND["q8_1"]
    x[0, 1] = 60.495 if level_of(kept)[0, 1] == 61 else 60.505
    assert level_of(x)[0, 1] != level_of(kept)[0, 1]
    known = KnownArithmetic(Rounding("q8_1", "f16", "f64"), stored="f16")
    product = StoredProduct(model, node, table, kept, known)
    assert product.verdict(level_of(x) @ table.T) is Verdict.PASS


@pytest.mark.parametrize("stored", ["f16", "bf16"])
@pytest.mark.parametrize("kind", ["q8_k", "q8_0", "int8_row", "fp8_row"])
def test_every_level_that_storage_has_decided_is_allowed_for(
    model: Model, node_and_table: tuple[Node, Array], kind: str, stored: str
) -> None:
    """Also where it has moved the scale of a block, and not the value."""
    node, table = node_and_table
    random = np.random.default_rng(3)
    x = random.standard_normal((20, table.shape[1]), np.float32) * np.exp(random.standard_normal(table.shape[1]) / 2)
    x = x.astype(np.float32)
    kept, level_of = ROUND[stored](x), ROUND[kind]
    known = KnownArithmetic(Rounding(kind, "f32", "f64"), stored=stored)
    places = StoredProduct(model, node, table, kept, known).places
    apart = np.abs(level_of(x) - level_of(kept))
    decided = apart > np.abs(kept) * 2.0 ** -(8 if stored == "bf16" else 11) * 4
    assert decided.any()
    allowed = places.moved_levels(model.params(node)[0], kept, shifts=8)
    assert (apart[decided] < 1.5 * allowed[decided]).mean() > 0.995


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_the_steps_of_values_that_are_no_numbers_raise_no_warning(kind: str) -> None:
    values = np.array([[1, np.nan, np.inf, -70000, 0]], np.float32)
    steps = half_step(kind, values)
    assert np.isfinite(steps[0, [0, 3]]).all() and (steps[0, [0, 3]] > 0).all()


@pytest.mark.parametrize("stored", ["f16", "bf16"])
@pytest.mark.parametrize("kind", ["q8_k", "int8_row"])
def test_channels_off_by_a_tenth_stand_out_of_what_levels_that_storage_has_decided_make_of_all(
    model: Model, node_and_table: tuple[Node, Array], kind: str, stored: str
) -> None:
    node, table = node_and_table
    x = np.random.default_rng(3).standard_normal((10, table.shape[1]), np.float32)
    known = KnownArithmetic(Rounding(kind, "f32", "f64"), stored=stored)
    product = StoredProduct(model, node, table, ROUND[stored](x), known)
    honest = ROUND[kind](x) @ table.T
    assert product.verdict(honest) is Verdict.PASS
    assert product.verdict(tail_off(honest, 0.1)) is Verdict.FAIL
