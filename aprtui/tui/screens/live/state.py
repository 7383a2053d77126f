"""What the live screen shows as text: a state that opens it again, and the headless commands that give the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from aprtui.engine.process.messages import EngineDescription, EngineSettings
from aprtui.engine.sampling import Sampling
from aprtui.errors import UsageError
from aprtui.model.discovery.naming import has_default
from aprtui.model.prompt import ChatPrompt, Exchange
from aprtui.resources import embedded_model
from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.figures import Statistic
from aprtui.tui.draw.signals import TintSignal
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.screens.live.settings import LiveSettings, form_texts, parse_form
from aprtui.tui.widgets.overview_grid import GridView

_Option = TypeVar("_Option", bound=StrEnum)

_FORM = {
    "temp": "temperature", "top_k": "top-k", "top_p": "top-p", "min_p": "min-p", "repeat_penalty": "repeat penalty",
    "seed": "seed", "mode": "mode", "backend": "backend", "kv": "K/V cache", "inject": "fault",
    "system": "system prompt",
}  # fmt: skip
"""The fields of the state that are settings, with their names in the form."""


@dataclass(frozen=True, slots=True)
class InitialState:
    """How a live screen begins.

    Without `sampling`, the model's recommendation counts; without `chat`, whether it has a chat template.
    """

    engine: EngineSettings
    sampling: Sampling | None
    view: GridView | None
    statistic: Statistic
    signal: TintSignal
    lens: bool
    node: Node | None
    token: int | None
    chat: bool | None
    system: str
    turn: ChatPrompt | None
    """The prompt, where others were said before it."""


@dataclass(frozen=True, slots=True)
class LiveLook:
    """What is looked at, and how; `token` counts from 0, None is the newest."""

    node: Node | None
    view: GridView | None
    statistic: Statistic
    signal: TintSignal
    lens: bool
    token: int | None

    def fields(self) -> dict[str, object]:
        """The same as fields of a state."""
        return {
            "view": self.view, "statistic": self.statistic, "tint": self.signal, "lens": "on" if self.lens else None,
            "layer": None if self.node is None else self.node.layer,
            "stage": None if self.node is None else self.node.stage, "token": self.token,
        }  # fmt: skip


def live_state(
    model: Path | None,
    settings: LiveSettings,
    prompt: str | ChatPrompt,
    chat: bool | None,
    look: LiveLook,
) -> ScreenState:
    """All that is needed to show the same screen again.

    `chat` says whether the prompt is the turn of a conversation; None where that is not known.
    """
    texts = form_texts(settings)
    turn = prompt if isinstance(prompt, ChatPrompt) else ChatPrompt(prompt)
    return screen_state(
        ScreenName.LIVE,
        model=model,
        prompt=turn.user,
        chat=None if chat is None else "on" if chat else "off",
        earlier=json.dumps([[said.user, said.answer] for said in turn.earlier]) if turn.earlier else None,
        before=",".join(map(str, turn.tokens)),
        **{name: texts[field] for name, field in _FORM.items()},
        **look.fields(),
    )


def recording_state(path: Path, look: LiveLook) -> ScreenState:
    """All that is needed to show a recording again as it is shown: what was run is in its file."""
    return screen_state(ScreenName.LIVE, recording=path, **look.fields())


def initial_state(state: ScreenState, engine: EngineSettings) -> InitialState:
    """What `state` asks for; `engine` fills in what it leaves open. Raises `UsageError`."""
    before = LiveSettings(Sampling(), engine)
    given = {_FORM[name]: text for name, text in state.fields.items() if name in _FORM}
    try:
        settings = parse_form(form_texts(before) | given, before)
    except ValueError as error:
        raise UsageError(f"{state}: {error}") from None
    chosen = any(name in given for name in ("temperature", "seed", "top-k", "top-p", "min-p"))
    layer, stage = state.number("layer"), state.text("stage")
    return InitialState(
        replace(settings.engine, threads=engine.threads, context=engine.context),
        settings.sampling if chosen else None,
        _one_of(GridView, state, "view", GridView.NUMBERS) if state.text("view") else None,
        _one_of(Statistic, state, "statistic", Statistic.RMS),
        _one_of(TintSignal, state, "tint", TintSignal.PROBABILITY),
        state.text("lens") == "on",
        Node(layer, stage) if stage and layer is not None else None,
        state.number("token"),
        _on_or_off(state, "chat"),
        settings.system,
        _turn(state, settings.system),
    )


def _turn(state: ScreenState, system: str) -> ChatPrompt | None:
    """The prompt with what was said before it; None where nothing was."""
    if not state.text("earlier"):
        return None
    try:
        pairs = json.loads(state.text("earlier"))
        earlier = tuple(Exchange(*map(str, pair)) for pair in pairs)
        tokens = tuple(map(int, filter(None, state.text("before").split(","))))
    except (ValueError, TypeError):
        expected = "expected earlier=[[prompt, answer], …] in JSON and before=1,2,3"
        raise UsageError(f"{state}: what was said before cannot be read: {expected}") from None
    return ChatPrompt(state.text("prompt"), system, earlier, tokens)


def _on_or_off(state: ScreenState, name: str) -> bool | None:
    text = state.text(name)
    if text not in ("", "on", "off"):
        raise UsageError(f"{state}: {name} is {text!r}: expected on or off")
    return text == "on" if text else None


def _one_of(kind: type[_Option], state: ScreenState, name: str, default: _Option) -> _Option:
    text = state.text(name, default)
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{state}: {name} is {text!r}: expected one of {', '.join(kind)}") from None


def run_command(
    info: EngineDescription | None, settings: EngineSettings, prompt: ChatPrompt | str, ids: Sequence[int],
    sampling: Sampling, tokens: int,
) -> list[str]:  # fmt: skip
    """`aprtui run` of the same prompt: `tokens` tokens, at least one.

    A turn that has others before it is given as its token `ids`: no text says which tokens the answers were.
    """
    words = ["aprtui", "run", *_model(info)]
    if not isinstance(prompt, ChatPrompt):
        words += ["-p", prompt]
    elif prompt.earlier:
        words += ["--tokens", ",".join(map(str, ids))]
    else:
        words += ["--chat", *(["--system", prompt.system] if prompt.system else []), "-p", prompt.user]
    # Spelt out: without it, the model's own recommendation would count.
    words += ["-n", str(max(tokens, 1)), "--temp", f"{sampling.temperature:g}"]
    defaults = Sampling()
    for option, name in (
        ("--top-k", "top_k"), ("--top-p", "top_p"), ("--min-p", "min_p"),
        ("--repeat-penalty", "repeat_penalty"), ("--seed", "seed"),
    ):  # fmt: skip
        value = getattr(sampling, name)
        if value != getattr(defaults, name):
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    return words + _engine(info, settings)


def render_command(recording: Path, token: int) -> list[str]:
    """`aprtui render` of token number `token`, counted from 0, of a recording."""
    return ["aprtui", "render", str(recording), "--at", str(token + 1), "--svg", f"{recording.stem}-{token + 1}.svg"]


def trace_command(
    info: EngineDescription | None, settings: EngineSettings, tokens: Sequence[int], prompt_tokens: int, directory: Path
) -> list[str]:
    """`aprtui trace` of the same tokens, evaluated as the run did: the prompt at once, the rest one by one."""
    return [
        "aprtui", "trace", *_model(info), "--tokens", ",".join(map(str, tokens)),
        "--decode-from", str(prompt_tokens), "--logits", "all", *_engine(info, settings),
        "--save-tensor-dir", str(directory),
    ]  # fmt: skip


def _model(info: EngineDescription | None) -> list[str]:
    if info is None or info.path is None or (info.path == embedded_model() and not has_default()):
        return []
    return [str(info.path)]


def _engine(info: EngineDescription | None, settings: EngineSettings) -> list[str]:
    """Every option is spelt out: the defaults of the commands are not those of the app."""
    backend = settings.backend if info is None else info.backend
    words = ["--backend", backend, "--mode", str(settings.mode), "--kv", str(settings.kv)]
    words += [] if settings.context is None else ["--context", str(settings.context)]
    return words + [word for fault in settings.faults for word in ("--inject", fault)]


def free_directory(stem: str, folder: Path) -> Path:
    """The first of `stem-live-1`, `stem-live-2`, … that does not exist in `folder`."""
    number = 1
    while (folder / f"{stem}-live-{number}").exists():
        number += 1
    return Path(f"{stem}-live-{number}")
