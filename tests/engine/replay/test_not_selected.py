"""A stage is judged alike, whatever is selected beside it: what a capture tells of itself is a matter of all of it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from aprtui.cli.comparison.next_steps import replay_steps
from aprtui.compare.align.coverage import Selection
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.bug_detection import buggy_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.evaluation.everywhere import EVERYWHERE
from aprtui.engine.evaluation.porting_bugs.table import PORTING_BUGS
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.identify import identify_capture
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model
from aprtui.trace.capture import PROVENANCE, Capture
from tests.engine.embedded_captures import TOKENS

BUGS = [
    ("RoPE base of another model", "no attention maps"),
    pytest.param("groups by remainder", "no attention maps", marks=pytest.mark.slow),
    pytest.param("last channels zero", "complete", marks=pytest.mark.slow),
    pytest.param("last channels zero", "layer outputs", marks=pytest.mark.slow),
]


class _Replays:
    """Replays of one capture that records no ids, whose engine is found out once."""

    def __init__(self, capture: Capture, model: Model, evaluators: Evaluators) -> None:
        self.capture, self.model, self.evaluators = capture, model, evaluators
        self.identified = identify_capture(CapturedStages(capture, model, TOKENS, len(TOKENS)), {}, evaluators)

    def of(self, selection: Selection) -> Comparison:
        options = ReplayOptions(selection)
        return replay_capture(self.capture, self.model, options, self.evaluators, identified=self.identified)


def _selected_by(command: str) -> Selection:
    words = shlex.split(command)
    layers = words[words.index("--layers") + 1] if "--layers" in words else None
    return Selection(words[words.index("--stage") + 1], layers)


@pytest.mark.parametrize(("bug", "kind"), BUGS)
def test_the_command_that_looks_closer_comes_to_the_same_verdict(
    bug: str, kind: str, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    tensors = buggy_tensors(PORTING_BUGS[bug], ARITHMETICS["float32"], model, TOKENS, evaluators)
    write_kind(CAPTURE_KINDS[kind], tensors, model.graph, TOKENS, tmp_path)
    (tmp_path / PROVENANCE).unlink()
    replays = _Replays(Capture.open(tmp_path), model, evaluators)
    whole = replays.of(Selection())
    assert whole.verdict is Verdict.FAIL
    (command,) = [line for line in replay_steps(whole, tmp_path, None, []) if line.startswith("aprtui replay")]
    closer = replays.of(_selected_by(command))
    assert closer.verdict is Verdict.FAIL, closer.reasons
    assert whole.first_divergence is not None and closer.first_divergence is not None
    assert closer.first_divergence.verdict == whole.first_divergence.verdict


def test_a_selected_stage_of_tokens_amid_a_prompt_is_not_blamed(
    model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    tensors = stage_tensors(ARITHMETICS["float32"], model, TOKENS, evaluators)
    rows = {node: values[4:9] for node, values in tensors.items() if values.ndim == 2 and len(values) == len(TOKENS)}
    write_kind(CAPTURE_KINDS["no attention maps"], rows, model.graph, TOKENS, tmp_path)
    (tmp_path / PROVENANCE).unlink()
    options = ReplayOptions(Selection("q_post_rope", "0"))
    result = replay_capture(Capture.open(tmp_path), model, options, evaluators)
    assert result.verdict is Verdict.UNKNOWN and "begins with the first token" in " ".join(result.reasons)


@pytest.mark.slow
def test_a_selected_product_of_an_engine_with_other_weights_is_not_blamed(
    model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    """As all of them err alike, which one alone cannot tell."""
    tensors = stage_tensors(EVERYWHERE["weights in fp8"].engine, model, TOKENS, evaluators)
    capture = write_kind(CAPTURE_KINDS["no attention maps"], tensors, model.graph, TOKENS, tmp_path)
    options = ReplayOptions(Selection("ffn_out", "1"))
    result = replay_capture(capture, model, options, evaluators)
    assert result.verdict is Verdict.UNKNOWN, result.first_divergence
