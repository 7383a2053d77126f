"""The training's schedule and batches, and, where PyTorch is there, a run of a few steps with resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aprtui.demo.network import NetworkShape, load_torch
from aprtui.demo.train import (
    DECAY_SHARE,
    POLISH_RATE,
    WARM_UP_STEPS,
    Settings,
    TrainingProgress,
    batch_windows,
    learning_rate_factor,
    start_decay_by_clock,
    train,
)
from aprtui.demo.vocabulary import load_vocabulary, train_vocabulary

TINY = NetworkShape(vocabulary=300, hidden=64, layers=1, heads=2, kv_heads=1, feed_forward=64)


def test_the_rate_warms_up_stays_and_decays_to_zero() -> None:
    factors = [learning_rate_factor(TrainingProgress(step, 0.0, 500, 600)) for step in range(600)]
    assert factors[0] == 1 / WARM_UP_STEPS
    assert set(factors[WARM_UP_STEPS:500]) == {1.0}
    assert factors[500] == 1.0 and factors[550] == 0.5 and 0 < factors[599] < 0.02


def test_the_polish_decays_from_a_smaller_rate() -> None:
    factors = [learning_rate_factor(TrainingProgress(step, 0.0, 500, 600, polish=50)) for step in range(600, 650)]
    assert factors[0] == POLISH_RATE and 0 < factors[-1] < 0.02
    assert factors == sorted(factors, reverse=True)


def test_the_clock_starts_the_decay_and_fixes_its_length() -> None:
    progress = TrainingProgress(step=300, seconds=60 * 10 * (1 - DECAY_SHARE) - 1)
    start_decay_by_clock(progress, minutes=10)
    assert (progress.decay_at, progress.steps) == (None, None)
    progress.seconds += 1
    start_decay_by_clock(progress, minutes=10)
    assert (progress.decay_at, progress.steps) == (300, 500)
    progress.step, progress.seconds = 301, 1e9
    start_decay_by_clock(progress, minutes=10)
    assert (progress.decay_at, progress.steps) == (300, 500)


def test_an_epoch_shows_every_window_once() -> None:
    stream = np.arange(1000, dtype=np.uint16)
    windows = (len(stream) - 1) // 10 - 1
    starts = [int(batch_windows(stream, step, 1, 10, seed=0)[0, 0]) for step in range(2 * windows)]
    assert sorted(starts[:windows]) == list(range(min(starts[:windows]), 1000 - 10, 10))[:windows]
    assert len(set(starts[:windows])) == len(set(starts[windows:])) == windows
    assert starts[:windows] != starts[windows:]


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    stream = np.arange(5000, dtype=np.uint16)
    np.testing.assert_array_equal(batch_windows(stream, 7, 4, 16, 1), batch_windows(stream, 7, 4, 16, 1))
    assert not np.array_equal(batch_windows(stream, 7, 4, 16, 1), batch_windows(stream, 7, 4, 16, 2))


def test_no_token_joins_punctuation_and_a_line_end(tmp_path: Path) -> None:
    train_vocabulary(["def f(x):\n    return x\n" * 50], 300).save(str(tmp_path / "tokenizer.json"))
    vocabulary = load_vocabulary(tmp_path / "tokenizer.json")
    assert all(set(token) == {"Ċ"} for token in vocabulary.tokens if "Ċ" in token)
    text = "<|im_start|>user\nnaïve 𝄞<|im_end|>\n"
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.encode("<|endoftext|>") == [vocabulary.end_of_text]


@pytest.mark.group("torch")
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    torch = load_torch()
    settings = Settings(batch_tokens=64, context=16, decay_context=32)

    def run(folder: Path, decay_at: int, steps: int, resume: Path | None = None) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        for seed, name in enumerate(("train.npy", "bare.npy")):
            np.save(folder / name, np.random.default_rng(seed).integers(0, 300, 4000).astype(np.uint16))
        options = SimpleNamespace(device="cpu", resume=resume)
        train(folder, settings, TINY, TrainingProgress(decay_at=decay_at, steps=steps, polish=2), 1.0, options)
        return dict(torch.load(folder / "checkpoint.pt", weights_only=True))

    whole = run(tmp_path / "whole", 2, 4)
    resumed = run(tmp_path / "resumed", 2, 4, resume=tmp_path / "whole" / "stable.pt")
    assert whole["progress"]["step"] == resumed["progress"]["step"] == 6
    for name, weight in whole["weights"].items():
        torch.testing.assert_close(weight, resumed["weights"][name])
