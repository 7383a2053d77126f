"""Why a stage errs: the alternative that was planted is proved, with its parameter, and nothing where none was."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.cli.comparison.next_steps import replay_steps
from aprtui.cli.comparison.render import alternative_lines, verdict_lines
from aprtui.compare.align.coverage import Selection
from aprtui.compare.causes import cause_sentence, unexplained, where_words
from aprtui.compare.comparison import Cause, Comparison
from aprtui.compare.explain.focus import at_first_position
from aprtui.compare.report.headline import headline
from aprtui.compare.report.html import render_html
from aprtui.compare.report.records import comparison_records, read_comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.alternatives import attention, keys, norms, positions, results, rows, written
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.matrices import products, weights
from aprtui.engine.evaluation.arithmetics import ARITHMETICS
from aprtui.engine.evaluation.bug_detection import buggy_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.evaluation.planted_causes import PLANTED_CAUSES
from aprtui.engine.evaluation.porting_bugs.bug import Layers, PortingBug
from aprtui.engine.evaluation.porting_bugs.table import PORTING_BUGS
from aprtui.engine.replay.arithmetic import UNROUNDED, KnownArithmetic, Recomputation
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.identify import FoundEngine, IdentifiedCapture
from aprtui.engine.replay.recompute import CapturedStages, Recomputer
from aprtui.engine.replay.replay import ReplayOptions, criteria_by_replay, replay_capture
from aprtui.engine.rounding import round_bf16, round_f16
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Op, Part
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import relative_path
from tests.engine.embedded_captures import TOKENS, edit, evaluators, exact, model, replay
from tests.model.gguf_files import Tensor, model_file

__all__ = ["evaluators", "exact", "model", "replay"]


class Planting:
    """Plants another way of computing a stage into the exact capture, and replays that stage."""

    def __init__(self, model: Model, evaluators: Evaluators, exact: Path, folder: Path) -> None:
        self.model, self.evaluators, self.exact, self.folder = model, evaluators, exact, folder
        shutil.copytree(exact, folder)
        (folder / "manifest.json").unlink()

    def __call__(
        self, node: Node, compute: Callable[[StageCall], Array], known: KnownArithmetic | None = None
    ) -> Comparison:
        stages = CapturedStages(Capture.open(self.exact), self.model, TOKENS)
        recomputer = Recomputer(self.model, stages, Recomputation(self.model, UNROUNDED, self.evaluators))
        count = stages.rows(node)
        first, engine = len(TOKENS) - count, self.evaluators(RopeAngles.F64)
        seen = {captured: stages.values(captured) for captured in stages.capture.files}
        inputs = tuple(recomputer.inputs(node, count))
        call = StageCall(self.model, RopeAngles.F64, engine, seen, node, inputs, TOKENS[first:], first)
        edit(self.folder, node, lambda values: np.asarray(compute(call), np.float32).reshape(values.shape))
        capture = Capture.open(self.folder)
        planted = CapturedStages(capture, self.model, TOKENS, last=len(TOKENS))
        found = IdentifiedCapture(planted, (), FoundEngine(known or KnownArithmetic(), (), own_weights=True))
        chosen = Selection(stages=node.stage, layers=None if node.layer is None else str(node.layer))
        options = ReplayOptions(selection=chosen, tokens=TOKENS)
        return replay_capture(capture, self.model, options, self.evaluators, identified=found)


@pytest.fixture
def plant(model: Model, evaluators: Evaluators, exact: Path, tmp_path: Path) -> Planting:
    return Planting(model, evaluators, exact, tmp_path / "planted")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_searched_for_a_cause_without_a_warning(
    model: Model, evaluators: Evaluators, exact: Path, tmp_path: Path, value: float
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(exact, bad)
    (bad / "manifest.json").unlink()

    def broken(scores: Array) -> Array:
        found = scores.copy()
        found[len(TOKENS) * 3 + 2] = value  # of the first head, query 3 and key 2
        return found

    edit(bad, Node(1, "attn_scores"), broken)
    options = ReplayOptions(selection=Selection(stages="attn_scores,attn_softmax", layers="1"), tokens=TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = replay_capture(Capture.open(bad), model, options, evaluators)
    assert result.verdict is Verdict.FAIL


def the_cause(result: Comparison) -> Cause:
    assert result.verdict is Verdict.FAIL
    (cause,) = result.causes
    return cause


def stale(call: StageCall, row: int) -> Array:
    found = call.honest().copy()
    found[row] = found[row - 1]
    return found


def other_bits(call: StageCall) -> NDArray[np.float64]:
    (weight,) = call.model.params(call.node)
    bits = (weight.dequantize().reshape(-1).view(np.uint32) >> 16).astype(np.uint16)
    return bits.view(np.float16).astype(np.float64)


def estimated_root(call: StageCall) -> Array:
    """Roots of eight bits."""
    x = call.x.astype(np.float64)
    root = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + call.model.config.norm_epsilon)
    mantissa, exponent = np.frexp(root)
    return rows.weighted(call, x * np.ldexp(np.round(mantissa * 256) / 256, exponent))


def with_one(call: StageCall, token: int, channel: int, factor: float) -> Array:
    found = call.honest().copy()
    found[token, channel] *= np.float32(factor)
    return found


def with_flipped_bit(call: StageCall, token: int, channel: int, bit: int) -> Array:
    found = call.honest().copy()
    found.view(np.uint32)[token, channel] ^= np.uint32(1 << bit)
    return found


def blind(call: StageCall) -> Array:
    """The first query sees no key, so its only probability, which would be 1, is NaN."""
    found = call.honest().copy()
    found[:, 0, 0] = np.nan
    return found


def seeing(call: StageCall, sees: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]) -> Array:
    at = np.arange(call.x.shape[2])
    return keys._softmax(call.x.astype(np.float64), sees(at[:, None], at))


def with_slopes(call: StageCall) -> Array:
    heads, count, total = call.x.shape
    slopes = 2.0 ** (-8 * np.arange(1, heads + 1) / heads)
    distances = np.arange(count)[:, None] - np.arange(total)
    return keys._softmax(call.x - slopes[:, None, None] * distances, distances >= 0)


def a_slot_early(call: StageCall, first: int) -> Array:
    """From token `first` on, the slots behind the fourth hold the token behind."""
    source = np.tile(np.arange(len(TOKENS)), (len(TOKENS), 1))
    for row in range(first, len(TOKENS)):
        source[row, 4:row] += 1
    return keys._from_slots(source, call)


def turned_at(call: StageCall, places: Mapping[int, int]) -> Array:
    """Some tokens as at another position."""
    at = np.array([places.get(n, n) for n in range(len(call.x))])
    return positions.rotated(call, at[:, None] * positions.angles_at(call, 1))


def planted(name: str) -> Callable[[StageCall], Array]:
    return PLANTED_CAUSES[name].bug.compute


PLANTED: dict[str, tuple[str, Callable[[StageCall], Array], str]] = {
    "base": ("q_post_rope", lambda c: positions.turned(c, theta=123456.0), "theta 123456, the model says 10000"),
    "offset": ("k_post_rope", lambda c: c.honest(shift=3), "off by +3"),
    "offset back": ("k_post_rope", lambda c: positions.moved(c, -3), "off by -3: the first token is turned 3 earlier"),
    "scale": ("q_post_rope", lambda c: positions.turned(c, scale=4.0), "divided by 4, the model says 1"),
    "width": ("k_post_rope", positions.half_of_the_head, "32 of 64 channels"),
    "epsilon": ("attn_norm", lambda c: c.with_config(norm_epsilon=2.5e-4), "epsilon 0.00025, the model says 1e-06"),
    "no weight": ("ffn_norm", rows.norm_weight_left_out, "the weight is left out"),
    "other weight": ("attn_norm", lambda c: c.honest(node=Node(3, "ffn_norm")), "weight of ffn_norm of layer 3"),
    "squares of some": ("ffn_norm", lambda c: norms._with_sum(slice(0, 192), 256, c), "first 192 channels of 256"),
    "last squares": (
        "ffn_norm",
        lambda c: norms._with_sum(slice(64, 256), 192, c),
        "last 192 channels of 256 are squared",
    ),
    "one less": ("attn_norm", lambda c: norms._with_sum(slice(0, 256), 255, c), "divided by 255, the width is 256"),
    "norm twice": ("ffn_norm", lambda c: c.honest(c.honest()), "normalised twice"),
    "norm rounded": ("attn_norm", lambda c: norms._rounded("bf16", c), "rounded to bfloat16 before the weight"),
    "bits": ("ffn_norm", lambda c: norms._by_weight(other_bits(c), c), "the weight's bfloat16 is read as float16"),
    "roots": ("attn_norm", estimated_root, "the root that each token is divided by is off by up to"),
    "a weight": (
        "ffn_norm",
        lambda c: c.honest() * np.linspace(1, 2, 256, dtype=np.float32),
        "none of the model's norms: 1 … 2",
    ),
    "a token's position": ("q_post_rope", lambda c: turned_at(c, {4: 9}), "token 4 is turned as of position 9"),
    "a query that sees no key": ("attn_softmax", blind, "token 0 sees no key, not even its own"),
    "tokens that are not turned": (
        "k_post_rope", lambda c: turned_at(c, {10: 0, 11: 0, 12: 0}), "tokens 10–12 are not turned: as of position 0"
    ),
    "a chunk": (
        "k_post_rope",
        lambda c: turned_at(c, {n: n - 4 for n in range(4, len(TOKENS))}),
        "turned as of positions 0–",
    ),
    "bias of values": ("qkv_bias", rows.bias_of_keys_left_out, "the bias is left out for keys"),
    "scores": ("attn_scores", lambda c: c.honest() * np.float32(8 / 256**0.5), "scaled by 0.0625 (1/√hidden size)"),
    "window": ("attn_softmax", attention.windowed, "a window of 4 positions"),
    "groups": ("attention", attention.group_by_remainder, "h mod 2, in place of h div 2 (4 query heads, 2 K/V heads)"),
    "a head map": (
        "attention",
        lambda c: keys._with_heads(np.array([0, 1, 1, 1]), c),
        "query head 1 meets K/V head 1, of 2",
    ),
    "a map of scores": (
        "attn_scores",
        lambda c: keys._with_heads(np.array([0, 0, 0, 1]), c),
        "head 2 meets K/V head 0",
    ),
    "slots": ("attn_scores", lambda c: a_slot_early(c, 7), "find in slots 4–"),
    "chunks": ("attn_softmax", lambda c: seeing(c, lambda q, k: (k >= q // 4 * 4) & (k <= q)), "begins at token 4, 8"),
    "hidden keys": (
        "attn_softmax",
        lambda c: seeing(c, lambda q, k: (k <= q) & ((k != 2) | (q < 6))),
        "keys 2 are hidden from tokens 6–",
    ),
    "prefix": ("attn_softmax", lambda c: keys._with_prefix(5, c), "the first 5 tokens see one another"),
    "finite mask": ("attn_softmax", lambda c: keys._added(-12.5, c), "-12.5 is added to the scores of hidden keys"),
    "score 0": ("attn_softmax", lambda c: keys._replaced(0.0, c), "hidden keys have the score 0, in place"),
    "ALiBi": ("attn_softmax", with_slopes, "ALiBi's slopes"),
    "blocks": ("attn_softmax", lambda c: keys._in_blocks(4, c), "blocks of 4 keys are not rescaled"),
    "values' type": ("attention", lambda c: keys._with_type("e4m3", c), "values are kept in FP8 (e4m3)"),
    "raw scores": ("attn_scores", lambda c: keys._in_float16(True, c), "products are float16 before they are scaled"),
    "a sign bit": ("ffn_gate", lambda c: with_one(c, 4, 100, -1.0), "channel 100 of token 4 has the other sign"),
    "an exponent's bit": (
        "ffn_up",
        lambda c: with_flipped_bit(c, 2, 7, 26),
        "one bit of its exponent is flipped",
    ),
    "stale channels": (
        "ffn_up",
        lambda c: written._of_token_before(np.arange(704, 768), c),
        "channels 704–767, the last of them, have",
    ),
    "less the largest": (
        "lm_head",
        lambda c: c.honest() - c.honest().max(-1, keepdims=True),
        "the largest logit of each token",
    ),
    "next ids": ("embedding", lambda c: written._with_ids(1, c), "each token has the row behind its own"),
    "rows in turn": (
        "ffn_gate",
        lambda c: weights._with_rows(np.arange(0, 1536, 2), c),
        "one behind the other, are taken in steps of 2",
    ),
    "rows of up": (
        "ffn_gate",
        lambda c: weights._with_rows(np.r_[0:700, 768:836], c),
        "68 rows of 768 are rows of another of ffn_gate and ffn_up",
    ),
    "an offset": ("ffn_up", lambda c: weights._from_column(64, c), "rows are read 64 columns late"),
    "an offset before": ("ffn_up", lambda c: weights._from_column(-32, c), "rows are read 32 columns early"),
    "four bits": ("ffn_out", lambda c: weights._in_type("int4_32", c), "weights in int4, a scale a block of 32"),
    "float16": (
        "ffn_out",
        lambda c: round_f16(weights._in_type("f16", c, inputs="f16") * np.float32(1 + 1e-7)),
        "weights, inputs and results are float16",
    ),
    "a sum": (
        "ffn_norm",
        lambda c: c.honest(c.x + c.layer_input(1)),
        "reads the sum of post_attn_residual and post_ffn_residual of layer 0",
    ),
    "far before": (
        "final_norm",
        lambda c: c.honest(c.layer_input(2)),
        "reads post_ffn_residual of layer 1 in place of",
    ),
    "float16 at a scale": (
        "ffn_out",
        lambda c: written._in_scaled_float16(np.float32(65504 / 2.5), c),
        "results are float16 numbers at a scale: beyond 2.5 they are Inf",
    ),
    "written over": (
        "ffn_silu",
        lambda c: c.seen[Node(1, "ffn_swigl")],
        "the values are those of ffn_swigl, which comes behind it",
    ),
    "softcap of none": ("attn_softmax", lambda c: keys._capped(20.0, c), "scores are softcapped at 20"),
    "of both": (
        "ffn_silu",
        lambda c: c.honest(c.x * c.before("ffn_up")),
        "the activation is of gate · up, in place of the gate alone",
    ),
    "leaks": (
        "ffn_silu",
        lambda c: np.where(c.x < 0, np.float32(0.02) * c.x, c.x),
        "a leaky ReLU, with 0.02 below zero",
    ),
    "a table": ("ffn_silu", lambda c: round_bf16(c.honest(round_bf16(c.x))), "a table of bfloat16 numbers"),
    "wiring": ("attention", lambda c: c.honest(c.x, c.before("k_post_rope")), "reads k_post_rope in place of values"),
    "activation": ("ffn_silu", rows.gelu_for_silu, "the activation is GELU by tanh"),
    "up": ("ffn_swigl", lambda c: c.x, "the gate is not multiplied by up"),
    "residual": ("post_attn_residual", rows.second_input, "is not added"),
    "matrix": ("ffn_up", lambda c: c.honest(node=Node(2, "ffn_gate")), "weights of ffn_gate of the next layer"),
    "tail": ("ffn_out", products.tail_left_out, "the last 32 inputs of 768 are not summed"),
    "sign": ("ffn_gate", products.block_negated, "columns 0–31 in 32 rows (0–31) are multiplied by -1"),
    "zeros": ("ffn_up", products.last_channels_zero, "channels 760–767, the last are zero"),
    "a stale row": ("ffn_norm", lambda c: stale(c, 4), "token 4 has the values of the one before"),
    "maps": ("attn_scores", lambda c: c.honest()[[1, 0, 2, 3]], "heads are in the order [1, 0, 2, 3]"),
    "stale": ("ffn_gate", products.last_row_stale, "the last token has the values of the one before"),
    "tables": ("q_post_rope", planted("tables of RoPE in bfloat16"), "cosines and sines are kept in bfloat16"),
    "any width": ("k_post_rope", planted("24 channels of a head turned"), "24 of 64 channels"),
    "heads of the input": ("attn_out", planted("heads joined in reverse"), "in the order [3, 2, 1, 0]"),
    "order of the input": ("ffn_gate", planted("input shifted by a channel"), "shifted by 1 channel up"),
    "block of inputs": ("ffn_up", planted("a block of inputs left out"), "inputs 64–95 of 256 are not summed"),
    "upper bits": ("ffn_gate", planted("upper bits of scales left out"), "the upper bits of the later sub-blocks"),
    "16-bit sums": ("attn_out", planted("sums in f16, 32 terms"), "rounded to float16 after every 32 terms"),
    "softcap": ("attn_scores", planted("scores capped at 3"), "a softcap of 3, the model says none"),
    "sum": ("attn_softmax", planted("sum of the softmax without the own key"), "lacks its own key"),
    "NaN of the mask": ("attention", planted("mask: own key unseen, NaN"), "which sees none, is NaN"),
    "swish": ("ffn_silu", planted("x · sigmoid(1.5 x)"), "x · sigmoid(1.5 x)"),
    "product": ("ffn_swigl", planted("activation of the product"), "of gate · up"),
    "minus": ("post_ffn_residual", planted("block's output subtracted"), "ffn_out is subtracted"),
    "overflow": ("ffn_silu", planted("NaN by overflow"), "are NaN: an overflow"),
    "sign of a part": ("qkv_matmul", planted("sign of a part"), "channels 64–127 are of the other sign"),
    "another's part": ("ffn_gate", planted("a part of the layer before"), "what ffn_gate of the layer before"),
    "tokens": ("ffn_norm", planted("two tokens exchanged"), "token 1 has the values of token 4"),
    "a vector": ("ffn_up", planted("a bias that nothing has"), "one vector is added at every token"),
    "two of a rotation": (
        "q_post_rope", planted("theta 500000 and positions off by 2"),
        "theta 500000, the model says 10000; and positions are off by +2",
    ),
    "norm in bfloat16": (
        "ffn_norm", partial(rows.in_16_bits, "bf16", None), "computed in bfloat16 throughout, but for the weight",
    ),
    "two of a norm": (
        "attn_norm", planted("norm: weight left out and epsilon 3e-3"),
        "the weight is left out; and computed with epsilon 0.003",
    ),
    "two of a product": (
        "ffn_gate", planted("wiring and a tail left out"),
        "reads attn_norm in place of ffn_norm; and the last 32 inputs of 256 are not summed",
    ),
}  # fmt: skip
"""The stage, how it is computed, and what the cause is to say."""


@pytest.mark.parametrize("name", PLANTED)
def test_what_was_planted_is_proved_with_its_parameter(name: str, plant: Planting) -> None:
    stage, compute, words = PLANTED[name]
    node = Node({"embedding": 0, "final_norm": None, "lm_head": None}.get(stage, 1), stage)
    cause = the_cause(plant(node, compute))
    assert words in cause.words, cause
    assert cause.nodes == (node,)
    assert cause.residue <= cause.bound < cause.error


def test_a_stage_that_no_alternative_explains_has_no_cause_but_a_nearest(plant: Planting) -> None:
    noise = np.random.default_rng(0)
    result = plant(Node(1, "ffn_norm"), lambda c: c.honest() + noise.normal(0, 0.1, c.x.shape).astype(np.float32))
    assert result.verdict is Verdict.FAIL and not result.causes
    assert result.alternatives and not any(tried.is_proved for tried in result.alternatives)
    residues = [tried.residue for tried in result.alternatives]
    assert residues == sorted(residues)


def test_a_stage_is_not_put_together_from_what_was_computed_of_it(plant: Planting) -> None:
    """A sum less its other term is the stage itself, whatever was computed there."""
    node = Node(1, "attn_out")
    noise = np.random.default_rng(0)

    def wrong(call: StageCall) -> Array:
        found = call.honest() + noise.normal(0, 0.1, call.x.shape).astype(np.float32)
        residual = call.layer_input(1)
        edit(plant.folder, Node(1, "post_attn_residual"), lambda values: (found + residual).reshape(values.shape))
        return found

    assert not plant(node, wrong).causes


@pytest.mark.parametrize("stage", ["ffn_norm", "ffn_up"])
def test_values_that_are_no_numbers_stop_no_alternative(stage: str, plant: Planting) -> None:
    with np.errstate(invalid="ignore"):
        result = plant(Node(1, stage), lambda c: with_one(c, 4, 100, np.inf))
    assert result.verdict is Verdict.FAIL and result.alternatives


def test_one_wrong_value_proves_no_number_that_is_solved_for(plant: Planting) -> None:
    """A limit that a single value shows could be anything that happened to that value."""

    def clipped(call: StageCall) -> Array:
        found = call.honest().copy()
        largest = np.unravel_index(np.abs(found).argmax(), found.shape)
        found[largest] /= 2
        return found

    assert not plant(Node(1, "ffn_up"), clipped).causes


def test_an_honest_capture_has_no_cause(exact: Path, replay: Callable[..., Comparison]) -> None:
    result = replay(exact)
    assert result.verdict is Verdict.PASS and not result.causes and not result.alternatives


@pytest.fixture(scope="module")
def exchanged(model: Model, evaluators: Evaluators, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A wrong base in all layers and a residual that is left out in one."""
    base = PORTING_BUGS["RoPE base of another model"]
    residual = PORTING_BUGS["attention: residual left out"]
    at = residual.nodes(model)

    def both(call: StageCall) -> Array:
        return residual.compute(call) if call.node in at else base.compute(call)

    bug = replace(base, compute=both, at=(*base.at, "post_attn_residual"), applies=lambda m, n: n in at or n in roped)
    roped = base.nodes(model)
    tensors = buggy_tensors(bug, ARITHMETICS["float32"], model, TOKENS, evaluators)
    folder = tmp_path_factory.mktemp("causes") / "capture"
    capture = write_kind(CAPTURE_KINDS["complete"], tensors, model.graph, TOKENS, folder)
    return replay_capture(capture, model, ReplayOptions(), evaluators)


