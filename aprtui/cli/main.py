"""The `aprtui` command: finds the subcommand, runs it, and turns errors into one line and an exit code.

Commands are imported when they are called, and their modules import engines and screens only inside the functions that
need them: `--help` answers at once, and Textual never loads for a headless command.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn

import click

from aprtui.build import DOCUMENTATION
from aprtui.cli.lazy_group import LazyGroup, listed
from aprtui.collector import collect_rarely
from aprtui.errors import AprtuiError, ExitCode
from aprtui.terminal_output import guard_streams

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "open": "Open the app on a model, a capture, two captures, or a screen's state.",
        "tour": "Find a planted fault with the keys of the app, in five minutes.",
        "run": "Stream tokens from a model.",
        "trace": "Write a capture: every stage of every layer.",
        "diff": "Compare two captures or two APRT files.",
        "replay": "Recompute each stage of a capture from its inputs; name the one at fault.",
        "scan": "Walk a long text once; say at which token it goes wrong.",
        "graft": "Put captured tensors into our forward pass; say what each divergence is worth.",
        "parity": "Evaluate the same tokens by every path of an engine; name the one that parts first.",
        "sweep": "Capture and judge models × prompts × engines, on all cores or a cluster.",
        "bisect": "Find the first commit whose numbers are wrong, and its first wrong stage.",
        "contracts": "Say what is claimed of an engine, and whether it holds.",
        "stats": "Print statistics of each stage tensor of a capture.",
        "models": "List the models on this machine, and say which can be run.",
        "info": "Print what a model file says of itself, and what is unusual about it.",
        "check": "Check a model file, by itself or against what it was converted from.",
        "qa": "Run the quality gates of a model.",
        "export": "Write a capture or a comparison for other programs, or as one file.",
        "import": "Write what another tool has dumped as a capture.",
        "ranks": "Put the ranks of one model together; say which of them parts.",
        "oracle": "Write a capture by another engine: llama.cpp, transformers.",
        "record": "Write down every op that an engine executes: llama.cpp, PyTorch.",
        "render": "Draw a picture of a recorded session.",
        "bench": "Measure this build against its peers.",
        "doctor": "Say what was found here and how to get what is missing.",
    }
)
"""Each command lives in `aprtui.cli.<name>` as `command`; the help stands here so that it can be listed unloaded."""
EXAMPLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "open": ("open model.gguf -p 'What is RoPE?'", "open good bad", "open captures/"),
        "tour": ("tour", "tour --text"),
        "run": ("run -p 'def fib(n):' -n 64", "run model.gguf -p 'Hello' --chat"),
        "trace": (
            "trace model.gguf -p 'def fib(n):' --save-tensor-dir good",
            "trace -p 'def fib(n):' --save-tensor-dir C --inject layer=2,stage=ffn_gate,kind=scale",
            "trace --inject 'kind=?'",
        ),
        "diff": (
            "diff good mine --model model.gguf",
            "diff good mine --tolerance rel_l2=0.01",
            "diff old.gguf new.gguf --weights",
        ),
        "replay": ("replay mine --model model.gguf", "replay mine --layers 2 --stage ffn_gate --limit 50"),
        "scan": (
            "scan model.gguf -p 'def quicksort' -n 512",
            "scan model.gguf -p 'def quicksort' --against mode=exact --out jump",
            "scan model.gguf -p 'def quicksort' --kv q8_0 --against kv=f32",
        ),
        "graft": (
            "graft mine --model model.gguf",
            "graft mine --at layer=12,stage=ffn_out",
            "graft mine --at layer=12,stage=attn_norm --until layer=12,stage=attn_out",
        ),
        "parity": (
            "parity model.gguf",
            "parity --inject path=decode-*,layer=2,stage=k_post_rope,kind=position-off-by-one",
            "parity prefill-capture decode-capture --model model.gguf",
        ),
        "sweep": ("sweep plan.yaml", "sweep plan.yaml --workers 4"),
        "bisect": (
            "bisect --good v1.2 --build make --capture './engine --dump {out}' --model model.gguf",
            "bisect --good v1.2 --capture './run.sh {out}' --reference theirs -- --tolerance rel_l2=1e-3",
        ),
        "contracts": ("contracts validate contract.yaml", "contracts check --capture mine", "contracts status"),
        "stats": ("stats mine", "stats mine --stage attn_softmax --layers 3"),
        "models": ("models", "models --json | jq -r 'select(.runs) | .path'"),
        "info": ("info model.gguf",),
        "check": ("check model.gguf", "check model.gguf --against ~/models/Qwen2.5-Coder-0.5B-Instruct"),
        "qa": ("qa model.gguf --save-baseline", "qa suspect.gguf --against good.gguf"),
        "export": (
            "export mine --out mine.safetensors --stage 'ffn_*' --layers 0..2",
            "export mine --out mine.zip",
            "diff A B --json | aprtui export - --out stages.csv",
        ),
        "import": (
            "import dump/ --out mine --model model.gguf",
            "import arrays/ --guess --model model.gguf --write-map map.yaml",
            "import arrays/ --map map.yaml --out mine",
            "import --formats",
        ),
        "ranks": (
            "ranks dump/ --guess --model model.gguf --write-dims dims.yaml",
            "ranks dump/ --dims dims.yaml --model model.gguf --out whole",
        ),
        "oracle": (
            "oracle llamacpp model.gguf -p 'def fib(n):' --out theirs",
            "oracle hf model.gguf -p 'def fib(n):' --out theirs",
        ),
        "record": (
            "record llamacpp model.gguf -p 'def fib(n):' --out theirs",
            "replay theirs",
            "diff theirs another",
        ),
        "render": (
            "render fib.jsonl --at 17 --svg fib.svg",
            "render fib.jsonl --at 17 --size 80x24 --theme light --svg - > fib.svg",
        ),
        "bench": ("bench cpu model.gguf", "bench verdicts model.gguf --part speed"),
        "doctor": ("doctor",),
    }
)
"""What `--help` of each command ends with, without the first word, which is the program's name."""
FIRST = (
    *EXAMPLES["run"][:1],
    "trace -p 'def fib(n):' --save-tensor-dir C --inject layer=2,stage=ffn_gate,kind=scale",
    "replay C",
)
"""Of the program itself: a bug is planted, and found."""


