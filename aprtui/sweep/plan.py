"""The plan of a sweep: which models run which prompts by which engines, and which pairs of engines are judged.

    models: {small: small.gguf}
    prompts: ["def fib(n):", {file: prompts.txt}, {jsonl: data.jsonl, field: question, chat: true}]
    engines:
      reference: {backend: cpu, mode: exact}
      mine: {command: "./engine -m {model} --tokens {tokens} --dump {out}"}
    pairs:
      - {a: reference, b: mine}
      - {replay: mine}

Paths are relative to the plan's folder. docs/sweep.md has all fields.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from aprtui.compare.policy import read_policy
from aprtui.compare.verdict import Tolerance, parse_tolerance
from aprtui.errors import UnreadableError, UsageError
from aprtui.model.discovery.naming import model_path
from aprtui.resources import embedded_model
from aprtui.sweep.engines.engine import SweepEngine
from aprtui.sweep.engines.registry import read_engine
from aprtui.sweep.fields import PlanField, root_of
from aprtui.yaml_file import YamlError, read_yaml

EMBEDDED = "embedded"
"""Names the embedded model."""
_PARTS = ("models", "prompts", "engines", "pairs")
_PROMPT_FIELDS = ("text", "tokens", "file", "jsonl", "field", "chat", "system")
_SOURCES = ("text", "tokens", "file", "jsonl")
_PAIR_FIELDS = ("a", "b", "replay", "judge", "tolerance", "policy", "allow_missing")


class JudgedBy(StrEnum):
    """How a pair of captures is judged."""

    FLOOR = "floor"
    REPLAY = "replay"
    BOUNDS = "bounds"


@dataclass(frozen=True, slots=True)
class PlannedPrompt:
    """A text, which each model encodes by itself, or token ids; `where` it stands in the plan or in a file."""

    text: str | None
    tokens: tuple[int, ...] | None
    chat: bool
    system: str
    where: str


@dataclass(frozen=True, slots=True)
class PlannedPair:
    """Two engines to compare, A being the reference; without A, what B captured is replayed with its model.

    `bounds` and a `policy` are the user's own; `policy_digest` is that of the policy's text.
    """

    a: str | None
    b: str
    judge: JudgedBy
    bounds: tuple[Tolerance, ...] = ()
    policy: Path | None = None
    policy_digest: str = ""
    allow_missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.b} replayed" if self.a is None else f"{self.a} × {self.b}"


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A plan as read: nothing of it is loaded yet."""

    path: Path
    models: Mapping[str, Path]
    prompts: tuple[PlannedPrompt, ...]
    engines: Mapping[str, SweepEngine]
    pairs: tuple[PlannedPair, ...]
    engine_places: Mapping[str, str]
    """File and line of each engine, for what is wrong with it on a model."""


def read_plan(path: Path) -> SweepPlan:
    """The plan in a YAML file. Raises `UsageError` with file and line for anything that it cannot mean."""
    try:
        root = root_of(read_yaml(path, aliases=False))
    except YamlError as error:
        raise UsageError(str(error)) from error
    parts = root.fields(_PARTS, needed=_PARTS)
    engine_fields = dict(parts["engines"].mapping("names of engines, and what each is"))
    pairs = tuple(_pair(field, engine_fields) for field in parts["pairs"].items("a list of pairs"))
    names = [pair.name for pair in pairs]
    for number, pair in enumerate(pairs):
        if pair in pairs[:number]:
            raise UsageError(f"{path}: pairs: {pair.name} is there twice: give each pair once")
    unused = set(engine_fields) - {name for pair in pairs for name in (pair.a, pair.b)}
    if unused:
        name = min(unused)
        raise engine_fields[name].error(f"no pair has this engine: there are {', '.join(names)}")
    return SweepPlan(
        path,
        dict(_models(parts["models"])),
        tuple(prompt for field in parts["prompts"].items("a list of prompts") for prompt in _prompts(field)),
        {name: read_engine(field) for name, field in engine_fields.items()},
        pairs,
        {name: f"{path}:{field.node.line}: {field.where}" for name, field in engine_fields.items()},
    )


def _models(field: PlanField) -> Iterator[tuple[str, Path]]:
    for name, each in field.mapping("names of models, and the file of each"):
        text = each.text()
        beside = each.path.parent / text
        if text == EMBEDDED:
            yield name, embedded_model()
        elif beside.exists():
            yield name, beside.absolute()
        else:
            try:
                found = model_path(text)
            except (UnreadableError, UsageError) as error:
                raise each.error(str(error)) from error
            if not found.exists():
                raise each.error(f"{beside}: does not exist: expected a model file, or a name of aprtui models")
            yield name, found.absolute()


