"""What a plan comes to: the captures to make and the pairs to judge, each once, keyed by all that it depends on.

A key is a digest of a task's inputs: the model's bytes, the token ids, the engine with its settings and its version,
how is judged, and our own code. A result under a key never becomes invalid, and what is there need not be done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from aprtui import __version__
from aprtui.engine.result_cache import python_digest
from aprtui.errors import UsageError
from aprtui.model.model import Model, load_model
from aprtui.model.prompt import encode_prompt
from aprtui.progress import Progress
from aprtui.sweep.engines.engine import SweepEngine
from aprtui.sweep.plan import PlannedPair, PlannedPrompt, SweepPlan
from aprtui.trace.writer import planned_bytes, planned_files

_CAPTURING = ("capture", "engine", "importing", "model", "oracle", "trace", "sweep/engines")
_JUDGING = ("compare", "engine", "model", "trace", "sweep/work.py")

_PROCESS_BYTES = 320 << 20
"""What a worker takes before it loads a model: Python, numpy, numba, Dask. Measured: 190 to 300 MB."""
_COPIES = 8
"""Of the largest stage tensor at once: both sides, in float32 and float64, and what is computed of them."""


@dataclass(frozen=True, slots=True)
class SweptModel:
    name: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Needs:
    """What a task takes on a worker."""

    memory: int
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class CaptureTask:
    """One run of one engine on one prompt; `size` is what all stages of it take on disk."""

    key: str
    model: SweptModel
    tokens: tuple[int, ...]
    text: str | None
    engine_name: str
    engine: SweepEngine
    needs: Needs
    size: int


@dataclass(frozen=True, slots=True)
class VerdictTask:
    """One pair of captures to judge; `a` is None where `b` is replayed."""

    key: str
    a: CaptureTask | None
    b: CaptureTask
    pair: PlannedPair
    needs: Needs

    @property
    def captures(self) -> tuple[CaptureTask, ...]:
        return (self.b,) if self.a is None else (self.a, self.b)


@dataclass(frozen=True, slots=True)
class SweepGroup:
    """All that is done with one model on one prompt: its verdicts, in the order of the plan's pairs."""

    model: SweptModel
    prompt: int
    text: str | None
    tokens: tuple[int, ...]
    verdicts: tuple[VerdictTask, ...]


def planned_groups(plan: SweepPlan, identities: Mapping[str, str], progress: Progress) -> list[SweepGroup]:
    """The work of a plan, model by model. `identities` are those of its engines, by their names.

    Raises `UsageError` for a prompt that a model cannot have, `UnreadableError` for a model that cannot be used.
    """
    groups = []
    for name, path in plan.models.items():
        model = load_model(path)
        progress(f"reading {path.name}", 0, 1)
        swept = SweptModel(name, path, model.sha256())
        for engine_name, engine in plan.engines.items():
            engine.require_usable(model, f"{plan.engine_places[engine_name]}: with the model {name}")
        for number, prompt in enumerate(plan.prompts):
            tokens = _encoded(model, prompt)
            verdicts = tuple(_verdicts(plan, identities, model, swept, prompt.text, tokens))
            groups.append(SweepGroup(swept, number, prompt.text, tokens, verdicts))
            progress("planning", number + 1, len(plan.prompts))
    return groups


def _encoded(model: Model, prompt: PlannedPrompt) -> tuple[int, ...]:
    try:
        if prompt.text is None:
            assert prompt.tokens is not None
            tokens = prompt.tokens
        else:
            tokens = tuple(encode_prompt(model, prompt.text, special=True, chat=prompt.chat, system=prompt.system))
        outside = [token for token in tokens if token >= model.config.graph.vocabulary]
        if outside:
            raise UsageError(f"{outside[0]} is not in the vocabulary: ids are 0 … {model.config.graph.vocabulary - 1}")
        if not 1 <= len(tokens) <= model.config.context:
            raise UsageError(f"{len(tokens)} tokens: the model takes 1 … {model.config.context}")
    except UsageError as error:
        raise UsageError(f"{prompt.where}: with the model {model.path.name}: {error}") from error
    return tokens


def _verdicts(
    plan: SweepPlan, identities: Mapping[str, str], model: Model, swept: SweptModel, text: str | None,
    tokens: tuple[int, ...],
) -> Iterator[VerdictTask]:  # fmt: skip
    files = planned_files(model.graph, model.graph.nodes, len(tokens), len(tokens)).values()
    largest = max(planned_bytes([info]) for info in files)
    needed: Callable[[int], int] = lambda weights: _PROCESS_BYTES + weights + _COPIES * largest  # noqa: E731
    captures = {
        name: CaptureTask(
            digest(
                "capture", __version__, python_digest(*_CAPTURING), swept.sha256, tokens, text, described(engine),
                identities[name],
            ),
            swept, tokens, text, name, engine, Needs(needed(engine.weight_bytes(model)), engine.gpus),
            planned_bytes(files),
        )
        for name, engine in plan.engines.items()
    }  # fmt: skip
    for pair in plan.pairs:
        a, b = None if pair.a is None else captures[pair.a], captures[pair.b]
        bounds = [str(bound) for bound in pair.bounds]
        key = digest(
            "verdict", __version__, python_digest(*_JUDGING), None if a is None else a.key, b.key, pair.judge.value,
            bounds, pair.policy_digest, pair.allow_missing,
        )  # fmt: skip
        yield VerdictTask(key, a, b, pair, Needs(needed(model.size)))


def described(engine: SweepEngine) -> Sequence[str]:
    """The settings of an engine that count: a file's place on one machine does not."""
    values = [(field.name, getattr(engine, field.name)) for field in fields(engine) if field.compare]  # type: ignore[arg-type]  # every engine of a sweep is a dataclass
    return [type(engine).__name__, *(f"{name}={value!r}" for name, value in values)]


def digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