def test_two_bugs_of_a_capture_are_both_explained_and_one_of_all_layers_is_said_once(exchanged: Comparison) -> None:
    base, residual = exchanged.causes
    assert where_words(base) == "every layer q_post_rope and k_post_rope"
    assert base.words == "computed with theta 500000, the model says 10000"
    assert where_words(residual) == "layer 2 post_attn_residual" and "is not added" in residual.words


def test_the_headline_says_the_cause_and_names_the_others(exchanged: Comparison) -> None:
    text = headline(exchanged)
    assert text.startswith(cause_sentence(exchanged.causes[0]))
    assert "besides, layer 2 post_attn_residual" in text


def test_causes_survive_their_records_and_stand_in_the_page(exchanged: Comparison) -> None:
    records = list(comparison_records("a", "b", None, exchanged))
    read = read_comparison(records)
    assert read.causes == exchanged.causes and read.alternatives == exchanged.alternatives
    page = render_html(records)
    assert "theta 500000" in page and "alternatives tried" in page


OPEN = KnownArithmetic(open_ops=frozenset({Op.SCORES, Op.ATTEND}))


def test_a_fault_that_may_be_an_unknown_rounding_fails_once_it_is_proved(plant: Planting) -> None:
    """Values without a bias, in all layers, hide what is rounded: nothing but a proof can blame them."""
    result = plant(Node(1, "attention"), lambda c: c.honest(c.x, c.before("qkv_matmul", Part.V)), OPEN)
    assert "reads values of qkv_matmul in place of values of qkv_bias" in the_cause(result).words


