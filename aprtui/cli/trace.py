"""`aprtui trace`: write a capture."""

from __future__ import annotations

import shlex
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.options import (
    MODEL_ARGUMENT,
    PATH,
    EngineOptions,
    chosen_context,
    engine_options,
    injected_faults,
    open_engine,
    prompt_options,
    prompt_tokens,
    requested_model,
)
from aprtui.cli.progress import ProgressLine

if TYPE_CHECKING:
    from aprtui.trace.manifest import Manifest


@click.command()
@MODEL_ARGUMENT
@prompt_options
@click.option(
    "--save-tensor", "stages", metavar="STAGES", default="all", show_default=True,
    help="Comma list of stage names or globs.",
)  # fmt: skip
@click.option(
    "--save-tensor-layers", "layers", metavar="LAYERS", default="all", show_default=True,
    help="0..2 (END excluded), a list 0,3 or all.",
)  # fmt: skip
@click.option(
    "--save-tensor-dir", "directory", type=PATH, metavar="DIR",
    help="Where to write; ./<model stem>-trace by default.",
)  # fmt: skip
@click.option("--generate", type=click.IntRange(1), metavar="N", help="Generate N tokens (greedy) as well.")
@click.option(
    "--decode-from", type=click.IntRange(1), metavar="K",
    help="Prefill the first K tokens and decode the rest one by one.",
)  # fmt: skip
@click.option(
    "--logits", type=click.Choice(["last", "all"]), default="last", show_default=True,
    help="Positions that lm_head holds.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the capture in DIR.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file, then a summary.")
@engine_options(default_mode="exact")
def command(
    model: Path | None, prompt: str | None, tokens: str | None, stages: str, layers: str, directory: Path | None,
    generate: int | None, decode_from: int | None, logits: str, chat: bool, system: str, no_special: bool,
    overwrite: bool, as_json: bool, engine: EngineOptions,
) -> None:  # fmt: skip
    """Write a capture of MODEL (a GGUF or .apr file; the embedded one by default).

    Every stage of every layer goes to DIR/layer-<N>/<stage>.bin, and DIR/manifest.json says what they are.
    """
    from aprtui.engine.capturing import CaptureRequest, require_possible, write_capture
    from aprtui.engine.protocol import Logits
    from aprtui.model.split_files import model_stem
    from aprtui.trace.delivery import delivered
    from aprtui.trace.select import parse_layers, select_nodes, select_stages
    from aprtui.trace.writer import require_usable

    loaded = requested_model(model)
    faults = injected_faults(loaded, engine)
    graph = loaded.graph
    nodes = select_nodes(graph, select_stages(stages, graph), parse_layers(layers, graph.layers))
    text, ids = prompt_tokens(loaded, prompt, tokens, special=not no_special, chat=chat, system=system)
    request = CaptureRequest(ids, text, nodes, Logits(logits), decode_from, generate or 0)
    target = directory or Path(f"{model_stem(loaded.path)}-trace")
    require_possible(request, chosen_context(loaded, engine, request.positions))
    require_usable(target, overwrite)
    with (
        closing(open_engine(loaded, engine, request.positions)) as opened,
        ProgressLine() as progress,
        delivered(target, overwrite, progress) as local,
    ):
        manifest = write_capture(opened, loaded, request, local, overwrite=overwrite, faults=faults)
    _print(manifest, target, as_json)


def _print(manifest: Manifest, directory: Path, as_json: bool) -> None:
    total = sum(info.bytes or 0 for info in manifest.files.values())
    if as_json:
        for name, info in manifest.files.items():
            write_record(
                {"record": "file", "path": name, "layer": info.layer, "stage": info.stage, "shape": info.shape,
                 "bytes": info.bytes, "crc32": info.crc32}
            )  # fmt: skip
        write_record(
            {"record": "summary", "directory": str(directory), "files": len(manifest.files), "bytes": total,
             "tokens": manifest.tokens, "wall_seconds": manifest.wall_seconds}
        )  # fmt: skip
        return
    click.echo(
        f"{directory}: {len(manifest.files)} stage tensors of {len(manifest.tokens)} tokens, {total / 1e6:.1f} MB, "
        f"{manifest.engine.backend} {manifest.engine.mode}, kv {manifest.engine.rounding['kv_cache']}"
    )
    click.echo(f"aprtui: next: aprtui stats {shlex.quote(str(directory))}", err=True)
