"""Causes from behind whole layers that were not captured: what was planted in all layers is named, with its number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.comparison import Comparison
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Tolerance, Verdict
from aprtui.engine.alternatives.alternative import Alternative
from aprtui.engine.alternatives.call import StageCall
from aprtui.engine.alternatives.in_all_layers.numbered import NUMBERED
from aprtui.engine.alternatives.in_all_layers.table import IN_ALL_LAYERS
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.bug_detection import buggy_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.evaluation.porting_bugs.bug import PortingBug
from aprtui.engine.evaluation.porting_bugs.table import PORTING_BUGS
from aprtui.engine.replay.causes import whole_scan, whole_search
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model, load_model
from aprtui.progress import Progress, no_progress
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import write_model

TOKENS = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_model(tmp_path_factory.mktemp("whole") / "model.gguf"))


@pytest.fixture(scope="module")
def evaluators(model: Model) -> Iterator[Evaluators]:
    with Evaluators(model, threads=1) as found:
        yield found


def _of_base(theta: float) -> PortingBug:
    def compute(call: StageCall) -> np.ndarray:
        return call.with_config(rope=replace(call.model.config.rope, theta=theta))

    return PortingBug(compute, (Op.ROPE,))


def _of_scores(factor: float) -> PortingBug:
    return PortingBug(lambda call: call.honest() * np.float32(factor), (Op.SCORES,))


def _replayed(
    bug: PortingBug | None, model: Model, evaluators: Evaluators, folder: Path, *, kind: str = "logits",
    engine: str = "float32", tokens: tuple[int, ...] = TOKENS, options: ReplayOptions | None = None,
    progress: Progress = no_progress,
) -> Comparison:  # fmt: skip
    arithmetic = ARITHMETICS[engine]
    if bug is None:
        tensors = stage_tensors(arithmetic, model, tokens, evaluators, 3)
    else:
        tensors = buggy_tensors(bug, arithmetic, model, tokens, evaluators)
    capture = write_kind(CAPTURE_KINDS[kind], tensors, model.graph, tokens, folder / "capture")
    return replay_capture(capture, model, options or ReplayOptions(), evaluators, progress)


def _named(bug: PortingBug, words: str, name: str, *marks: pytest.MarkDecorator) -> object:
    return pytest.param(bug, words, id=name, marks=marks)


_SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("bug", "words"),
    [
        _named(_of_base(300000.0), "computed with theta 300000, the model says 10000", "base", pytest.mark.gate),
        _named(_of_scores(1.2), "scores are multiplied by 1.2", "scores", _SLOW),
        _named(PORTING_BUGS["GELU for SiLU"], "the activation is GELU by tanh, the model says SiLU", "GELU", _SLOW),
        _named(
            PORTING_BUGS["RoPE left out for keys"], "is not turned: RoPE is left out", "keys alone", pytest.mark.gate
        ),
        _named(PORTING_BUGS["final norm left out"], "the norm is left out", "final norm", _SLOW),
        _named(PORTING_BUGS["bias left out for keys"], "the bias is left out for keys", "bias", _SLOW),
        _named(
            PORTING_BUGS["attention: residual of the normed input"], "what was normalised is added", "residual", _SLOW
        ),
    ],
)
def test_logits_alone_name_the_cause(
    bug: PortingBug, words: str, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:  # fmt: skip
    result = _replayed(bug, model, evaluators, tmp_path)
    assert result.verdict is Verdict.FAIL
    (cause,) = result.causes
    assert cause.words.startswith(words) and cause.residue < 1e-5
    assert set(cause.nodes) == bug.nodes(model)


def test_every_fourth_layer_names_the_cause(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    bug = PORTING_BUGS["RoPE on the other pairs"]
    result = _replayed(bug, model, evaluators, tmp_path, kind="every fourth layer")
    assert result.verdict is Verdict.FAIL and [cause.name for cause in result.causes] == ["RoPE layout"]


def test_noise_leaves_a_range_that_holds_the_number(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    result = _replayed(_of_scores(3.0), model, evaluators, tmp_path, engine="bfloat16")
    (cause,) = result.causes
    assert cause.name == "scale of scores" and cause.words.endswith(" leave about as little)")
    low, high = (float(cause.words.split("(")[1].split()[place]) for place in (0, 2))
    assert low < 3.0 < high


@pytest.mark.parametrize("engine", ["float32", "float32, q4_0 K/V", "llama.cpp, f16 K/V", "bfloat16", "fp8 a tensor"])
def test_honest_logits_have_no_cause(engine: str, model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    result = _replayed(None, model, evaluators, tmp_path, engine=engine)
    assert result.verdict is not Verdict.FAIL and not result.causes


@pytest.mark.slow
def test_matrices_of_one_name_have_the_wrong_expert(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "model.gguf", architecture="glm4moe", sigmoid=True))
    bug = PORTING_BUGS["experts: matrices of the next one"]
    with Evaluators(model, threads=1) as evaluators:
        (cause,) = _replayed(bug, model, evaluators, tmp_path).causes
    assert cause.words.startswith("computed with the matrices of the expert behind") and cause.residue < 1e-5
    assert set(cause.nodes) == bug.nodes(model)


def test_nan_has_no_cause_from_afar(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    """Whatever else overflows would come out alike."""
    bug = PortingBug(lambda call: np.full_like(call.honest(), np.nan), ("final_norm",))
    result = _replayed(bug, model, evaluators, tmp_path)
    assert result.verdict is Verdict.FAIL and not result.causes


@pytest.fixture(scope="module")
def model_with_experts(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_model(tmp_path_factory.mktemp("experts") / "model.gguf", architecture="qwen3moe"))


def test_an_alternative_that_only_chooses_the_engines_expert_is_no_cause(
    model_with_experts: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Two experts are about as probable here: float16 K/V choose one of them, and so do squares in bfloat16."""
    _try_only(monkeypatch, "norm squares in bfloat16")
    tokens = (262, 155, 54, 214, 161, 19, 187, 86, 31, 103)
    with Evaluators(model_with_experts, threads=1) as found:
        result = _replayed(None, model_with_experts, found, tmp_path, engine="float32, f16 K/V", tokens=tokens)
    assert result.verdict is not Verdict.FAIL and not result.causes


