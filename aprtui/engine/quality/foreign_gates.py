"""Gates of `apr qa` about things that this engine has not: listed by name and skipped, so that none seems to pass."""

from __future__ import annotations

from aprtui.engine.backends.registry import is_host
from aprtui.engine.protocol import Mode
from aprtui.engine.quality.gate import GateFinding, ModelUnderTest
from aprtui.engine.quality.repeat_gates import backend_state_isolation


def classifier_head(subject: ModelUnderTest) -> GateFinding:
    """The head of a classifier is sound."""
    return GateFinding.skipped("about classifiers: the model generates text and has no such head")


def ollama_parity(subject: ModelUnderTest) -> GateFinding:
    """The speed holds against Ollama's."""
    return GateFinding.skipped("about a server of Ollama: aprtui oracle and diff compare values with other engines")


def format_parity(subject: ModelUnderTest) -> GateFinding:
    """A SafeTensors file of the model gives the same output."""
    return GateFinding.skipped("about a SafeTensors file beside this one: --against and diff --weights compare files")


def ptx_parity(subject: ModelUnderTest) -> GateFinding:
    """Kernels that are generated as PTX agree with each other."""
    return GateFinding.skipped("about generated PTX: kernels here are CUDA C++, tested in tests/kernels")


def gpu_state_isolation(subject: ModelUnderTest) -> GateFinding:
    """Runs on the GPU do not depend on the runs before them."""
    if is_host(subject.engine(Mode.Q8).backend):
        return GateFinding.skipped("no GPU is used: backend_state_isolation tests the backend that is")
    return backend_state_isolation(subject)
