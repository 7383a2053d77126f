"""Whether an engine fits into the processor's memory."""

from __future__ import annotations

from aprtui.engine.backends.backend import EngineRequest
from aprtui.errors import EngineError
from aprtui.machine import available_memory


def context_in_memory(request: EngineRequest) -> int:
    """The context of `request`, reduced to what fits if it asks for that. Raises `EngineError` if the K/V cache alone
    takes more memory than is available."""
    graph, context = request.model.config.graph, request.context
    position = 2 * (2 if request.kv == "f16" else 4) * graph.layers * graph.kv_width
    available = available_memory()
    if available is None or position * context <= available:
        return context
    fits = available // position
    if request.fit and fits:
        return fits
    raise EngineError(
        f"a K/V cache of {context} positions needs {position * context / 1e9:.1f} GB, {available / 1e9:.1f} GB are "
        "available: use a smaller --context (or --context fit), or --kv f16"
    )
