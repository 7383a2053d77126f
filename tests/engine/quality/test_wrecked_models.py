"""Wrecked models that say nothing odd are found: by a block's scale, by the likelihood of a text, by a good model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest

from aprtui.engine.protocol import Mode
from aprtui.engine.quality import block_gates, file_gates, likelihood
from aprtui.engine.quality.block_gates import scale_problems
from aprtui.engine.quality.gate import GateFinding, ModelUnderTest, Outcome, QualityOptions
from aprtui.engine.quality.gates import NAMES, run_quality
from aprtui.errors import UnreadableError
from aprtui.model.model import load_model
from aprtui.resources import embedded_model
from tests.engine.edit_gguf import _block, _exchange, _opened, _tensor

FFN_UP = _block(1, "ffn_up.weight")
APR_GATES = (
    "capability_match", "tensor_contract", "metadata_plausibility", "classifier_head", "golden_output", "throughput",
    "ollama_parity", "gpu_speedup", "format_parity", "ptx_parity", "gpu_state_isolation", "performance_regression",
)  # fmt: skip


def _scaled(factor: float) -> Callable[[Path], None]:
    """One block's scale times `factor`."""

    def wreck(path: Path) -> None:
        with _opened(path) as reader:
            scale = _tensor(reader, FFN_UP).data[5, :2].view(np.float16)
            scale *= np.float16(factor)

    return wreck


def _norms_exchanged(path: Path) -> None:
    with _opened(path) as reader:
        _exchange(reader, _block(1, "attn_norm.weight"), _block(1, "ffn_norm.weight"))


def _blocks_shuffled(path: Path) -> None:
    with _opened(path) as reader:
        tensor = _tensor(reader, FFN_UP)
        _, block_bytes = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
        blocks = tensor.data.reshape(-1, block_bytes)
        blocks[...] = blocks[np.random.default_rng(0).permutation(len(blocks))]


def _scales_have_one_sign(path: Path) -> bool:
    """Whether all blocks of the matrix have scales of one sign: of Q5_0, where either is usual, none is odd."""
    with _opened(path) as reader:
        tensor = _tensor(reader, FFN_UP)
        _, block_bytes = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
        scales = tensor.data.reshape(-1, block_bytes)[:, :2].copy().view(np.float16)
        return bool((scales >= 0).all() or (scales <= 0).all())


WRECKS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "scale of zero": (_scaled(0), "block_scales"),
    "scale times 64": (_scaled(64), "block_scales"),
    "scale negated": (_scaled(-1), "block_scales"),
    "norms exchanged": (_norms_exchanged, "text_likelihood"),
    "blocks shuffled": (_blocks_shuffled, "text_likelihood"),
}
GATES: Mapping[str, Callable[[ModelUnderTest], GateFinding]] = {
    "block_scales": block_gates.block_scales, "text_likelihood": likelihood.text_likelihood,
}  # fmt: skip


def finding(path: Path, gate: Callable[[ModelUnderTest], GateFinding], **options: object) -> GateFinding:
    with ModelUnderTest(load_model(path), QualityOptions(threads=1, **options)) as subject:  # type: ignore[arg-type]
        return gate(subject)


@pytest.mark.parametrize("wreck", WRECKS)
def test_a_wrecked_model_is_found_alone_and_against_the_good_one(tmp_path: Path, wreck: str) -> None:
    spoil, gate = WRECKS[wreck]
    path = Path(shutil.copy(embedded_model(), tmp_path / "wrecked.gguf"))
    spoil(path)
    assert finding(path, GATES[gate]).outcome is Outcome.FAILED
    against = finding(path, file_gates.weights_against, against=embedded_model())
    assert against.outcome is Outcome.FAILED and "against demo-qwen2-q4km.gguf: blk.1." in against.message


def test_the_honest_model_passes_alone_and_against_itself() -> None:
    for gate in (*GATES.values(), file_gates.weights_against):
        assert finding(embedded_model(), gate, against=embedded_model()).outcome is Outcome.PASSED


