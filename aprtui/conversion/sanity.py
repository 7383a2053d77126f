"""One GGUF file by itself: what no converter means, whatever it was converted from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import counted
from aprtui.conversion.finding import FileFinding
from aprtui.errors import UnreadableError
from aprtui.model.model import Model
from aprtui.model.weights import BLOCK_VALUES, Weight
from aprtui.progress import Progress
from aprtui.trace.graph.stage import Node

_ZEROS = "the layer adds nothing there: text is a little worse, or makes no sense"
_DEFAULTED = {"rope.freq_base": ("10000", "q_post_rope", "right for the first tokens, worse with every position")}
"""Keys that engines have a default for which few models use: the default, the stage, how it shows."""


def metadata_findings(model: Model) -> Iterator[FileFinding]:
    """Keys that are missing where a default is taken in silence, and a tokenizer that cannot be used."""
    for key, (default, stage, symptom) in _DEFAULTED.items():
        if f"{model.architecture}.{key}" not in model.metadata:
            said = f"is missing: engines take {default}, which may be meant; --against the original settles it"
            yield FileFinding(Verdict.UNKNOWN, f"{model.architecture}.{key}", said, stage, symptom)
    try:
        vocabulary = model.tokenizer.vocabulary
    except UnreadableError as error:
        yield FileFinding(Verdict.UNKNOWN, "tokenizer", str(error))
        return
    if not vocabulary.stop_ids:
        said = "no token ends a text: neither tokenizer.ggml.eos_token_id nor one known by its text"
        yield FileFinding(Verdict.FAIL, "tokenizer.ggml.eos_token_id", said, "", "answers never end")


def value_findings(model: Model, progress: Progress) -> Iterator[FileFinding]:
    """NaN and Inf in weights, and matrices that are zero."""
    total = len(model.weights)
    nodes = {weight.name: node for node in reversed(model.graph.nodes) for weight in model.params(node)}
    for done, weight in enumerate(model.weights.values()):
        progress("reading weights,", done, total)
        yield from _of_values(weight, nodes.get(weight.name))


def _of_values(weight: Weight, node: Node | None) -> Iterator[FileFinding]:
    step, stage = max(1, BLOCK_VALUES // weight.columns), node.stage if node else ""
    broken = zero_rows = 0
    for start in range(0, weight.rows, step):
        values = weight.dequantize(slice(start, min(start + step, weight.rows)))
        broken += int(np.count_nonzero(~np.isfinite(values)))
        zero_rows += int(np.count_nonzero((values == 0).all(axis=1)))
    if broken:
        said = f"{counted(broken, 'value')} NaN or Inf of {weight.rows * weight.columns}"
        yield FileFinding(Verdict.FAIL, weight.name, said, stage, "NaN from there on: no token, or always the same one")
    if zero_rows == weight.rows and weight.rows > 1:
        yield FileFinding(Verdict.FAIL, weight.name, f"all of its {weight.rows} rows are zero", stage, _ZEROS)
