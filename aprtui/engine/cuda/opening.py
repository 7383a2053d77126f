"""Opening a model on a GPU: find the device and its kernels, see that the model fits, load it."""

from __future__ import annotations

from aprtui.engine.cuda import detect
from aprtui.engine.cuda.device import Device
from aprtui.engine.cuda.device_thread import DeviceThread
from aprtui.engine.cuda.engine import CudaEngine
from aprtui.engine.cuda.images import kernel_images
from aprtui.engine.cuda.sizes import fitting_context, memory_need, require_fits, require_supported
from aprtui.engine.cuda.sources import KernelImages
from aprtui.engine.protocol import KvType, Mode
from aprtui.errors import EngineError
from aprtui.model.model import Model
from aprtui.progress import Progress


def open_cuda(model: Model, mode: Mode, kv: KvType, context: int, progress: Progress, *, fit: bool) -> CudaEngine:
    """`model` on the first device that can run it; with `fit`, with as many positions up to `context` as fit.

    Raises `EngineError` where no device can, or the model does not fit.
    """
    found = detect.detect()
    device = found.require()
    require_supported(model)
    assert found.driver is not None
    images = kernel_images(device.capability, found.driver, progress)
    thread = DeviceThread()

    def report(what: str, done: int, total: int) -> None:
        if thread.cancelled.is_set():
            raise EngineError("opening the engine was interrupted")
        progress(what, done, total)

    return CudaEngine(
        model, mode, kv,
        device=str(device), code_path=f"sm_{device.capability[0]}{device.capability[1]}, kernels {images.digest}",
        thread=thread, opened=lambda: _opened(model, mode, kv, context, device.ordinal, images, report, fit=fit),
    )  # fmt: skip


def _opened(
    model: Model, mode: Mode, kv: KvType, context: int, ordinal: int, images: KernelImages, progress: Progress,
    *, fit: bool,
) -> Device:  # fmt: skip
    from aprtui.engine.cuda.pycuda_driver import PyCudaDriver

    driver = PyCudaDriver(ordinal)
    try:
        free = driver.free_memory()
        if fit:
            context = fitting_context(model, mode, kv, context, free) or context
        require_fits(model, mode, kv, context, free)
        need = memory_need(model, mode, kv, context)

        def loading(what: str, done: int, total: int) -> None:
            progress(f"{what}, needs {need}", done, total)

        return Device(driver, images, model, mode, kv, context, loading)
    except BaseException:
        driver.close()
        raise
