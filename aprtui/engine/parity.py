"""Whether a device computes what the CPU computes: `--backend auto` takes a GPU only if it does.

Two questions. `exact` mode: are the logits of a real prompt those of the CPU, the last ones through decode? Then the
native mode, whose roundings make logits incomparable: is every stage of the first, the middle and the last layer what
its own inputs make of it, in the arithmetic that the mode states? The cosine is shown and decides nothing: on models
with outliers honest engines reach 0.97.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui import __version__
from aprtui.compare.align.coverage import Selection
from aprtui.compare.verdict import Verdict
from aprtui.engine.backends.backend import DeviceIdentity
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.generation import evaluate
from aprtui.engine.protocol import Engine, KvType, Logits, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.engine.result_cache import all_cached, cached
from aprtui.errors import UnreadableError
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.resources import parity_cache
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node

POSITIONS = 96
"""Of the prompt: more keys than one block of a kernel takes, so that joining them is seen too."""

DECODED = 8
"""Of them, one by one."""

LOGITS_BOUND = 1e-4
"""Relative L2 of one position's logits; honest engines in `exact` mode differ by 1e-6."""

_PROMPT = '''def median(values):
    """The middle of some numbers, which need not be sorted."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def spread(values):
    """How far they lie apart: the largest less the smallest."""
    if not values:
        raise ValueError("no values were given")
    return max(values) - min(values)


def histogram(values, bins=10):
    """How many of them fall into each of some bins of equal width."""
    low, width = min(values), spread(values) / bins
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / width), bins - 1)] += 1
    return counts
'''


@dataclass(frozen=True, slots=True)
class Parity:
    """What the gate found: the worst position's error and cosine of the logits, and what the replay said."""

    passed: bool
    reason: str
    logits: float
    cosine: float


def parity_gate(
    model: Model, device: Callable[[Mode], Engine], reference: Callable[[], Engine], threads: int, progress: Progress
) -> Parity:
    """Hold the engine that `device` opens against that of `reference`, which is in `exact` mode. Both are closed.

    The device comes first: if the model does not fit there, no time is spent on the CPU.
    """
    tokens, prefill = prompt_of(model), POSITIONS - DECODED
    progress("parity with the CPU: logits", 0, 3)
    with closing(device(Mode.EXACT)) as engine:
        found = evaluate(engine, tokens, prefill=prefill, logits=Logits.ALL)
    progress("parity with the CPU: logits", 1, 3)
    with closing(reference()) as engine:
        expected = evaluate(engine, tokens, prefill=prefill, logits=Logits.ALL)
    errors, cosine = _relative(found, expected), _least_cosine(found, expected)
    worst = int(np.argmax(np.nan_to_num(errors, nan=math.inf)))
    figures = (
        f"logits within {errors[worst]:.1e} of the CPU's at {POSITIONS} positions, {DECODED} of them decoded, "
        f"cosine {cosine:.7f}"
    )
    if not errors[worst] <= LOGITS_BOUND:
        how = "prefill" if worst < prefill else "decode"
        off = f"its logits in exact mode are off by {errors[worst]:.2g} at position {worst} ({how})"
        return Parity(False, f"{off}, {LOGITS_BOUND:g} is allowed; cosine {cosine:.7f}", float(errors[worst]), cosine)
    progress("parity with the CPU: replay of the native mode", 2, 3)
    with closing(device(Mode.Q8)) as engine:
        problem = _replayed(engine, model, tokens, threads)
    progress("parity with the CPU: replay of the native mode", 3, 3)
    reason = problem or f"{figures}; mode q8 replays in the first, the middle and the last layer"
    return Parity(problem is None, reason, float(errors[worst]), cosine)


def prompt_of(model: Model, count: int = POSITIONS) -> list[int]:
    """`count` token ids of a piece of text, again and again where they are more than it has; of a model without a
    tokenizer, ids spread over its vocabulary."""
    try:
        ids = model.tokenizer.encode(_PROMPT)
    except UnreadableError:
        ids = []
    if len(ids) < POSITIONS:
        ids = np.random.default_rng(1).integers(0, model.config.graph.vocabulary, count).tolist()
    return [ids[at % len(ids)] for at in range(count)]


def _relative(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """Relative L2 of each row; NaN where either side has one."""
    wide = expected.astype(np.float64)
    return np.asarray(np.linalg.norm(found - wide, axis=1) / np.linalg.norm(wide, axis=1))


def _least_cosine(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(cosines.min())


def _replayed(engine: Engine, model: Model, tokens: list[int], threads: int) -> str | None:
    """Replay a capture of three layers by `engine`; what is wrong with it, or None."""
    graph = model.graph
    layers = sorted({0, graph.layers // 2, graph.layers - 1})
    judged = frozenset(node for node in graph.nodes if node.layer in layers)
    needed: frozenset[Node] = judged.union(*(graph.inputs(node) for node in judged))
    with tempfile.TemporaryDirectory(prefix="aprtui-parity-") as folder:
        request = CaptureRequest(tokens, None, needed, Logits.ALL, prefill=POSITIONS - DECODED)
        write_capture(engine, model, request, Path(folder) / "capture")
        options = ReplayOptions(Selection(layers=",".join(map(str, layers))))
        with Evaluators(model, threads=threads) as evaluators:
            comparison = replay_capture(Capture.open(Path(folder) / "capture"), model, options, evaluators)
    if comparison.verdict is Verdict.PASS:
        return None
    first = comparison.first_divergence
    if first is None:
        return f"its mode q8 cannot be judged: {'; '.join(comparison.reasons)}"
    return f"its mode q8 adds an error of its own at {first.verdict.node}: {first.verdict.reason}"


@dataclass(frozen=True, slots=True)
class ParityRecord:
    """A result with all that it depends on: device, driver, model, kernels and version."""

    device: str
    driver: str
    model: str
    sha256: str
    version: str
    kernels: str
    kv: str
    date: str
    parity: Parity


def cached_parity(model: Model, device: DeviceIdentity, kv: KvType, measure: Callable[[], Parity]) -> Parity:
    """The parity of `model` on `device`, whose native mode has a cache of `kv`; measured where it is not known yet."""
    key = (device.device, device.driver, model.name, model.sha256(), __version__, device.kernels, str(kv))

    def measured() -> ParityRecord:
        return ParityRecord(*key, datetime.now(UTC).strftime("%Y-%m-%d"), measure())

    return cached(parity_cache(), key, measured, encode=asdict, decode=_decode).parity


def known_parities(device: DeviceIdentity) -> Iterator[ParityRecord]:
    """What is known of `device` with this version and its kernels, under any driver."""
    for record in all_cached(parity_cache(), _decode):
        if (record.device, record.version, record.kernels) == (device.device, __version__, device.kernels):
            yield record


def _decode(fields: dict[str, Any]) -> ParityRecord:
    return ParityRecord(**{**fields, "parity": Parity(**fields["parity"])})
