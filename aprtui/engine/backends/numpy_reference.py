"""The reference in plain numpy: the oracle of everything else, and what runs where numba has no wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprtui.engine.backends.backend import Backend, EngineRequest, context_in_memory
from aprtui.progress import Progress

if TYPE_CHECKING:
    from aprtui.engine.protocol import Engine, NodeEvaluator
    from aprtui.model.config import RopeAngles
    from aprtui.model.model import Model


def _open(request: EngineRequest) -> Engine:
    from aprtui.engine.reference.engine import NumpyEngine

    context = context_in_memory(request)
    return NumpyEngine(request.model, request.mode, request.kv, context, request.intervention)


def _evaluator(model: Model, angles: RopeAngles, threads: int, progress: Progress) -> NodeEvaluator:
    from aprtui.engine.reference.nodes import NumpyNodes

    return NumpyNodes(model, angles)


NUMPY = Backend("numpy", "numpy", "slow reference", lambda: None, _open, evaluator=_evaluator, is_slow=True)