def test_a_cause_is_named_behind_experts(
    model_with_experts: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    _try_only(monkeypatch, "RoPE layout")
    bug = PORTING_BUGS["RoPE on the other pairs"]
    with Evaluators(model_with_experts, threads=1) as found:
        result = _replayed(bug, model_with_experts, found, tmp_path)
    assert result.verdict is Verdict.FAIL and [cause.name for cause in result.causes] == ["RoPE layout"]


def _try_only(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(whole_scan, "IN_ALL_LAYERS", tuple(one for one in IN_ALL_LAYERS if one.name == name))
    monkeypatch.setattr(whole_scan, "NUMBERED", ())


def test_logits_of_one_token_have_none_before(
    model: Model, evaluators: Evaluators, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    _try_only(monkeypatch, "logits of the token before")
    bug = PORTING_BUGS["norm: sum in place of mean"]
    result = _replayed(bug, model, evaluators, tmp_path, tokens=TOKENS[:1])
    assert result.verdict is Verdict.FAIL and not result.causes


def test_what_the_users_own_bound_passes_stays_so(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    options = ReplayOptions(bounds=lambda node: (Tolerance(Metric.TOKEN_REL_L2, 0.5),))
    result = _replayed(_of_scores(1.2), model, evaluators, tmp_path, options=options)
    assert result.verdict is Verdict.PASS and not result.causes


def test_each_number_that_is_tried_is_told(
    model: Model, evaluators: Evaluators, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    _try_only(monkeypatch, "none")
    rows = tuple(row for row in NUMBERED if row.alternative.name == "scale of scores")
    monkeypatch.setattr(whole_scan, "NUMBERED", rows)
    told: list[str] = []
    result = _replayed(
        _of_scores(1.2), model, evaluators, tmp_path, progress=lambda what, done, total: told.append(what)
    )
    assert [cause.name for cause in result.causes] == ["scale of scores"]
    assert told.count("looking for the cause at lm_head, trying numbers,") > 10
    assert told.count("looking for the cause at lm_head,") > 10, "rounding is tried again under it"


def test_what_is_too_much_to_compute_is_said(
    model: Model, evaluators: Evaluators, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(whole_search, "_MOST_WORK", 10**7)
    result = _replayed(_of_base(300000.0), model, evaluators, tmp_path)
    assert not result.causes and result.verdict is not Verdict.FAIL
    said = [statement for statement in result.statements if "was not looked for" in statement]
    assert said and said[0].startswith("the cause at lm_head was not looked for: 36 stages before it")


def test_what_passes_is_said_to_hide_what_was_not_looked_for(
    model: Model, evaluators: Evaluators, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(whole_search, "_MOST_WORK", 10**7)
    result = _replayed(None, model, evaluators, tmp_path, engine="bfloat16")
    said = [statement for statement in result.statements if "was not looked for" in statement]
    assert result.verdict is Verdict.PASS and len(said) == 1
    assert said[0].startswith("whether a mistake in all layers is hidden in what lm_head passes by was not looked for:")


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=() if name in ("qwen2", "glm4moe") else pytest.mark.slow)
        for name in ("qwen2", "gemma2", "gpt-oss", "qwen35moe", "smollm3", "deepseek2", "glm4moe", "mistral4")
    ],
)
def test_an_alternative_is_of_its_own_layer_wherever_it_is_tried(architecture: str, tmp_path: Path) -> None:
    """What it is made of is read where it is computed: weights of the last layer are none of the first."""
    model = load_model(write_model(tmp_path / "model.gguf", architecture=architecture))
    with Evaluators(model, threads=1) as evaluators:
        tensors = stage_tensors(ARITHMETICS["float32"], model, TOKENS, evaluators, 1)
        for alternative in (*IN_ALL_LAYERS, *(row.alternative for row in NUMBERED)):
            nodes = [node for node in model.graph.nodes if alternative.concerns(model, node)]
            for name in dict.fromkeys(node.stage for node in nodes):
                first = next(node for node in nodes if node.stage == name)
                _assert_same(alternative, *(_call(model, evaluators, tensors, node) for node in (nodes[-1], first)))


def _assert_same(alternative: Alternative, last: StageCall, first: StageCall) -> None:
    own = {attempt.words: attempt for attempt in alternative.attempts(first, None)}
    for attempt in alternative.attempts(last, None):
        if attempt.words in own:
            with np.errstate(all="ignore"):
                made, expected = attempt.compute(first), own[attempt.words].compute(first)
            np.testing.assert_array_equal(made, expected, err_msg=f"{alternative.name}: {attempt.words}, {first.node}")


def _call(model: Model, evaluators: Evaluators, tensors: dict[Node, np.ndarray], node: Node) -> StageCall:
    inputs = []
    for entry, source in zip(model.graph.entries(node), model.graph.inputs(node), strict=True):
        values = tensors[source]
        part = values if values.ndim == 3 else values[:, model.config.graph.part(entry.part)]
        inputs.append(np.ascontiguousarray(part))
    angles = RopeAngles(ARITHMETICS["float32"].rounding.rope_angles)
    return StageCall(model, angles, evaluators(angles), tensors, node, tuple(inputs), TOKENS, 0)
