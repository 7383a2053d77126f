"""Train the embedded model: `python -m aprtui.demo.train --work DIR --minutes 80`.

The schedule is warm-up, stable, decay, polish; the last phase reads code without docstrings and comments. With
`--minutes` the clock decides when the decay starts; the steps at which it started and ended are kept in the checkpoint,
and `--decay-at K --steps N` repeats that run. Every batch is a function of the seed and the step alone, so a resumed
run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aprtui.demo.corpus import collect, split, standard_library, training_texts
from aprtui.demo.network import NetworkShape, initial_weights, load_torch, make_forward, rotary_tables
from aprtui.demo.vocabulary import load_vocabulary, train_vocabulary

Stream = npt.NDArray[np.uint16]

MATRIX_RATE = 0.02
OTHER_RATE = 0.004
WEIGHT_DECAY = 0.05
WARM_UP_STEPS = 60
DECAY_SHARE = 0.4
POLISH_RATE = 0.5
# A step that took longer was a stopped process or a sleeping machine; it says nothing about the training.
LONGEST_STEP_SECONDS = 5.0
CHECKPOINT_SECONDS = 120.0
PROGRESS_STEPS = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """What determines the result, beside the corpus and the versions of Python and PyTorch."""

    seed: int = 0
    batch_tokens: int = 8192
    context: int = 512
    decay_context: int = 1024


@dataclass(slots=True)
class TrainingProgress:
    """Where a run stands; `decay_at` and `steps` are None until the clock or the options have set them.

    The decay ends after `steps` steps; `polish` more follow.
    """

    step: int = 0
    seconds: float = 0.0
    decay_at: int | None = None
    steps: int | None = None
    polish: int = 0

    @property
    def polishing(self) -> bool:
        return self.steps is not None and self.step >= self.steps


def learning_rate_factor(progress: TrainingProgress) -> float:
    """Fraction of the full rate at the current step: linear warm-up, then 1, then linear decay to 0, twice."""
    if progress.steps is not None and progress.polishing:
        return POLISH_RATE * (1.0 - (progress.step - progress.steps) / progress.polish)
    factor = min(1.0, (progress.step + 1) / WARM_UP_STEPS)
    if progress.decay_at is not None and progress.steps is not None and progress.step >= progress.decay_at:
        factor *= (progress.steps - progress.step) / (progress.steps - progress.decay_at)
    return factor


def start_decay_by_clock(progress: TrainingProgress, minutes: float) -> None:
    """Set `decay_at` and `steps` once the stable share of `minutes` has been used."""
    if progress.decay_at is None and progress.seconds >= (1.0 - DECAY_SHARE) * minutes * 60.0:
        progress.decay_at = progress.step
        progress.steps = progress.step + max(1, round(progress.step * DECAY_SHARE / (1.0 - DECAY_SHARE)))


def batch_windows(stream: Stream, step: int, rows: int, width: int, seed: int) -> npt.NDArray[np.int64]:
    """Token windows [rows, width + 1]: each window of the stream once an epoch, the epoch's own order and offset."""
    windows = (len(stream) - 1) // width - 1
    batch = np.empty((rows, width + 1), dtype=np.int64)
    for row in range(rows):
        epoch, index = divmod(step * rows + row, windows)
        generator = np.random.default_rng([seed, epoch])
        offset = int(generator.integers(width))
        start = offset + width * int(generator.permutation(windows)[index])
        batch[row] = stream[start : start + width + 1]
    return batch


def prepare(work: Path, vocabulary_size: int, seed: int) -> tuple[Stream, Stream]:
    """Token streams of the training side, whole and bare, and the tokenizer: made once in `work`, then read back."""
    tokenizer_path = work / "tokenizer.json"
    paths = (work / "train.npy", work / "bare.npy")
    if not all(path.exists() for path in paths):
        train_side = split(collect(standard_library())).train
        if not tokenizer_path.exists():
            train_vocabulary((document.text for document in train_side), vocabulary_size).save(str(tokenizer_path))
        vocabulary = load_vocabulary(tokenizer_path)
        for path, bare_code in zip(paths, (False, True), strict=True):
            encoded = vocabulary.tokenizer.encode_batch(training_texts(train_side, seed, bare=bare_code))
            parts = [np.array([vocabulary.end_of_text, *one.ids], dtype=np.uint16) for one in encoded]
            with open(path.with_suffix(".part"), "wb") as file:
                np.save(file, np.concatenate(parts))
            os.replace(path.with_suffix(".part"), path)
    whole, bare = (np.load(path) for path in paths)
    return whole, bare


