"""Options that several commands share, and the loading that follows from them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aprtui.engine.backends.registry import AUTO, backend_choices, backend_help, find_backend
from aprtui.errors import UsageError, printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from aprtui.engine.faults.faults import Fault
    from aprtui.engine.protocol import Engine
    from aprtui.model.model import Model

Command = TypeVar("Command", bound=Callable[..., Any])

_MOST_DIGITS = 10
"""Of a token id; Python refuses to convert thousands."""


def file_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leaves the completion of a word to the shell, which completes names of files."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


class PlaceParameter(click.ParamType):  # type: ignore[type-arg]  # takes arguments in later versions of click only
    """A path, or an address on another machine as `s3://bucket/capture`; of one that is `local`, a path alone.

    `instead` says in the refusal of an address what to do.
    """

    name = "path"

    def __init__(self, local: bool = False, instead: str = "copy the file, from the address or to it") -> None:
        self._local, self._instead = local, instead

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return file_names(ctx, param, incomplete)

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if isinstance(value, Path):
            return value
        from aprtui.trace.address import is_address, place

        if self._local and is_address(value):
            raise UsageError(f"{value}: expected a path on this machine: {self._instead}")
        return place(value)


PATH = PlaceParameter()
LOCAL_PATH = PlaceParameter(local=True)


class ModelParameter(click.ParamType):  # type: ignore[type-arg]  # takes arguments in later versions of click only
    """A model: a path, or an alias or a name of `aprtui models`, whose path is said on stderr."""

    name = "model"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return file_names(ctx, param, incomplete)

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if isinstance(value, Path):
            return value
        if os.path.lexists(value):
            return Path(value)
        if "://" in value:
            return PATH.convert(value, param, ctx)
        from aprtui.model.discovery.naming import model_path

        path = model_path(value)
        if path != Path(value):
            click.echo(f"aprtui: {printable(value)} is {printable(str(path))}", err=True)
        return path


MODEL = ModelParameter()
MODEL_ARGUMENT = click.argument("model", required=False, type=MODEL)

_FIT = 0
"""What `--context fit` is parsed to."""


def _positions(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    if value == "fit":
        return _FIT
    if not value.isdecimal() or len(value) > 18 or int(value) < 1:
        raise click.BadParameter(f"{value!r:.40}: expected a number of positions from 1 on, or fit")
    return int(value)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    backend: str
    mode: str
    kv: str
    threads: int | None
    context: int | None
    """None: as many positions as are needed."""
    fit: bool
    """Whether the context is the model's own, reduced to what there is memory for."""
    inject: tuple[str, ...] = ()


def engine_options(default_mode: str) -> Callable[[Command], Command]:
    """Add `--backend --mode --kv --threads --context --inject`; the command gets them as `engine: EngineOptions`."""

    def decorate(function: Command) -> Command:
        @click.option(
            "--backend", type=click.Choice(backend_choices()), default=AUTO, show_default=True, help=backend_help()
        )
        @click.option(
            "--mode", type=click.Choice(["exact", "q8"]), default=default_mode, show_default=True,
            help="Activations in float32 (the reference), or in the backend's 8-bit scheme.",
        )  # fmt: skip
        @click.option(
            "--kv", type=click.Choice(["f32", "f16", "q8_0", "q4_0"]), default="f32", show_default=True,
            help="Element type of the K/V cache.",
        )  # fmt: skip
        @click.option("--threads", type=click.IntRange(1, 1024), help="Threads; all available cores by default.")
        @click.option(
            "--context", metavar="N|fit", callback=_positions,
            help="Positions in the K/V cache, as many as needed by default; fit: the model's own, or what fits.",
        )  # fmt: skip
        @click.option(
            "--inject", metavar="layer=N,stage=NAME,kind=KIND", multiple=True,
            help="Make a fault there, to see it found: kind=? lists the kinds. Repeatable.",
        )  # fmt: skip
        @wraps(function)
        def command(
            *args: Any, backend: str, mode: str, kv: str, threads: int | None, context: int | None,
            inject: tuple[str, ...], **kwargs: Any,
        ) -> Any:  # fmt: skip
            positions, fit = (None, True) if context == _FIT else (context, False)
            return function(*args, engine=EngineOptions(backend, mode, kv, threads, positions, fit, inject), **kwargs)

        return command  # type: ignore[return-value]  # click's decorators keep the call signature, mypy cannot see it

    return decorate


