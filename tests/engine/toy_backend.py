"""A backend in one file: the reference under another name. `register` is the one line that a real one has in
`aprtui/engine/backends/registry.py`."""

from __future__ import annotations

from aprtui.engine.backends import registry
from aprtui.engine.backends.backend import Backend, EngineRequest
from aprtui.engine.protocol import Engine


def _open(request: EngineRequest) -> Engine:
    from aprtui.engine.reference.engine import NumpyEngine

    class ToyEngine(NumpyEngine):
        backend, code_path = "toy", "toy"

    return ToyEngine(request.model, request.mode, request.kv, request.context, request.intervention)


TOY = Backend("toy", "Toy engine", "an example", lambda: None, _open, description=lambda: "wood")


def register() -> None:
    """Add it as the slowest."""
    registry.BACKENDS.append(TOY)