COMPLETION = "_APRTUI_COMPLETE"
"""The variable by which a shell asks for its completion script, and then for words (docs/installation.md)."""
BISECT = "--bisect"
"""Looked for among all words: a command line that cannot be parsed must not look like a verdict either."""


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from aprtui.build import this_build

        click.echo(f"aprtui {this_build()}")
        context.exit()


@click.group(
    cls=LazyGroup,
    package="aprtui.cli",
    summaries=COMMANDS,
    examples=EXAMPLES,
    epilog=f"{listed(FIRST)}\n\nDocumentation: {DOCUMENTATION}",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "-V", "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
    help="Show the version and the revision that it was built from, and exit.",
)  # fmt: skip
@click.pass_context
def cli(ctx: click.Context) -> int | None:
    """Find the first wrong number in a language model.

    Without a command, opens the live view on the embedded model.
    """
    if ctx.invoked_subcommand is None:
        from aprtui.cli.open import open_live

        return open_live()
    return None


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with one of `ExitCode`."""
    collect_rarely()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if wanted := os.environ.get(COMPLETION):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(cli, {}, "aprtui", COMPLETION, wanted))
    try:
        code = _run(words)
    except KeyboardInterrupt:  # also where `_run` begins, or reports what it has caught
        code = _interrupted()
    sys.exit(_for_bisect(code) if BISECT in words else code)


def _run(words: list[str]) -> int:
    """Run the command that `words` call and report how it ended; its exit code."""
    if sys.stdout is None:
        return ExitCode.ENGINE
    guard_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores one of them
            signal.signal(number, signal.default_int_handler)
    try:
        # Not `cli.main`: it would turn a closed pipe into exit code 1, which here means a divergence.
        with cli.make_context("aprtui", list(words)) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as finished:
        code = finished.exit_code
    except click.ClickException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", None) or _command_of(words)
        click.echo(f"aprtui: {error.format_message().rstrip('.')}: see {command} --help", err=True)
        code = error.exit_code
    except AprtuiError as error:
        click.echo(f"aprtui: {error}", err=True)
        code = error.exit_code
    except click.Abort:
        code = _interrupted()
    except BrokenPipeError:
        # The reader of stdout went away: nothing to say to it, but no verdict either, so no exit code that means one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.ENGINE
    except MemoryError as error:
        click.echo(f"aprtui: does not fit in memory: {error}: use a smaller model or --context", err=True)
        code = ExitCode.ENGINE
    except Exception as error:  # noqa: BLE001 - a bug: it is reported, with exit code 70
        code = _unexpected(error)
    return int(code or 0)


def _interrupted() -> int:
    click.echo("aprtui: interrupted", err=True)
    return ExitCode.INTERRUPTED


def _command_of(words: Sequence[str]) -> str:
    """The command that `words` call: click does not say it of an option without its value."""
    return f"aprtui {words[0]}" if words and words[0] in COMMANDS else "aprtui"


def _for_bisect(code: int) -> int:
    """The code for `git bisect run`: all but pass, divergence and interrupt, usage errors too, become its skip."""
    return code if code in (ExitCode.PASS, ExitCode.DIVERGENCE, ExitCode.INTERRUPTED) else ExitCode.UNKNOWN


def _unexpected(error: Exception) -> ExitCode:
    """Report an exception that nothing else has caught: stdout failed (the only output without a name), or a bug."""
    if isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):
        click.echo(f"aprtui: stdout cannot be written: {error.strerror}: free space or choose another output", err=True)
        # What is left in the buffer would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.ENGINE
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"aprtui: {place}too many open files: raise the limit (ulimit -n)", err=True)
        return ExitCode.ENGINE
    try:
        where = f"report written to {_report()}"
    except (OSError, ImportError) as problem:  # a module that cannot be opened is not found
        where = f"no report can be written: {problem}"
    click.echo(f"aprtui: internal error: {type(error).__name__}: {error}: {where}", err=True)
    return ExitCode.INTERNAL


def _report() -> str:
    """Write the exception being handled, with versions and arguments, to a new file; return its path."""
    import platform
    import tempfile
    import traceback

    from aprtui.build import this_build

    with tempfile.NamedTemporaryFile("w", prefix="aprtui-report-", suffix=".txt", delete=False) as file:
        file.write(f"aprtui {this_build()}, Python {platform.python_version()}, {platform.platform()}\n")
        file.write(f"arguments: {sys.argv[1:]}\n\n")
        file.write(traceback.format_exc())
    return file.name