def prompt_options(function: Command) -> Command:
    """Add `-p --tokens --chat --system --no-special`, which `prompt_tokens` takes."""
    options = (
        click.option("-p", "--prompt", help="The prompt; - reads stdin."),
        click.option("--tokens", metavar="1,2,3", help="The prompt as token ids."),
        click.option("--chat", is_flag=True, help="Send the prompt through the model's chat template."),
        click.option("--system", metavar="TEXT", default="", help="The system message of a chat, before the prompt."),
        click.option("--no-special", is_flag=True, help="Take special tokens in the prompt as plain text."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def torch_options(function: Command) -> Command:
    """Add `--dtype --attention --threads` of a model that transformers runs, as `kind`, `attention` and `threads`."""
    options = (
        click.option(
            "--dtype", "kind", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32",
            show_default=True, help="What weights and results are kept in.",
        ),
        click.option(
            "--attention", type=click.Choice(["eager", "sdpa"]), default="eager", show_default=True,
            help="sdpa, the default of transformers, is one op and makes no attention maps.",
        ),
        click.option("--threads", type=click.IntRange(1, 1024), help="Threads of torch; its own choice by default."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def requested_model(path: Path | None, *, headers_only: bool = False) -> Model:
    """The model at `path`, or the default one; `headers_only` where no weights are read of it."""
    from aprtui.model.model import load_model

    return load_model(requested_path(path), headers_only=headers_only)


def requested_path(path: Path | None) -> Path:
    """`path`, or that of the model which the configuration prefers, said on stderr; else that of the embedded one."""
    if path is not None:
        return path
    from aprtui.model.discovery.naming import default_model
    from aprtui.resources import embedded_model

    chosen = default_model()
    if chosen != embedded_model():
        click.echo(f"aprtui: the model is {printable(str(chosen))}, by the configuration", err=True)
    return chosen


def chosen_context(model: Model, options: EngineOptions, needed: int) -> int:
    """Positions of the context: as asked for, else `needed`, at most what the model was trained for."""
    return options.context or (model.config.context if options.fit else min(needed, model.config.context))


def open_engine(model: Model, options: EngineOptions, needed: int) -> Engine:
    """The engine that `options` ask for, with room for `needed` positions where no context is given."""
    from aprtui.cli.progress import ProgressLine
    from aprtui.engine import opening
    from aprtui.engine.protocol import KvType, Mode
    from aprtui.model.facts import decoded_weights

    context = chosen_context(model, options, needed)
    if min(needed, context) > model.config.context:
        click.echo(
            f"aprtui: positions from {model.config.context} on are beyond what the model was trained for", err=True
        )
    faults, injector = injected_faults(model, options), None
    for fault in faults:
        click.echo(f"aprtui: injected fault: {fault}", err=True)
    if faults:
        from aprtui.engine.faults.faults import FaultInjector

        injector = FaultInjector(model, Mode(options.mode), faults)
    with ProgressLine() as progress:
        engine = opening.open_engine(
            model, backend=options.backend, mode=Mode(options.mode), kv=KvType(options.kv),
            threads=options.threads, context=context, fit=options.fit,
            intervention=injector, progress=progress,
            announce=lambda text: click.echo(f"aprtui: {text}", err=True),
        )  # fmt: skip
    opened = find_backend(engine.backend)
    slow_weights = decoded_weights(model)
    if slow_weights is not None:
        click.echo(f"aprtui: {slow_weights}", err=True)
    if options.backend == AUTO and opened is not None and opened.is_slow:
        click.echo(
            f"aprtui: the compiled kernels are not available here, running on {opened.name} (slow): see doctor",
            err=True,
        )
    return engine


def injected_faults(model: Model, options: EngineOptions) -> tuple[Fault, ...]:
    """The faults that `--inject` asks for. Raises `UsageError`."""
    if not options.inject:
        return ()
    from aprtui.engine.faults.faults import parse_fault

    return tuple(parse_fault(text, model) for text in options.inject)


def read_prompt(text: str) -> str:
    """The prompt: `text` itself, or stdin for `-`; UTF-8 in every locale."""
    data = sys.stdin.buffer.read() if text == "-" else os.fsencode(text)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        where = "stdin" if text == "-" else "-p"
        raise UsageError(f"{where}: byte {error.start}: not UTF-8: give the prompt as UTF-8 text") from error


def parse_tokens(text: str, vocabulary: int) -> list[int]:
    """Token ids of a comma list, each held against the size of the vocabulary."""
    tokens = []
    for piece in text.split(","):
        if not piece.strip().isdecimal() or len(piece.strip()) > _MOST_DIGITS:
            raise UsageError(f"--tokens: {piece.strip()!r:.40} is not a token id: use a comma list such as 1,2,3")
        token = int(piece.strip())
        if token >= vocabulary:
            raise UsageError(f"--tokens: {token} is not in the vocabulary: ids are 0 … {vocabulary - 1}")
        tokens.append(token)
    return tokens


def require_one_prompt(prompt: str | None, tokens: str | None, *, chat: bool, system: str) -> None:
    """Raise `UsageError` unless there is a text or there are ids, and options of chats go with a text only."""
    if (prompt is None) == (tokens is None):
        raise UsageError("give either -p TEXT or --tokens 1,2,3")
    if system and not chat:
        raise UsageError("--system is a message of a chat: give --chat as well")
    if tokens is not None and chat:
        raise UsageError("--chat is for text: leave it out with --tokens")


def prompt_tokens(
    model: Model, prompt: str | None, tokens: str | None, *, special: bool = True, chat: bool = False, system: str = ""
) -> tuple[str | None, list[int]]:
    """The prompt's text (None where ids were given) and its ids. Raises `UsageError` unless exactly one is given."""
    require_one_prompt(prompt, tokens, chat=chat, system=system)
    if tokens is not None:
        return None, parse_tokens(tokens, model.config.graph.vocabulary)
    assert prompt is not None
    from aprtui.model.prompt import encode_prompt

    text = read_prompt(prompt)
    return text, encode_prompt(model, text, special=special, chat=chat, system=system)