@pytest.mark.slow
@pytest.mark.group("real_models")
@pytest.mark.parametrize("name", ["smollm2-135m-q4_1", "qwen2.5-coder-0.5b-q4_k_m", "gemma3-270m-q4_k_m"])
def test_wrecked_real_models_are_found_and_the_honest_one_is_not(tmp_path: Path, name: str) -> None:
    good = Path(os.environ["APRTUI_REAL_MODELS"]) / f"{name}.gguf"
    for gate in (block_gates.block_scales, likelihood.text_likelihood, file_gates.weights_against):
        assert finding(good, gate, against=good).outcome is Outcome.PASSED
    for wreck, (spoil, finds) in WRECKS.items():
        path = Path(shutil.copy(good, tmp_path / "wrecked.gguf"))
        spoil(path)
        assert finding(path, file_gates.weights_against, against=good).outcome is Outcome.FAILED, wreck
        if wreck != "scale negated" or _scales_have_one_sign(good):
            found = finding(path, GATES[finds], against=good)
            assert found.outcome is Outcome.FAILED, (wreck, found.message)


def test_modes_move_the_likelihood_by_far_less_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for mode in Mode:
        monkeypatch.setattr(likelihood, "Mode", type("Only", (), {"EXACT": mode}))
        with ModelUnderTest(load_model(embedded_model()), QualityOptions()) as subject:
            found.append(likelihood.token_nll(subject))
    assert np.abs(found[1] - found[0]).mean() < likelihood.DEVIATION / 2


def test_a_baseline_is_given_stored_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "EMBEDDED", "another name")
    path = embedded_model()
    gate = likelihood.text_likelihood
    found = finding(path, gate, likelihoods=tmp_path)
    assert found.outcome is Outcome.SKIPPED and "--save-baseline stores one, --nll gives one" in found.message
    assert finding(path, gate, nll=1.0).outcome is Outcome.FAILED
    assert finding(path, gate, nll=2.0).outcome is Outcome.PASSED
    assert finding(path, gate, likelihoods=tmp_path, save_baseline=True).outcome is Outcome.SKIPPED
    found = finding(path, gate, likelihoods=tmp_path)
    assert found.outcome is Outcome.PASSED and "stored for a model of this name" in found.message
    (stored,) = tmp_path.iterdir()
    stored.write_text('{"token_nll": [1.0, 2.0]}')
    assert finding(path, gate, likelihoods=tmp_path).outcome is Outcome.UNKNOWN, "of another tokenizer"
    for broken in ("{}", '{"token_nll": [[1]]}', '{"token_nll": [1, NaN]}', '{"token_nll": "x"}'):
        stored.write_text(broken)
        with pytest.raises(UnreadableError, match="no baseline"):
            finding(path, gate, likelihoods=tmp_path)


def test_scales_that_are_odd_for_a_reason_are_not_blamed() -> None:
    honest = np.random.default_rng(1).uniform(0.5, 2, (64, 32)).astype(np.float32)
    signs = np.where(np.random.default_rng(2).random(honest.shape) < 0.4, -1, 1).astype(np.float32)
    padded, heavy = honest.copy(), honest.copy()
    padded[60:] = 0
    heavy[7] *= 100
    for sound in (honest, honest * signs, heavy, heavy.T, honest[:1, :1]):
        assert list(scale_problems(sound)) == []
    assert list(scale_problems(padded, padded=True)) == []
    for factor, word in ((0.0, "is zero"), (-1.0, "is negative"), (64.0, "times the largest other")):
        wrecked = honest.copy()
        wrecked[3, 4] = 1.5 * factor
        (problem,) = scale_problems(wrecked)
        assert "block 4 in row 3" in problem and word in problem


@pytest.mark.parametrize(
    ("speeds", "outcome"),
    [([12.0, 14.0], Outcome.PASSED), ([8.0, 9.0], Outcome.FAILED), ([9.0, 14.0], Outcome.UNKNOWN)],
)
def test_noise_is_treated_as_noise(speeds: list[float], outcome: Outcome) -> None:
    found = GateFinding.reaching_in_all(speeds, "so fast", 12.0, 10.0)
    assert found.outcome is outcome
    assert ("lies within the spread" in found.message) == (outcome is Outcome.UNKNOWN)


def test_the_gates_of_apr_are_all_listed_in_their_order() -> None:
    assert [name for name in NAMES if name in APR_GATES] == list(APR_GATES)


def test_only_the_gates_that_a_claim_names_are_run() -> None:
    report = run_quality(embedded_model(), QualityOptions(threads=1), only=["golden_output"])
    assert [gate.name for gate in report.gates] == ["capability_match", "golden_output"]
