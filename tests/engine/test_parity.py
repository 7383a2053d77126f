"""The gate before `auto` takes a GPU: honest engines pass, faults in prefill, decode or the native mode do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.engine import opening, parity
from aprtui.engine.backends.backend import DeviceIdentity
from aprtui.engine.cuda import detect
from aprtui.engine.cuda.detect import CudaDevice, Detection
from aprtui.engine.parity import Parity, cached_parity, known_parities, parity_gate, prompt_of
from aprtui.engine.protocol import Engine, KvType, Mode, NodeCall
from aprtui.errors import EngineError, UsageError
from aprtui.model.model import Model
from aprtui.progress import no_progress
from aprtui.trace.graph.stage import Node

DEVICE = CudaDevice(0, "a GPU", (9, 0), 80_000_000_000)


class Fault:
    """Doubles some channels of one node, in the passes of that many tokens."""

    def __init__(self, node: Node, passes: Callable[[int], bool] = lambda tokens: True, factor: float = 2.0) -> None:
        self.nodes, self._passes, self._factor = frozenset({node}), passes, factor

    def __call__(self, call: NodeCall) -> np.ndarray:
        if not self._passes(len(call.tokens)):
            return call.output
        changed = call.output.copy()
        changed[..., :40] *= self._factor
        return changed


def judged(model: Model, faults: dict[Mode, Fault]) -> Parity:
    def device(mode: Mode) -> Engine:
        fault = faults.get(mode)
        return opening.open_engine(model, backend="numpy", mode=mode, context=parity.POSITIONS, intervention=fault)

    def reference() -> Engine:
        return opening.open_engine(model, backend="cpu", threads=1, context=parity.POSITIONS)

    return parity_gate(model, device, reference, 1, no_progress)


def test_an_honest_engine_passes_with_its_figures(model: Model) -> None:
    found = judged(model, {})
    assert found.passed, found.reason
    assert 0 < found.logits <= 1e-5
    assert 1 - 1e-9 <= found.cosine <= 1 + 1e-12
    assert "at 96 positions, 8 of them decoded, cosine 1.0000000; mode q8 replays" in found.reason


@pytest.mark.parametrize(("way", "passes"), [("prefill", lambda n: n > 1), ("decode", lambda n: n == 1)])
def test_a_fault_in_either_path_fails_by_the_logits(model: Model, way: str, passes: Callable[[int], bool]) -> None:
    found = judged(model, {Mode.EXACT: Fault(Node(1, "ffn_out"), passes)})
    assert not found.passed
    assert found.logits > 1e-4
    at = int(re.fullmatch(rf".* at position (\d+) \({way}\), 0.0001 is allowed; cosine .*", found.reason)[1])  # type: ignore[index]
    assert (at >= parity.POSITIONS - parity.DECODED) is (way == "decode")


def test_a_small_fault_is_not_saved_by_its_cosine(model: Model) -> None:
    found = judged(model, {Mode.EXACT: Fault(Node(1, "ffn_out"), factor=1.01)})
    assert not found.passed
    assert found.cosine > 0.999


def test_a_fault_of_the_native_mode_is_named_at_its_stage(model: Model) -> None:
    found = judged(model, {Mode.Q8: Fault(Node(2, "ffn_up"))})
    assert not found.passed
    assert found.logits <= 1e-5
    assert found.reason.startswith("its mode q8 adds an error of its own at layer 2 ffn_up: ")


def test_a_model_without_a_tokenizer_has_a_prompt_too(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prompt_of(model)
    assert len(whole) == parity.POSITIONS
    monkeypatch.setattr(parity, "_PROMPT", "x")
    assert len(prompt_of(model)) == parity.POSITIONS


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from aprtui.engine import parity as parity_cache

    monkeypatch.setattr(parity_cache, "parity_cache", lambda: tmp_path / "parity")
    return tmp_path / "parity"


def test_a_result_is_measured_once_for_a_device_a_driver_and_a_model(model: Model, own_cache: Path) -> None:
    results = iter([Parity(True, "one", 1e-7, 1.0), Parity(False, "two", 1.0, 0.5), Parity(True, "f16", 0.0, 1.0)])
    older, newer = (DeviceIdentity(str(DEVICE), driver, "kernels") for driver in ("13.0", "13.1"))

    def found(device: DeviceIdentity, kv: KvType = KvType.F32) -> Parity:
        return cached_parity(model, device, kv, lambda: next(results))

    first = found(older)
    assert found(older) == first
    assert found(newer).reason == "two"
    assert found(older, KvType.F16).reason == "f16"
    assert {(known.driver, known.parity.reason, known.model) for known in known_parities(older)} == {
        ("13.0", "one", model.name), ("13.1", "two", model.name), ("13.0", "f16", model.name),
    }  # fmt: skip
    assert list(known_parities(replace(older, device="another"))) == []
    for path in own_cache.glob("*"):
        path.write_text("{")
    assert list(known_parities(older)) == []


class Auto:
    """`auto` on a machine with `DEVICE`, whose gate says `parity`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: Detection, gate: Parity | EngineError) -> None:
        from aprtui.engine import parity as parity_cache
        from aprtui.engine.cuda import engine

        self.told: list[str] = []
        self.opened: list[Mode] = []

        def said(*_: object) -> Parity:
            if isinstance(gate, EngineError):
                raise gate
            return gate

        class OnDevice:
            backend = "cuda"

        def open_cuda(model: Model, mode: Mode, *_: object, **__: object) -> OnDevice:
            self.opened.append(mode)
            return OnDevice()

        monkeypatch.setattr(detect, "detect", lambda: found)
        monkeypatch.setattr(parity_cache, "cached_parity", said)
        monkeypatch.setattr(engine, "open_cuda", open_cuda)

    def open(self, model: Model, backend: str = "auto", intervention: Fault | None = None) -> Engine:
        return opening.open_engine(
            model, backend=backend, context=8, threads=1, announce=self.told.append, intervention=intervention
        )


