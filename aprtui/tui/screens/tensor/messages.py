"""What the tensor screen's threads tell it."""

from __future__ import annotations

from textual.message import Message

from aprtui.trace.capture import Capture
from aprtui.trace.profile import Profile
from aprtui.tui.screens.tensor.load import Glimpse
from aprtui.tui.screens.tensor.source import TensorSource


class Glimpsed(Message):
    """A tile was read."""

    def __init__(self, glimpse: Glimpse) -> None:
        super().__init__()
        self.glimpse = glimpse


class Profiled(Message):
    """A plane was read as a whole."""

    def __init__(self, source: TensorSource, plane: int, profile: Profile) -> None:
        super().__init__()
        self.source, self.plane, self.profile = source, plane, profile


class Worded(Message):
    """The texts of the tokens are known."""

    def __init__(self, capture: Capture, texts: tuple[str, ...]) -> None:
        super().__init__()
        self.capture, self.texts = capture, texts


class Failed(Message):
    """A file cannot be read any more, or is not what it should be."""

    def __init__(self, source: TensorSource, problem: str) -> None:
        super().__init__()
        self.source, self.problem = source, problem