def test_what_an_engine_may_mean_fails_nothing_that_was_unknown(plant: Planting) -> None:
    result = plant(Node(1, "attention"), lambda c: round_bf16(c.honest()), OPEN)
    assert result.verdict is not Verdict.FAIL


def test_logits_in_another_place_are_told_from_one_row(plant: Planting) -> None:
    cause = the_cause(plant(Node(None, "lm_head"), lambda c: np.roll(c.honest(), 1, 1)))
    assert cause.words == "each channel has the value of 1 channel before"


def test_a_comparison_of_two_says_whose_cause_it_is(exchanged: Comparison) -> None:
    criteria = criteria_by_replay(None, exchanged)
    assert [cause.side for cause in criteria.causes] == ["B", "B"]
    assert cause_sentence(criteria.causes[0]).startswith("B: every layer")
    assert criteria.alternatives == tuple(replace(one, side="B") for one in exchanged.alternatives)


def test_the_text_has_the_cause_and_what_to_do(exchanged: Comparison) -> None:
    lines = " ".join(" ".join(verdict_lines(exchanged, ())).split())
    assert "cause every layer q_post_rope and k_post_rope: computed with theta 500000" in lines
    assert f"do {exchanged.causes[0].advice}" in lines


def noise(call: StageCall) -> Array:
    return call.honest() + np.random.default_rng(0).normal(0, 0.1, call.x.shape).astype(np.float32)