def make_optimizers(weights: dict[str, Any]) -> list[Any]:
    """Muon (Jordan 2024) for the layers' matrices, AdamW for embedding, norms and biases."""
    torch = load_torch()
    matrices = [w for name, w in weights.items() if w.ndim == 2 and name.startswith("blk.")]
    vectors = [w for w in weights.values() if w.ndim == 1]
    others = [
        {"params": [weights["token_embd.weight"]], "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.95)),
    ]


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write beside `path`, then rename: a reader never sees half a checkpoint."""
    part = path.with_suffix(".part")
    load_torch().save(content, part)
    os.replace(part, path)


def train(
    work: Path, settings: Settings, shape: NetworkShape, progress: TrainingProgress, minutes: float, options: Any
) -> None:
    """Run to the end of the schedule, writing `checkpoint.pt` (and `stable.pt` before the decay) into `work`."""
    torch = load_torch()
    device = torch.device(options.device)
    whole, bare = prepare(work, shape.vocabulary, settings.seed)
    weights = {name: w.to(device).requires_grad_() for name, w in initial_weights(shape, settings.seed).items()}
    optimizers = make_optimizers(weights)
    if options.resume:
        saved = torch.load(options.resume, map_location=device, weights_only=True)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(saved["weights"][name])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        given = progress
        progress = TrainingProgress(**{**saved["progress"], "polish": given.polish})
        if given.steps is not None:
            progress.decay_at, progress.steps = given.decay_at, given.steps
    full_rates = [[MATRIX_RATE], [OTHER_RATE, OTHER_RATE]]
    forward = make_forward(shape)
    rotary = {n: rotary_tables(shape, n, device) for n in (settings.context, settings.decay_context)}

    def checkpoint(name: str) -> None:
        facts = {"settings": asdict(settings), "shape": asdict(shape), "progress": asdict(progress)}
        versions = {"python": sys.version.split()[0], "torch": str(torch.__version__)}
        states = [optimizer.state_dict() for optimizer in optimizers]
        save_checkpoint(work / name, {"weights": weights, "optimizers": states, "versions": versions, **facts})

    def one_step() -> float:
        decaying = progress.decay_at is not None and progress.step >= progress.decay_at
        context = settings.decay_context if decaying else settings.context
        stream = bare if progress.polishing else whole
        batch = batch_windows(stream, progress.step, settings.batch_tokens // context, context, settings.seed)
        tokens = torch.from_numpy(batch).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = forward(weights, tokens[:, :-1], rotary[context])
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        factor = learning_rate_factor(progress)
        for optimizer, rates in zip(optimizers, full_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    last_saved, smoothed = time.monotonic(), 0.0
    while progress.steps is None or progress.step < progress.steps + progress.polish:
        start_decay_by_clock(progress, minutes)
        if progress.step == progress.decay_at:
            checkpoint("stable.pt")
        started = time.monotonic()
        loss = one_step()
        progress.seconds += min(time.monotonic() - started, LONGEST_STEP_SECONDS)
        progress.step += 1
        smoothed = loss if smoothed == 0.0 else 0.95 * smoothed + 0.05 * loss
        if progress.step % PROGRESS_STEPS == 0:
            rate = settings.batch_tokens / (time.monotonic() - started)
            goal = f"{minutes:g} min" if progress.steps is None else progress.steps + progress.polish
            line = f"step {progress.step} of {goal}  {progress.seconds / 60:.1f} min  loss {smoothed:.4f}"
            print(f"{line}  rate x{learning_rate_factor(progress):.2f}  {rate:.0f} tokens/s", flush=True)
        if time.monotonic() - last_saved > CHECKPOINT_SECONDS:
            checkpoint("checkpoint.pt")
            last_saved = time.monotonic()
    checkpoint("checkpoint.pt")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m aprtui.demo.train", description="Train the embedded model.")
    parser.add_argument("--work", type=Path, required=True, help="folder for tokenizer, token stream, checkpoints")
    parser.add_argument("--minutes", type=float, default=80.0, help="training time; sets when the decay starts")
    parser.add_argument("--decay-at", type=int, help="start the decay at this step instead (with --steps)")
    parser.add_argument("--steps", type=int, help="end the decay at this step (with --decay-at)")
    parser.add_argument("--polish", type=int, default=400, help="steps on bare code after the decay")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="any PyTorch device")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--resume", type=Path, help="checkpoint to go on from")
    options = parser.parse_args(arguments)
    if (options.decay_at is None) != (options.steps is None):
        parser.error("--decay-at and --steps go together")
    if options.decay_at is not None and not 0 <= options.decay_at < options.steps:
        parser.error("--decay-at must lie before --steps")
    options.work.mkdir(parents=True, exist_ok=True)
    load_torch().set_num_threads(options.threads)
    pid_file = options.work / "pid"
    pid_file.write_text(f"{os.getpid()}\n", encoding="ascii")
    progress = TrainingProgress(decay_at=options.decay_at, steps=options.steps, polish=options.polish)
    try:
        train(options.work, Settings(seed=options.seed), NetworkShape(), progress, options.minutes, options)
    finally:
        with contextlib.suppress(FileNotFoundError):
            pid_file.unlink()


if __name__ == "__main__":
    main()
