"""A rounding is excluded where it would have spoilt what came out right, and by nothing less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.bug_detection import buggy_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.evaluation.porting_bugs.table import PORTING_BUGS
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.quiet_places import Wide, quiet_place
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model
from tests.engine.embedded_captures import TOKENS
from tests.thinning import crossed

ROWS = range(5, 17)


def noise(seed: int, size: float = 1.0) -> Wide:
    return np.random.default_rng(seed).normal(0, size, (len(ROWS), 256))


def test_noise_of_its_size_excludes_no_rounding_and_smaller_noise_allows_its_own_size() -> None:
    for seed in range(50):
        assert quiet_place(noise(seed), noise(seed + 100), ROWS) is None
        for size in (0.5, 0.1, 1e-3):
            found = quiet_place(noise(seed, size), noise(seed + 100), ROWS)
            assert found is not None and size < found.share < 2 * size


def test_a_token_that_came_out_right_excludes_it() -> None:
    error = noise(1, 30)
    error[3] *= 1e-4
    found = quiet_place(error, noise(2), ROWS)
    assert found is not None and found.name == "token 8" and 3e-3 < found.share < 1e-2


def test_so_do_the_tokens_before_a_fault_together() -> None:
    error = noise(1, 0.3)
    error[-1] *= 100
    found = quiet_place(error, noise(2), ROWS)
    assert found is not None and found.name == "the first 11 tokens"


def test_and_channels_that_no_fault_reached() -> None:
    error = noise(1, 30)
    error[:, 64:96] *= 1e-4
    found = quiet_place(error, noise(2), ROWS)
    assert found is not None and found.name == "channels 64–95"


def test_a_massive_channel_hides_no_place_and_makes_none() -> None:
    error, spread = noise(1), noise(2)
    spread[:, 7] *= 1000
    assert quiet_place(error, spread, ROWS) is None, "nothing but that channel is small"
    error[:, 7] *= 1000
    error[3] *= 1e-3
    found = quiet_place(error, spread, ROWS)
    assert found is not None and found.name == "token 8"


def test_errors_along_one_direction_may_be_small_by_chance() -> None:
    random = np.random.default_rng(3)
    spread = np.outer(random.normal(size=len(ROWS)), random.normal(size=256))
    assert quiet_place(spread * 1e-3, spread, ROWS) is None


def test_too_few_tokens_and_too_few_probabilities_tell_nothing() -> None:
    assert quiet_place(noise(1, 1e-3)[:3], noise(2)[:3], ROWS[:3]) is None
    error = noise(1, 30)
    error[0] *= 1e-4
    assert quiet_place(error, noise(2), range(len(ROWS)), sources=4) is None, "a first token has one key, at 1"
    error = noise(1, 30)
    error[8] *= 1e-4
    found = quiet_place(error, noise(2), range(len(ROWS)), sources=4)
    assert found is not None and found.name == "token 8"


def replayed(
    model: Model, evaluators: Evaluators, folder: Path, arithmetic: str, kind: str, bug: str | None = None
) -> Comparison:
    engine = ARITHMETICS[arithmetic]
    if bug is None:
        tensors = stage_tensors(engine, model, TOKENS, evaluators)
    else:
        tensors = buggy_tensors(PORTING_BUGS[bug], engine, model, TOKENS, evaluators)
    capture = write_kind(CAPTURE_KINDS[kind], tensors, model.graph, TOKENS, folder / "capture")
    return replay_capture(capture, model, ReplayOptions(), evaluators)


@pytest.mark.parametrize(
    ("arithmetic", "kind", "bug"),
    [
        ("float32", "every fourth layer", "newest key not written yet"),
        ("float32", "two stages a layer", "mask: −10 in place of −∞"),
        ("llama.cpp, f16 K/V", "every fourth layer", "last token's row stale"),
    ],
)
def test_a_fault_that_a_coarse_engine_could_explain_fails_where_that_would_err_elsewhere_too(
    model: Model, evaluators: Evaluators, tmp_path: Path, arithmetic: str, kind: str, bug: str
) -> None:
    result = replayed(model, evaluators, tmp_path, arithmetic, kind, bug)
    assert result.verdict is Verdict.FAIL, result.reasons
    assert result.first_divergence is not None
    assert PORTING_BUGS[bug].nodes(model) & set(result.first_divergence.segment)
    assert "a coarser one would not leave " in result.first_divergence.verdict.reason


@pytest.mark.parametrize(
    ("arithmetic", "kind"), crossed(["float32, keys in q4_0", "float32, keys in q8_0"], CAPTURE_KINDS)
)
def test_an_engine_that_quantises_keys_alone_leaves_the_first_token_right_and_is_honest(
    model: Model, evaluators: Evaluators, tmp_path: Path, arithmetic: str, kind: str
) -> None:
    result = replayed(model, evaluators, tmp_path, arithmetic, kind)
    assert result.verdict is not Verdict.FAIL
    assert kind != "complete" or result.verdict is Verdict.PASS
