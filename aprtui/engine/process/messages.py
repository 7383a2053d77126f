"""What goes over the pipe between an app and its engine process: commands one way, events the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from aprtui.engine.backends.registry import AUTO
from aprtui.engine.generation import StopReason
from aprtui.engine.logit_noise import LogitNoise
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.sampling import Sampling
from aprtui.model.prompt import ChatPrompt
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage import Node


class Control(StrEnum):
    """Commands without parameters."""

    PAUSE = "pause"
    RESUME = "resume"
    STEP = "step"
    CANCEL = "cancel"
    MEASURE_NOISE = "measure noise"
    QUIT = "quit"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Which engine is wanted: what `--backend --mode --kv --threads --context --inject` are to a command.

    Without `threads` or `context` the opener chooses.
    """

    backend: str = AUTO
    mode: Mode = Mode.Q8
    kv: KvType = KvType.F32
    threads: int | None = None
    context: int | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Generate:
    """Start generating from `prompt` (text, token ids, or the next turn of a conversation); ends a generation that is
    still going on. Of a conversation, what the engine still holds of the turns before is not evaluated again."""

    run: int
    prompt: str | tuple[int, ...] | ChatPrompt
    max_tokens: int
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Reopen:
    """Open the model again with other settings; ends a generation. If that fails, the engine stays as it is."""

    settings: EngineSettings


@dataclass(frozen=True, slots=True)
class SetPace:
    """Make at most this many tokens a second from now on; None for as many as the engine can."""

    tokens_per_second: float | None


@dataclass(frozen=True, slots=True)
class SetLens:
    """Compute the logit lens of every token from now on, or no longer."""

    on: bool


@dataclass(frozen=True, slots=True)
class WriteCapture:
    """Write the tokens of the run so far as a capture to `directory`, between two tokens."""

    directory: Path


Command = Generate | Reopen | SetPace | SetLens | WriteCapture | Control


@dataclass(frozen=True, slots=True)
class EngineDescription:
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
    faults: tuple[str, ...] = ()
    """The faults that are injected, as `--inject` takes them."""
    path: Path | None = None
    """The model's file, where there is one."""
    chosen: str = ""
    """Which backend was chosen and why, where the choice was `auto`."""
    fault_kinds: Mapping[Node, tuple[str, ...]] = field(default_factory=dict)
    """The kinds of faults that each stage of the model can have."""
    has_template: bool = False
    """Whether the model has a chat template."""


@dataclass(frozen=True, slots=True)
class StepProgress:
    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Reopening:
    """The engine is being opened again."""


@dataclass(frozen=True, slots=True)
class LoadingCancelled:
    """The process that was loading is ended: there is no engine until it is started again."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The engine can take commands."""

    info: EngineDescription


@dataclass(frozen=True, slots=True)
class Started:
    """A generation has begun: the prompt as token ids and as their text, special tokens included.

    The record of its first token will be number `first_record`. The engine still held the first `kept` tokens.
    """

    run: int
    prompt: str
    tokens: tuple[int, ...]
    first_record: int
    kept: int = 0


@dataclass(frozen=True, slots=True)
class TokenNames:
    """The texts of token ids that records are about to mention for the first time: part of a character is U+FFFD.

    `special` are those that steer the model rather than stand for text.
    """

    names: tuple[tuple[int, str], ...]
    special: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class TokenText:
    """The text that token number `index` of a generation made certain, and the model's own figures for the token.

    Its record lies in the slots already, but may be overwritten by the time that this is read.
    """

    run: int
    index: int
    id: int
    text: str
    logprob: float
    entropy: float
    margin: float


@dataclass(frozen=True, slots=True)
class Paused:
    """The engine has come to rest between two tokens."""

    run: int


@dataclass(frozen=True, slots=True)
class Resumed:
    run: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A generation has ended; `tail` is the text of a character that stayed incomplete."""

    run: int
    reason: StopReason
    tail: str


@dataclass(frozen=True, slots=True)
class Captured:
    """A capture has been written: `tokens` tokens, `size` bytes in `files` files."""

    directory: Path
    tokens: int
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class NoiseMeasured:
    """How far the logits of the two modes are apart on this model."""

    noise: LogitNoise


@dataclass(frozen=True, slots=True)
class Declined:
    """A side task could not be done, for a reason in one line; everything else goes on."""

    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Something went wrong, in one line. The engine goes on to take commands unless `fatal`."""

    message: str
    fatal: bool


Event = (
    StepProgress | Reopening | LoadingCancelled | Loaded | Started | TokenNames | TokenText | Paused | Resumed
    | Finished | Captured | NoiseMeasured | Declined | Failed
)  # fmt: skip