def test_the_text_names_the_nearest_where_nothing_is_proved(plant: Planting) -> None:
    result = plant(Node(1, "ffn_norm"), noise)
    lines = " ".join(" ".join(verdict_lines(result, ())).split())
    assert f"none of {len(result.alternatives)} alternatives reproduces layer 1 ffn_norm; the nearest: " in lines
    assert "(leaves 0.1" in lines and ": more than honest engines leave, 2e-06)" in lines


def test_each_alternative_that_was_tried_is_refuted_with_a_reason_or_proved(plant: Planting) -> None:
    result = plant(Node(1, "ffn_norm"), rows.norm_weight_left_out)
    proved = [one for one in result.alternatives if one.is_proved]
    assert [one.name for one in proved][:1] == ["norm weight left out"]
    refuted = [one.refuted for one in result.alternatives if not one.is_proved]
    assert any(reason.startswith("more than honest engines leave") for reason in refuted)
    lines = " ".join(" ".join(alternative_lines(result)).split())
    assert "tried layer 1 ffn_norm: the weight is left out; leaves" in lines
    assert ", proved" in lines and "refuted: more than honest" in lines


def test_every_stage_that_fails_without_a_cause_is_said(
    exact: Path, tmp_path: Path, replay: Callable[..., Comparison]
) -> None:
    """Two bugs, one of which nothing reproduces: neither hides the other."""
    folder = tmp_path / "two"
    shutil.copytree(exact, folder)
    (folder / "manifest.json").unlink()
    edit(folder, Node(1, "ffn_up"), lambda values: values * np.float32(1.25))
    random = np.random.default_rng(0)
    edit(folder, Node(None, "lm_head"), lambda values: values + random.normal(0, 1, values.shape).astype(np.float32))
    result = replay(folder, tokens=TOKENS)
    assert result.causes[0].nodes == (Node(1, "ffn_up"),)
    assert unexplained(result) == (Node(None, "lm_head"),)
    assert headline(result).endswith("; besides, nothing that was tried reproduces lm_head")
    assert {one.at for one in result.alternatives} >= {Node(1, "ffn_up"), Node(None, "lm_head")}


