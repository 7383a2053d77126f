"""What is kept beside buffers: no tensor of the file, whatever its type, so that a file may be larger than the memory.

numpy tells `tracemalloc` of every array, and maps of files are none: what stays of a matrix that somebody has
dequantised shows, in a model whose matrices are far larger than all buffers of an engine. A replay has larger buffers,
so there it is counted how much is dequantised at a time.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.verdict import Verdict
from aprtui.engine.cpu.storage import CpuStorage
from aprtui.engine.judging import judged_by_floor
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Logits, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model import weights
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from tests.engine.embedded_captures import captured
from tests.model.gguf_files import write_model

TOKENS = (3, 1, 4, 1, 5, 9)
HIDDEN, FFN = 256, 8192
MATRIX = 4 * HIDDEN * FFN
"""Bytes of the values of one matrix of a feed-forward block, in float32; a model has six of them."""
KINDS = [
    pytest.param(kind, id=kind.name, marks=() if kind is WeightType.Q4_K else pytest.mark.slow) for kind in WeightType
]


@contextmanager
def most_held() -> Iterator[list[int]]:
    """A list that gets the most bytes of arrays and objects that there were at any time meanwhile."""
    found: list[int] = []
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield found
        _, most = tracemalloc.get_traced_memory()
        found.append(most - before)
    finally:
        tracemalloc.stop()


def model_of(folder: Path, kind: WeightType, architecture: str = "qwen2") -> Model:
    path = folder / f"{architecture}.gguf"
    return load_model(write_model(path, architecture=architecture, weight_type=kind, hidden=HIDDEN, ffn=FFN))


def evaluate(model: Model, mode: Mode) -> None:
    """A prompt and a token more."""
    with closing(open_engine(model, backend="cpu", mode=mode, kv=KvType.F32, context=16, threads=1)) as engine:
        engine.forward(TOKENS)
        engine.forward((7,), logits=Logits.ALL)


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_holds_no_matrix_dequantised(tmp_path: Path, kind: WeightType) -> None:
    model = model_of(tmp_path, kind)
    for mode in Mode:
        evaluate(model, mode)  # what is compiled and imported once
        with most_held() as found:
            evaluate(model, mode)
        assert found[0] < MATRIX / 2, mode


@pytest.mark.slow
def test_a_matrix_that_is_kept_dequantised_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, opened = model_of(tmp_path, WeightType.Q4_K), CpuStorage.__init__
    kept = []

    def keeping(self: CpuStorage, model: Model, *more: Any) -> None:
        opened(self, model, *more)
        kept.append(model.weights["blk.0.ffn_up.weight"].dequantize())

    evaluate(model, Mode.EXACT)
    monkeypatch.setattr(CpuStorage, "__init__", keeping)
    with most_held() as found:
        evaluate(model, Mode.EXACT)
    assert found[0] > MATRIX


@pytest.mark.slow
@pytest.mark.parametrize("kind", [WeightType.Q4_K, WeightType.F16, WeightType.IQ2_XXS], ids=lambda kind: kind.name)
def test_neither_a_replay_nor_a_diff_dequantises_a_whole_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: WeightType
) -> None:
    model, largest = model_of(tmp_path, kind), [0]
    a = Capture.open(captured(model, tmp_path / "a", tokens=TOKENS))
    b = captured(model, tmp_path / "b", Mode.Q8, KvType.F16, tokens=TOKENS)
    (b / "manifest.json").unlink()
    honest = weights.dequantized

    def counted(kind: str, data: NDArray[np.uint8], columns: int) -> NDArray[np.float32]:
        largest[0] = max(largest[0], data.shape[0] * columns)
        return honest(kind, data, columns)

    monkeypatch.setattr(weights, "dequantized", counted)
    with Evaluators(model, threads=1) as evaluators:
        options = ReplayOptions(tokens=TOKENS)
        assert replay_capture(Capture.open(b), model, options, evaluators).verdict is Verdict.PASS
    judged_by_floor(a, Capture.open(b), model, TOKENS, no_progress, 1)
    assert 0 < largest[0] < HIDDEN * FFN