FOUND = Detection((13, 0), (DEVICE,))
NONE = Detection(obstacle=detect.Obstacle.NO_DEVICE, problem="sees no device")


def test_auto_takes_a_gpu_that_has_passed_and_says_why(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = Auto(monkeypatch, FOUND, Parity(True, "logits within 1e-07", 1e-7, 1.0))
    assert auto.open(model).backend == "cuda"
    assert auto.opened == [Mode.EXACT]
    assert auto.told == ["backend cuda: a GPU (sm_90, 80.0 GB): logits within 1e-07"]


@pytest.mark.parametrize(
    ("found", "gate", "why"),
    [
        (FOUND, Parity(False, "its logits are off", 1.0, 0.9), "a GPU (sm_90, 80.0 GB): its logits are off"),
        (FOUND, EngineError("backend cuda: 9 GB needed: use a smaller model, or --backend cpu"), "9 GB needed"),
        (NONE, Parity(True, "", 0.0, 1.0), "sees no device"),
    ],
)
def test_auto_takes_the_cpu_otherwise_and_says_why(
    model: Model, monkeypatch: pytest.MonkeyPatch, found: Detection, gate: Parity | EngineError, why: str
) -> None:
    auto = Auto(monkeypatch, found, gate)
    engine = auto.open(model)
    assert engine.backend == "cpu"
    engine.close()
    assert auto.told == [f"backend cpu: {why}"]
    assert auto.opened == []


def test_faults_go_to_the_cpu_and_a_backend_by_name_is_never_replaced(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = Auto(monkeypatch, FOUND, Parity(True, "fine", 0.0, 1.0))
    engine = auto.open(model, intervention=Fault(Node(0, "ffn_up")))
    assert engine.backend == "cpu"
    engine.close()
    assert auto.told == ["backend cpu: faults cannot be injected on cuda"]
    with pytest.raises(UsageError, match="no fault can be injected"):
        auto.open(model, "cuda", Fault(Node(0, "ffn_up")))
    failing = Auto(monkeypatch, FOUND, Parity(False, "off", 1.0, 0.0))
    assert failing.open(model, "cuda").backend == "cuda", "who asks for it by name gets it"
    assert failing.told == []