def test_a_fault_that_nothing_explains_hides_no_cause_behind_it(
    exact: Path, tmp_path: Path, replay: Callable[..., Comparison]
) -> None:
    folder = tmp_path / "two"
    shutil.copytree(exact, folder)
    (folder / "manifest.json").unlink()
    random = np.random.default_rng(0)
    edit(folder, Node(1, "ffn_norm"), lambda values: values + random.normal(0, 0.1, values.shape).astype(np.float32))
    edit(folder, Node(None, "lm_head"), lambda values: values * np.float32(1.25))
    said = headline(replay(folder, tokens=TOKENS))
    assert said.startswith("layer 1 ffn_norm") and "besides, lm_head: multiplied by 1.25" in said


IN_BETWEEN = ("qkv_bias", "q_post_rope", "k_post_rope", "attn_scores", "attn_softmax", "attention", "attn_out")


def test_a_wrong_first_position_exonerates_queries_keys_scores_and_mask(model: Model) -> None:
    """Attention returns V[0] there."""
    segment = [Node(1, stage) for stage in IN_BETWEEN]
    left = at_first_position(model.graph, segment[-1], segment)
    assert [node.stage for node in left] == ["qkv_bias", "attention", "attn_out"]


@pytest.fixture(scope="module")
def parts(exact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layer outputs and the stages that attention gives, of the exact capture."""
    folder = tmp_path_factory.mktemp("parts") / "capture"
    shutil.copytree(exact, folder)
    (folder / "manifest.json").unlink()
    held = ("embedding", "qkv_matmul", "attn_out", "post_ffn_residual", "lm_head")
    for node in Capture.open(folder).files:
        if node.stage not in held:
            (folder / relative_path(node)).unlink()
    return folder


def replayed_parts(parts: Path, model: Model, evaluators: Evaluators, stage: str) -> Comparison:
    capture = Capture.open(parts)
    stages = CapturedStages(capture, model, TOKENS, last=len(TOKENS))
    found = IdentifiedCapture(stages, (), FoundEngine(KnownArithmetic(), (), own_weights=True))
    options = ReplayOptions(selection=Selection(stages=stage, layers="2"), tokens=TOKENS)
    return replay_capture(capture, model, options, evaluators, identified=found)


@pytest.mark.parametrize(("first", "blamed"), [(0, False), (1, True)])
def test_the_segment_that_is_blamed_depends_on_the_first_position(
    first: int, blamed: bool, parts: Path, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(parts, folder)

    def disturb(values: Array) -> Array:
        values.reshape(len(TOKENS), -1)[first:] += np.float32(0.05)
        return values

    edit(folder, Node(2, "attn_out"), disturb)
    divergence = replayed_parts(folder, model, evaluators, "attn_out").first_divergence
    assert divergence is not None
    assert (Node(2, "attn_scores") in divergence.segment) == blamed
    assert ("position 0 is wrong" in divergence.certainty) != blamed
    assert Node(2, "attention") in divergence.segment


@pytest.mark.parametrize(
    ("bug", "words"),
    [
        ("mask left out", "no mask: every query sees every key"),
        ("groups by remainder", "query head h meets K/V head h mod 2"),
        ("scale left out", "scaled by 1, the model says 0.125"),
        ("K/V cache written a row late in decoding", "from token 6 on, as where decoding begins, keys and values are"),
    ],
)
def test_a_cause_is_proved_through_maps_that_were_not_captured(
    bug: str, words: str, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    tensors = buggy_tensors(PORTING_BUGS[bug], ARITHMETICS["float32"], model, TOKENS, evaluators)
    held = {node: values for node, values in tensors.items() if node.layer == 1}
    capture = write_kind(CAPTURE_KINDS["no attention maps"], held, model.graph, TOKENS, tmp_path / "capture")
    stages = CapturedStages(capture, model, TOKENS, last=len(TOKENS))
    found = IdentifiedCapture(stages, (), FoundEngine(KnownArithmetic(), (), own_weights=True))
    options = ReplayOptions(selection=Selection(stages="attention", layers="1"), tokens=TOKENS)
    result = replay_capture(capture, model, options, evaluators, identified=found)
    assert words in the_cause(result).words
    assert words in headline(result)


def two_faults(call: StageCall) -> Array:
    return rows.gelu_for_silu(call) if call.node.stage == "ffn_silu" else call.honest(call.before("attn_norm"))


OF_LAYER_OUTPUTS = {
    "another layer": (
        PORTING_BUGS["layer used twice"],
        "attn_out, ffn_norm, ffn_gate, ffn_up and ffn_out: computed with all weights of the layer before",
    ),
    "base": (PORTING_BUGS["RoPE base of another model"], "every layer q_post_rope and k_post_rope: computed with"),
    "two": (
        PortingBug(two_faults, ("ffn_silu", "ffn_gate")),
        "ffn_gate: reads attn_norm in place of ffn_norm; and ffn_silu: the activation is GELU by tanh",
    ),
}


@pytest.mark.parametrize("name", OF_LAYER_OUTPUTS)
def test_causes_are_proved_from_layer_outputs_alone(
    name: str, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    """Sixteen stages in between were not captured."""
    bug, words = OF_LAYER_OUTPUTS[name]
    tensors = buggy_tensors(bug, ARITHMETICS["float32"], model, TOKENS, evaluators)
    capture = write_kind(CAPTURE_KINDS["layer outputs"], tensors, model.graph, TOKENS, tmp_path / "capture")
    result = replay_capture(capture, model, ReplayOptions(tokens=TOKENS), evaluators)
    assert result.verdict is Verdict.FAIL
    assert words in cause_sentence(result.causes[0])


def test_a_number_is_solved_for_behind_a_bias_of_a_fused_product(plant: Planting) -> None:
    """As transformers computes product and bias in one call: what was captured, less the bias, is the product."""
    node, product = Node(1, "qkv_bias"), Node(1, "qkv_matmul")
    (plant.folder / relative_path(product)).unlink()

    def of_other_weights(call: StageCall) -> Array:
        read = call.seen[Node(1, "attn_norm")]
        product_of = call.engine.evaluate(Node(2, "qkv_matmul"), (read,), tokens=call.tokens, position=call.position)
        return call.honest(product_of)

    assert the_cause(plant(node, of_other_weights)).words == "computed with the weights of the next layer"


def test_a_bias_is_solved_for_where_its_product_was_not_captured(plant: Planting) -> None:
    """As hooks leave it: product and bias are one call."""
    (plant.folder / relative_path(Node(1, "qkv_matmul"))).unlink()

    def twice_for_keys(call: StageCall) -> Array:
        own, keys = call.honest(), call.model.config.graph.part(Part.K)
        own[:, keys] += (own - call.x)[:, keys]
        return own

    assert the_cause(plant(Node(1, "qkv_bias"), twice_for_keys)).words == "the bias is added twice for keys"


def test_a_segment_is_not_explained_by_its_own_values(plant: Planting) -> None:
    """Less the bias and plus it, what was captured is what was captured, whatever it is."""
    (plant.folder / relative_path(Node(1, "qkv_matmul"))).unlink()
    noise = np.random.default_rng(0).normal(1, 1, (len(TOKENS), 1024)).astype(np.float32)
    result = plant(Node(1, "qkv_bias"), lambda c: c.honest() * noise[:, : c.x.shape[1]])
    assert result.verdict is Verdict.FAIL
    assert not result.causes


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ([1, 0, 2], "heads are in the order [1, 0, 2]"),
        ([*range(14), 16, 17, 14, 15], "heads 14–17 have the values of heads 16, 17, 14, 15"),
    ],
)
def test_of_many_heads_those_that_are_elsewhere_are_named(order: list[int], words: str) -> None:
    assert results.heads_words(np.array(order)) == words


def of_layer_before_without_bias(call: StageCall) -> Array:
    """The product of the layer before, its bias left out for keys."""
    node, read = Node(0, "qkv_matmul"), call.seen[Node(call.layer, "attn_norm")]
    product = call.engine.evaluate(node, (read,), tokens=call.tokens, position=call.position)
    return rows.bias_of_keys_left_out(replace(call, inputs=(product,)))


def test_a_wrong_bias_hides_no_wrong_product_of_the_same_call(tmp_path: Path) -> None:
    """Biases that are larger than what they are added to, as in Qwen2.5: each of the two by itself helps little."""
    tokens, random = tuple(range(3, 16)), np.random.default_rng(0)
    file = model_file(head_dim=32)
    for layer in range(2):
        bias = random.normal(0, 30, 64).astype(np.float32)
        file.tensors[f"blk.{layer}.attn_k.bias"] = Tensor(bias.view(np.uint8), WeightType.F32)
    model = load_model(file.write(tmp_path / "m.gguf"))
    bug = PortingBug(of_layer_before_without_bias, ("qkv_bias",), Layers.MIDDLE)
    with Evaluators(model) as evaluators:
        tensors = buggy_tensors(bug, ARITHMETICS["float32"], model, tokens, evaluators)
        held = {node: values for node, values in tensors.items() if node != Node(1, "qkv_matmul")}
        capture = write_kind(CAPTURE_KINDS["complete"], held, model.graph, tokens, tmp_path / "capture")
        stages = CapturedStages(capture, model, tokens, last=len(tokens))
        found = IdentifiedCapture(stages, (), FoundEngine(KnownArithmetic(), (), own_weights=True))
        options = ReplayOptions(selection=Selection(stages="qkv_bias", layers="1"), tokens=tokens)
        result = replay_capture(capture, model, options, evaluators, identified=found)
    assert the_cause(result).words == (
        "qkv_bias: the bias is left out for keys; and qkv_matmul: computed with the weights of the layer before"
    )


def test_a_number_that_is_solved_for_at_one_stage_is_taken_at_the_others(
    model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    """A norm of large values shows an epsilon less well: alone, it would be solved for as another one."""
    bug = replace(PORTING_BUGS["norm: another epsilon"], compute=lambda c: c.with_config(norm_epsilon=3.21e-5))
    tensors = buggy_tensors(bug, ARITHMETICS["float32"], model, TOKENS, evaluators)
    capture = write_kind(CAPTURE_KINDS["complete"], tensors, model.graph, TOKENS, tmp_path / "capture")
    (cause,) = replay_capture(capture, model, ReplayOptions(), evaluators).causes
    assert cause.words == "computed with epsilon 3.21e-05, the model says 1e-06"


def test_what_is_unknown_names_the_smallest_capture_that_decides_it(
    parts: Path, model: Model, evaluators: Evaluators
) -> None:
    honest = replayed_parts(parts, model, evaluators, "attn_out")
    (stage,) = honest.stages
    unknown = replace(stage, verdict=replace(stage.verdict, verdict=Verdict.UNKNOWN))
    comparison = replace(honest, stages=(unknown,), verdict=Verdict.UNKNOWN)
    *said, command = replay_steps(comparison, parts, None, [])
    assert "layer 2 attn_out is decided by" in " ".join(said)
    assert "--save-tensor-layers 2 " in command and "attn_scores,attn_softmax" in command


@pytest.mark.parametrize(("epsilon", "layers", "untold"), [(2e-6, range(4), (1, 2, 3)), (1e-2, range(1), ())])
def test_layers_that_cannot_tell_a_number_from_the_model_s_are_named(
    epsilon: float, layers: range, untold: tuple[int, ...], model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    """Where values are large, an epsilon of twice the model's changes less than engines differ by."""

    def compute(call: StageCall) -> Array:
        return call.with_config(norm_epsilon=epsilon) if call.layer in layers else call.honest()

    bug = PortingBug(compute, ("attn_norm", "ffn_norm"))
    tensors = buggy_tensors(bug, ARITHMETICS["float32"], model, TOKENS, evaluators)
    capture = write_kind(CAPTURE_KINDS["complete"], tensors, model.graph, TOKENS, tmp_path / "capture")
    stages = CapturedStages(capture, model, TOKENS, last=len(TOKENS))
    found = IdentifiedCapture(stages, (), FoundEngine(KnownArithmetic(), (), own_weights=True))
    options = ReplayOptions(selection=Selection(stages="attn_norm,ffn_norm"), tokens=TOKENS)
    result = replay_capture(capture, model, options, evaluators, identified=found)
    cause = the_cause(result)
    assert {node.layer for node in cause.nodes} == {0}
    assert cause.untold == untold
    assert ("layers 1–3 cannot tell" in headline(result)) == bool(untold)