def _prompts(field: PlanField) -> Iterator[PlannedPrompt]:
    """The prompts of one entry: one, or those of a file."""
    place = f"{field.path}:{field.node.line}"
    if field.is_text:
        yield PlannedPrompt(field.text(), None, False, "", place)
        return
    given = field.fields(_PROMPT_FIELDS)
    sources = [name for name in _SOURCES if name in given]
    if len(sources) != 1:
        raise field.error(f"expected one of {', '.join(_SOURCES)}")
    chat = given["chat"].truth() if "chat" in given else False
    system = given["system"].text() if "system" in given else ""
    if system and not chat:
        raise given["system"].error("a system message is of a chat: give chat: true as well")
    if "field" in given and sources != ["jsonl"]:
        raise given["field"].error("only objects of a jsonl file have fields")
    source = given[sources[0]]
    if sources == ["tokens"]:
        if chat:
            raise given["chat"].error("token ids are the whole prompt: leave it out")
        yield PlannedPrompt(None, tuple(token.whole() for token in source.items("token ids")), False, "", place)
    elif sources == ["text"]:
        yield PlannedPrompt(source.text(), None, chat, system, place)
    else:
        name = given["field"].text() if "field" in given else "prompt"
        yield from _of_file(source, name if sources == ["jsonl"] else None, chat, system)


def _of_file(source: PlanField, name: str | None, chat: bool, system: str) -> Iterator[PlannedPrompt]:
    """A prompt of each line of a file: the line itself, or the field `name` of the object on it."""
    path = source.path.parent / source.text()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise source.error(f"{path}: cannot be read: {error.strerror}: give a readable file") from error
    except UnicodeDecodeError as error:
        raise source.error(f"{path}: byte {error.start}: not UTF-8: write it as UTF-8") from error
    if not any(line.strip() for line in lines):
        raise source.error(f"{path}: has no lines: write a prompt on each")
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}:{number}"
            text, tokens = (line, None) if name is None else _of_object(line, name, where)
            if tokens is not None and chat:
                raise UsageError(f"{where}: token ids are the whole prompt: leave chat out")
            yield PlannedPrompt(text, tokens, chat, system, where)


def _of_object(line: str, name: str, where: str) -> tuple[str | None, tuple[int, ...] | None]:
    """Text or token ids of the field `name` of a JSON object."""
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: expected an object on each line") from error
    value = record.get(name) if isinstance(record, dict) else None
    if isinstance(value, str) and value:
        return value, None
    if isinstance(value, list) and value and all(type(token) is int and token >= 0 for token in value):
        return None, tuple(value)
    raise UsageError(f"{where}: {name!r} is no text and no list of token ids: name the field with field: NAME")


def _pair(field: PlanField, engines: Mapping[str, PlanField]) -> PlannedPair:
    given = field.fields(_PAIR_FIELDS)
    sides = [name for name in ("a", "b", "replay") if name in given]
    if sides not in (["a", "b"], ["replay"]):
        raise field.error("expected a and b, two engines to compare, or replay, one that is held against its model")
    for name in sides:
        if given[name].text() not in engines:
            raise given[name].error(f"no engine {given[name].text()!r}: there are {', '.join(engines)}")
    a, b = (None, given["replay"].text()) if sides == ["replay"] else (given["a"].text(), given["b"].text())
    if a == b:
        raise field.error(f"{a} is on both sides: compare two engines")
    bounds, policy, digest = _bounds(given)
    bounded = bool(bounds) or policy is not None
    missing = given["allow_missing"].items("names or globs of stages") if "allow_missing" in given else ()
    judge = JudgedBy.REPLAY if a is None else JudgedBy.BOUNDS if bounded else JudgedBy.FLOOR
    if "judge" in given:
        stated = JudgedBy(given["judge"].choice(JudgedBy.FLOOR, JudgedBy.REPLAY))
        if a is None or (bounded and stated is JudgedBy.FLOOR):
            what = "a replay is judged by itself" if a is None else "the bounds are your own"
            raise given["judge"].error(f"{what}: leave judge out")
        if stated is JudgedBy.REPLAY and policy is not None:
            raise given["policy"].error("a replay of two sides takes tolerance alone: leave policy out")
        judge = stated
    return PlannedPair(a, b, judge, bounds, policy, digest, tuple(each.text() for each in missing))


def _bounds(given: Mapping[str, PlanField]) -> tuple[tuple[Tolerance, ...], Path | None, str]:
    """The user's own bounds: tolerances, or a policy and the digest of its text."""
    if "tolerance" in given and "policy" in given:
        raise given["policy"].error("tolerance and policy: choose one of them")
    if "policy" in given:
        path = given["policy"].path.parent / given["policy"].text()
        given["policy"].taken(lambda _: read_policy(path))
        return (), path.absolute(), hashlib.sha256(path.read_bytes()).hexdigest()
    if "tolerance" not in given:
        return (), None, ""
    bounds = given["tolerance"].items("a list as [rel_l2=1e-3]")
    return tuple(bound.taken(parse_tolerance) for bound in bounds), None, ""
