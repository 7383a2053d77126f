"""A gate on how well a model predicts a fixed text: what makes nothing crash and no number odd shows here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from aprtui.engine.generation import evaluate
from aprtui.engine.protocol import Logits, Mode
from aprtui.engine.quality.gate import CONTEXT, GateFinding, ModelUnderTest
from aprtui.errors import AprtuiError, EngineError, UnreadableError
from aprtui.model.model import Model, load_model
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
"""Nats a token around the baseline. Backends move the mean by less than 1e-5, the modes by less than 0.005."""


def mean_nll(subject: ModelUnderTest) -> float:
    """The mean negative log-likelihood of a token of `TEXT`, in nats; NaN where a logit is not finite."""
    tokens = subject.model.tokenizer.encode(TEXT, special=True)[:CONTEXT]
    made = evaluate(subject.engine(Mode.EXACT), tokens, prefill=len(tokens), logits=Logits.ALL)
    logits = made[:-1].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        highest = logits.max(axis=1, keepdims=True)
        total = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
    return float(np.mean(total - logits[np.arange(len(logits)), tokens[1:]]))


def text_likelihood(subject: ModelUnderTest) -> GateFinding:
    """The text is predicted as by the baseline: that given, that of the model `against`, stored, or shipped.

    One that predicts it better is another model than the baseline's: unknown, but failed where aprtui itself came with
    the only one that there is.
    """
    options = subject.options
    found = mean_nll(subject)
    if not np.isfinite(found):
        return GateFinding.failed("the likelihood of the text is not a number: logits are not finite", found, None)
    baseline, whose, is_only = _baseline(subject)
    if options.save_baseline and options.likelihoods is not None:
        _store(_place(options.likelihoods, subject.model), found)
    if baseline is None:
        kept = "stored as the first" if options.save_baseline else "--save-baseline stores one, --nll gives one"
        return GateFinding.skipped(f"{found:.4f} nats a token of a fixed text, and no baseline to compare with: {kept}")
    message = f"{found:.4f} nats a token of a fixed text, {found - baseline:+.4f} against {whose}"
    if found < baseline - MARGIN and not is_only:
        return GateFinding.unknown(f"{message}: the baseline is of another model", found, baseline + MARGIN)
    if found < baseline - MARGIN:
        return GateFinding.failed(f"{message}: the file is another model", found, baseline - MARGIN)
    return GateFinding.of(found <= baseline + MARGIN, message, found, baseline + MARGIN)


def _baseline(subject: ModelUnderTest) -> tuple[float | None, str, bool]:
    """The baseline, whose it is, and whether no other model of the name is honest."""
    options = subject.options
    if options.nll is not None:
        return options.nll, f"the {options.nll:g} given", False
    if options.against is not None:
        good = load_model(options.against)
        with ModelUnderTest(good, options) as other:
            return mean_nll(other), options.against.name, False
    stored = None if options.likelihoods is None else _stored(_place(options.likelihoods, subject.model))
    if stored is not None:
        return stored, f"the {stored:.4f} stored for a model of this name", False
    shipped = SHIPPED.get(subject.model.name)
    return shipped, f"the {shipped} of the model of this name that comes with aprtui", True


SHIPPED = {"aprtui demo": 1.7657}
"""Baselines that come with the program, by the model's name: a damaged file of the model has its name still."""


def _place(folder: Path, model: Model) -> Path:
    """Where the baseline of a model lies: by name and quantisation, since a damaged file has other bytes."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{model.name}-{model.quantization or 'unknown'}")
    return folder / f"nll-{name}.json"


def _stored(path: Path) -> float | None:
    try:
        stored = float(json.loads(path.read_text())["nll"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableError(f"{path}: no baseline: {error}: remove it, or --save-baseline replaces it") from error
    if not 0 <= stored < 100:
        raise UnreadableError(f"{path}: nll is {stored}: expected 0 … 100: remove it")
    return stored


def _store(path: Path, nll: float) -> None:
    try:
        write_atomically(path, json.dumps({"nll": nll}).encode())
    except AprtuiError as error:
        raise EngineError(f"the baseline was not stored: {error}") from error
