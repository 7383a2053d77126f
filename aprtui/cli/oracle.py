"""`aprtui oracle`: captures of a model by engines that nobody here wrote."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from aprtui.cli.options import MODEL_ARGUMENT, PATH, prompt_options, prompt_tokens, requested_model
from aprtui.cli.progress import ProgressLine


@click.group()
def command() -> None:
    """Write a capture of a GGUF file by another engine, to hold yours against."""


@command.command()
@MODEL_ARGUMENT
@prompt_options
@click.option(
    "--out", "directory", type=PATH, metavar="DIR", help="Where to write; ./<model stem>-transformers by default."
)
@click.option(
    "--dtype", "kind", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True,
    help="What weights and results are kept in.",
)  # fmt: skip
@click.option(
    "--attention", type=click.Choice(["eager", "sdpa"]), default="eager", show_default=True,
    help="sdpa, the default of transformers, makes no attention maps.",
)  # fmt: skip
@click.option("--decode-from", type=click.IntRange(1), metavar="K", help="Prefill K tokens, decode the rest.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of torch; its own choice by default.")
@click.option("--overwrite", is_flag=True, help="Replace the capture in DIR.")
def hf(
    model: Path | None, prompt: str | None, tokens: str | None, chat: bool, system: str, no_special: bool,
    directory: Path | None, kind: str, attention: str, decode_from: int | None, threads: int | None, overwrite: bool,
) -> None:  # fmt: skip
    """Write a capture of MODEL by transformers, with the weights as our loader dequantises them.

    Stages that exist nowhere in transformers are left out. Needs `pip install 'aprtui[oracle]'`.
    """
    from aprtui.model.split_files import model_stem
    from aprtui.oracle.transformers_capture import OracleRequest, write_transformers_capture
    from aprtui.oracle.transformers_model import AttentionKind, DataType

    loaded = requested_model(model)
    text, ids = prompt_tokens(loaded, prompt, tokens, special=not no_special, chat=chat, system=system)
    prefill = len(ids) if decode_from is None else decode_from
    request = OracleRequest(ids, text, prefill, DataType(kind), AttentionKind(attention), threads)
    target = directory or Path(f"{model_stem(loaded.path)}-transformers")
    with ProgressLine() as progress:
        manifest = write_transformers_capture(loaded, request, target, progress, overwrite=overwrite)
    total = sum(info.bytes or 0 for info in manifest.files.values())
    click.echo(
        f"{target}: {len(manifest.files)} of {len(loaded.graph.nodes)} stage tensors of {len(ids)} tokens, "
        f"{total / 1e6:.1f} MB, transformers {manifest.engine.version}, {kind}, {attention}"
    )
    click.echo(
        f"aprtui: next: aprtui replay {shlex.quote(str(target))} --model {shlex.quote(str(loaded.path))}", err=True
    )
