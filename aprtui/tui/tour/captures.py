"""The two captures of the tour."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from aprtui.engine.backends.registry import host_backends
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Mode
from aprtui.model.model import load_model
from aprtui.model.prompt import encode_prompt
from aprtui.progress import Progress
from aprtui.resources import embedded_model
from aprtui.tui.tour.steps import FAULT, FAULTY, PROMPT, REFERENCE


def write_captures(folder: Path, progress: Progress) -> None:
    """Capture the embedded model in `folder`, as it is and with the fault. Raises `EngineError`."""
    model = load_model(embedded_model())
    ids = encode_prompt(model, PROMPT, special=True, chat=False)
    fault = FaultInjector(model, Mode.EXACT, (parse_fault(FAULT, model),))
    slow = next(backend.name for backend in host_backends() if backend.is_slow)  # it has nothing to compile
    for name, intervention in ((REFERENCE, None), (FAULTY, fault)):
        with closing(open_engine(model, backend=slow, context=len(ids), intervention=intervention)) as engine:
            request = CaptureRequest(ids, PROMPT, frozenset(model.graph.nodes))
            # Without `faults`: the manifest would give away what is to be found.
            write_capture(engine, model, request, folder / name, progress=progress)
