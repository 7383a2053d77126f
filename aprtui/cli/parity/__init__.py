"""`aprtui parity`: whether all paths of an engine give the same numbers, and which one parts first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from aprtui.cli.options import MODEL, prompt_options, requested_model
from aprtui.engine.backends.registry import AUTO, backend_choices
from aprtui.errors import UsageError

_LENGTH = 96


@click.command()
@click.argument("targets", nargs=-1, type=MODEL, metavar="[MODEL | CAPTURE CAPTURE…]")
@prompt_options
@click.option("--length", type=click.IntRange(2), metavar="N", help=f"N tokens of a fixed text; {_LENGTH} by default.")
@click.option("--backend", type=click.Choice(backend_choices()), default=AUTO, show_default=True)
@click.option("--mode", type=click.Choice(["exact", "q8"]), default="exact", show_default=True)
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads; all available cores by default.")
@click.option(
    "--inject", metavar="path=PATH,layer=N,stage=NAME,kind=KIND", multiple=True,
    help="Make a fault in the paths of that name (* and ? match), to see it found. Repeatable.",
)  # fmt: skip
@click.option("--model", type=MODEL, metavar="MODEL", help="Of captures: the model that was run, whose floor judges.")
@click.option(
    "--tolerance", "tolerances", metavar="METRIC=X", multiple=True,
    help="Of captures: the most that a metric as rel_l2 may be, in place of a floor. Repeatable.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object a path, the summary last.")
@click.option(
    "--bisect", is_flag=True, expose_value=False,
    help="Exit 125 on anything but pass, divergence and interrupt: git bisect run.",
)  # fmt: skip
def command(
    targets: tuple[Path, ...], prompt: str | None, tokens: str | None, chat: bool, system: str, no_special: bool,
    length: int | None, backend: str, mode: str, threads: int | None, inject: tuple[str, ...], model: Path | None,
    tolerances: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """Evaluate the same tokens by every path of MODEL's engine, and say which one parts first, where and by how much.

    Paths are prefill at once and in chunks, decoding, a state gone back to, threads, room in the context, attention
    maps handed out: all to the bit, where the engine adds in one order. Types of the K/V cache are held to a replay
    with rounded keys and values. With --length of thousands it takes no more memory than checksums of rows need.

    Captures (of one engine, by several of its paths; the first is the reference) are compared at the tokens that they
    share; of a folder that holds several, as cpu and gpu of apr parity --per-op, all of them.

    Exit codes: 0 pass, 1 a path parts, 2 usage, 3 unreadable input, 4 engine failed, 70 internal error, 125 cannot be
    judged, 130 interrupted.
    """
    given = [name for name, value in (("-p", prompt), ("--tokens", tokens), ("--length", length)) if value is not None]
    from aprtui.cli.parity.captures import captures_in, compare_paths

    captures = captures_in(targets)
    if captures:
        if given or inject or chat or system:
            options = ", ".join([*given, *(["--inject"] if inject else [])]) or "--chat"
            raise UsageError(f"{options}: for a model that is run: leave it out with captures")
        return compare_paths(captures, model, tolerances, as_json)
    if model is not None or tolerances:
        raise UsageError("--model and --tolerance judge captures: name two or more of them")
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)}: each says what is evaluated: give one of them")
    from aprtui.cli.options import prompt_tokens
    from aprtui.cli.parity.engine import run_paths
    from aprtui.engine.parity import prompt_of

    loaded = requested_model(targets[0] if targets else None)
    ids: Sequence[int]
    if prompt is None and tokens is None:
        if chat or system:
            raise UsageError("--chat is for text: give -p TEXT")
        ids = prompt_of(loaded, length or _LENGTH)
    else:
        _, ids = prompt_tokens(loaded, prompt, tokens, special=not no_special, chat=chat, system=system)
    return run_paths(loaded, ids, backend, mode, threads, inject, as_json)
