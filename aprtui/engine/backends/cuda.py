"""The CUDA kernels on an NVIDIA GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprtui.engine.backends.backend import Backend, BackendObstacle, DeviceIdentity, EngineRequest

if TYPE_CHECKING:
    from aprtui.engine.protocol import Engine


def _obstacle() -> BackendObstacle | None:
    from aprtui.engine.cuda import detect

    found = detect.detect()
    return None if found.obstacle is None else BackendObstacle(found.problem, found.advice)


def _description() -> str:
    import importlib.metadata

    from aprtui.engine.cuda import detect

    found = detect.detect()
    assert found.driver is not None
    devices, (major, minor) = ", ".join(map(str, found.devices)), found.driver
    return f"{devices}; driver for CUDA {major}.{minor}; PyCUDA {importlib.metadata.version('pycuda')}"


def _open(request: EngineRequest) -> Engine:
    from aprtui.engine.cuda.engine import open_cuda

    return open_cuda(request.model, request.mode, request.kv, request.context, request.progress, fit=request.fit)


def _identity() -> DeviceIdentity:
    from aprtui.engine.cuda import detect
    from aprtui.engine.cuda.images import source_digest

    found = detect.detect()
    device = found.require()
    assert found.driver is not None
    return DeviceIdentity(str(device), f"{found.driver[0]}.{found.driver[1]}", source_digest())


CUDA = Backend(
    "cuda", "CUDA", "an NVIDIA GPU", _obstacle, _open,
    description=_description,
    identity=_identity,
    kv_types=("f32", "f16"),
    interventions_problem="its kernels compute several stages at once, so no fault can be injected between them",
)  # fmt: skip
