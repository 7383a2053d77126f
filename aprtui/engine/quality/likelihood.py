"""A gate on how well a model predicts a fixed text: what makes nothing crash and no number odd shows here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.generation import evaluate
from aprtui.engine.protocol import Logits, Mode
from aprtui.engine.quality.gate import CONTEXT, GateFinding, ModelUnderTest, QualityOptions
from aprtui.errors import AprtuiError, EngineError, UnreadableError
from aprtui.model.model import Model, load_model
from aprtui.resources import embedded_model
from aprtui.trace.aprt import write_atomically

TEXT = '''\
def read_lines(path):
    """Return the lines of a text file without their line ends."""
    with open(path, encoding="utf-8") as file:
        return [line.rstrip("\\n") for line in file]


class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("pop from an empty stack")
        return self.items.pop()


def main():
    for name in sorted(os.listdir(".")):
        if name.endswith(".py"):
            print(name, len(read_lines(name)))


if __name__ == "__main__":
    main()
'''
"""Plain Python, which every model for code or text has seen much of."""

MARGIN = 0.01
"""Nats a token above a mean that was given. Backends move the mean by less than 1e-5, the modes by less than 0.01."""

DEVIATION = 0.05
"""Nats by which a token may differ on average, whatever the sign, from a baseline of the same model: a wrecked matrix
moves a short text's mean either way, and every token by more than this. See docs/qa.md for what was measured."""

Nats = NDArray[np.float64]


def token_nll(subject: ModelUnderTest) -> Nats:
    """The negative log-likelihood of each token of `TEXT` but the first, in nats; NaN where logits are not finite."""
    tokens = subject.model.tokenizer.encode(TEXT, special=True)[:CONTEXT]
    made = evaluate(subject.engine(Mode.EXACT), tokens, prefill=len(tokens), logits=Logits.ALL)
    logits = made[:-1].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        highest = logits.max(axis=1, keepdims=True)
        total = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
    nats: Nats = total - logits[np.arange(len(logits)), tokens[1:]]
    return nats


def text_likelihood(subject: ModelUnderTest) -> GateFinding:
    """The text is predicted as by the baseline: by its mean where that is `nll`, else token by token as by the model
    `against`, the stored one, or the embedded one for a model of its name."""
    options, found = subject.options, token_nll(subject)
    mean = float(found.mean())
    if not np.isfinite(mean):
        return GateFinding.failed("the likelihood of the text is not a number: logits are not finite", mean, None)
    if options.nll is not None:
        message = f"{mean:.4f} nats a token of a fixed text, {options.nll:g} were given"
        return GateFinding.of(mean <= options.nll + MARGIN, message, mean, options.nll + MARGIN)
    baseline, whose = _baseline(subject)
    if options.save_baseline and options.likelihoods is not None:
        _store(_place(options.likelihoods, subject.model), found)
    said = f"{mean:.4f} nats a token of a fixed text"
    if baseline is None:
        kept = "stored as the first" if options.save_baseline else "--save-baseline stores one, --nll gives one"
        return GateFinding.skipped(f"{said}, and no baseline to compare with: {kept}")
    if len(baseline) != len(found):
        return GateFinding.unknown(f"{said}; {whose} has {len(baseline) + 1} tokens of it, this one {len(found) + 1}")
    deviation = float(np.abs(found - baseline).mean())
    message = f"{said}, {mean - baseline.mean():+.4f} against {whose}; a token differs by {deviation:.4f} on average"
    if deviation > DEVIATION:
        message += ": other weights (--save-baseline stores those of a model that was quantised anew)"
    return GateFinding.of(deviation <= DEVIATION, message, deviation, DEVIATION)


def _baseline(subject: ModelUnderTest) -> tuple[Nats | None, str]:
    """The nats of the baseline, and whose they are."""
    options = subject.options
    if options.against is not None:
        return _of_file(options.against, options), options.against.name
    stored = None if options.likelihoods is None else _stored(_place(options.likelihoods, subject.model))
    if stored is not None:
        return stored, "what is stored for a model of this name"
    if subject.model.name == EMBEDDED:
        return _of_file(embedded_model(), options), "the embedded model, which has this name"
    return None, ""


EMBEDDED = "aprtui demo"
"""The name of the model that comes with the program: a damaged file of it has its name still."""


def _of_file(path: Path, options: QualityOptions) -> Nats:
    with ModelUnderTest(load_model(path), options) as other:
        return token_nll(other)


def _place(folder: Path, model: Model) -> Path:
    """Where the baseline of a model lies: by name and quantisation, since a damaged file has other bytes."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{model.name}-{model.quantization or 'unknown'}")
    return folder / f"nll-{name}.json"


def _stored(path: Path) -> Nats | None:
    try:
        stored = np.asarray(json.loads(path.read_text())["token_nll"], np.float64)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableError(f"{path}: no baseline: {error}: remove it, or --save-baseline replaces it") from error
    if stored.ndim != 1 or not np.isfinite(stored).all():
        raise UnreadableError(f"{path}: no baseline: token_nll is no list of numbers: remove it")
    return stored


def _store(path: Path, nats: Nats) -> None:
    try:
        write_atomically(path, json.dumps({"token_nll": [round(value, 6) for value in nats.tolist()]}).encode())
    except AprtuiError as error:
        raise EngineError(f"the baseline was not stored: {error}") from error
