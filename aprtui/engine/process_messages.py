"""What goes over the pipe between an app and its engine process: commands one way, events the other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from aprtui.engine.generation import StopReason
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.sampling import Sampling
from aprtui.trace.graph import GraphConfig


class Control(StrEnum):
    """Commands without parameters."""

    PAUSE = "pause"
    RESUME = "resume"
    STEP = "step"
    CANCEL = "cancel"
    QUIT = "quit"


@dataclass(frozen=True, slots=True)
class Generate:
    """Start generating from `prompt` (text, or token ids); ends a generation that is still going on."""

    run: int
    prompt: str | tuple[int, ...]
    max_tokens: int
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class SetPace:
    """Make at most this many tokens a second from now on; None for as many as the engine can."""

    tokens_per_second: float | None


Command = Generate | SetPace | Control


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What was loaded, and what it runs on."""

    model: str
    quantization: str
    graph: GraphConfig
    backend: str
    code_path: str
    mode: Mode
    kv: KvType
    context: int
    temperature: float | None
    """The sampling temperature that the model recommends, if it does."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A long step of loading: `done` of `total` parts of `what`."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """The engine can take commands."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class Started:
    """A generation has begun: the prompt as text and its length in tokens."""

    run: int
    prompt: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TokenText:
    """The text that token number `index` of a generation made certain; its figures lie in the slots already."""

    run: int
    index: int
    id: int
    text: str


@dataclass(frozen=True, slots=True)
class Paused:
    """The engine has come to rest between two tokens."""

    run: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """The engine goes on."""

    run: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A generation has ended; `tail` is the text of a character that stayed incomplete."""

    run: int
    reason: StopReason
    tail: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Something went wrong, in one line. The engine goes on to take commands unless `fatal`."""

    message: str
    fatal: bool


Event = Progress | Loaded | Started | TokenText | Paused | Resumed | Finished | Failed
