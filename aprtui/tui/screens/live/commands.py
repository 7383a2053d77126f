"""The headless commands that give what the live screen shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aprtui.engine.process.messages import EngineDescription, EngineSettings
from aprtui.engine.sampling import Sampling
from aprtui.resources import embedded_model


def run_command(
    info: EngineDescription | None, settings: EngineSettings, prompt: str, sampling: Sampling, tokens: int
) -> list[str]:
    """`aprtui run` of the same prompt: `tokens` tokens, at least one."""
    words = ["aprtui", "run", *_model(info), "-p", prompt, "-n", str(max(tokens, 1))]
    # Spelt out: without it, the model's own recommendation would count.
    words += ["--temp", f"{sampling.temperature:g}"]
    defaults = Sampling()
    for option, name in (
        ("--top-k", "top_k"), ("--top-p", "top_p"), ("--min-p", "min_p"),
        ("--repeat-penalty", "repeat_penalty"), ("--seed", "seed"),
    ):  # fmt: skip
        value = getattr(sampling, name)
        if value != getattr(defaults, name):
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    return words + _engine(info, settings)


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
    if info is None or info.path is None or info.path == embedded_model():
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
