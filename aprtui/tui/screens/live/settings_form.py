"""The settings of a run as texts that a person edits, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from aprtui.engine.backends.registry import backend_choices
from aprtui.engine.process.messages import EngineSettings
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.sampling import Sampling
from aprtui.errors import UsageError


@dataclass(frozen=True, slots=True)
class Field:
    """One line of the form: what it is called, what may be put in, and the values there are, if they are few."""

    name: str
    hint: str
    choices: tuple[str, ...] = ()


SAMPLING_FIELDS = (
    Field("temperature", "0 takes the likeliest token"),
    Field("top-k", "0 keeps all tokens"),
    Field("top-p", "1 keeps all"),
    Field("min-p", "0 keeps all"),
    Field("repeat penalty", "1 is none"),
    Field("seed", "a whole number"),
)
ENGINE_FIELDS = (
    Field("mode", "", tuple(Mode)),
    Field("backend", "", backend_choices()),
    Field("K/V cache", "", tuple(KvType)),
    Field("fault", "layer=1,stage=ffn_gate,kind=scale,magnitude=0.5"),
)


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """How tokens are chosen, and by which engine."""

    sampling: Sampling
    engine: EngineSettings


def form_texts(settings: LiveSettings) -> dict[str, str]:
    """The texts of all fields."""
    sampling, engine = settings.sampling, settings.engine
    return {
        "temperature": f"{sampling.temperature:g}",
        "top-k": str(sampling.top_k),
        "top-p": f"{sampling.top_p:g}",
        "min-p": f"{sampling.min_p:g}",
        "repeat penalty": f"{sampling.repeat_penalty:g}",
        "seed": str(sampling.seed),
        "mode": str(engine.mode),
        "backend": engine.backend,
        "K/V cache": str(engine.kv),
        "fault": " ".join(engine.faults),
    }


def parse_form(texts: Mapping[str, str], before: LiveSettings) -> LiveSettings:
    """The settings that the texts ask for; what the form lacks stays as `before`. Raises `UsageError`.

    Faults are divided by blanks; whether the model can have them, the engine says.
    """
    sampling = replace(
        before.sampling,
        temperature=_decimal(texts, "temperature"),
        top_k=_whole(texts, "top-k"),
        top_p=_decimal(texts, "top-p"),
        min_p=_decimal(texts, "min-p"),
        repeat_penalty=_decimal(texts, "repeat penalty"),
        seed=_whole(texts, "seed"),
    )
    engine = replace(
        before.engine,
        mode=Mode(texts["mode"]),
        backend=texts["backend"],
        kv=KvType(texts["K/V cache"]),
        faults=tuple(texts["fault"].split()),
    )
    return LiveSettings(sampling, engine)


def _decimal(texts: Mapping[str, str], name: str) -> float:
    try:
        return float(texts[name])
    except ValueError:
        raise UsageError(f"{name} is {texts[name]!r}: expected a number") from None


def _whole(texts: Mapping[str, str], name: str) -> int:
    text = texts[name].strip()
    if not text.isdecimal() or len(text) > 18:
        raise UsageError(f"{name} is {texts[name]!r}: expected a whole number, 0 or larger")
    return int(text)
