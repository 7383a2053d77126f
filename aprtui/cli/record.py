"""`aprtui record`: every op that an engine executes, whatever the architecture."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.lazy_group import listed
from aprtui.cli.options import (
    LOCAL_PATH,
    MODEL,
    MODEL_ARGUMENT,
    parse_tokens,
    prompt_options,
    prompt_tokens,
    read_prompt,
    requested_model,
    torch_options,
)
from aprtui.cli.progress import ProgressLine
from aprtui.errors import UsageError

if TYPE_CHECKING:
    from aprtui.recordings.format import RecordingHeader

_ANY_VOCABULARY = 1 << 31
_NAME = click.option(
    "--name", "names", multiple=True, metavar="NODE=STAGE",
    help="Say which stage nodes of a name are, as 'h{layer}.mix=attention'; may be given again.",
)  # fmt: skip
_KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


@click.group()
def command() -> None:
    """Write down every op that an engine executes, to compute each again from its own sources."""


@command.command(epilog=listed(("record llamacpp model.gguf -p 'def fib(n):' --out theirs",)))
@click.argument("model", type=MODEL)
@click.option("-p", "--prompt", help="The prompt, tokenised by llama.cpp; - reads stdin.")
@click.option("--tokens", metavar="1,2,3", help="The prompt as token ids.")
@click.option(
    "--out", "directory", type=LOCAL_PATH, metavar="DIR", help="Where to write; ./<model stem>-ops by default."
)
@click.option("--decode-from", type=click.IntRange(1), metavar="K", help="Prefill K tokens, decode the rest.")
@click.option(
    "--flash-attention", type=click.Choice(["off", "on", "auto"]), default="off", show_default=True,
    help="Attention as one op, or as several.",
)  # fmt: skip
@click.option(
    "--kv-type", "kv", type=click.Choice(_KV_TYPES), default="f16", show_default=True,
    help="Element type of the K/V cache.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 1024), default=2, show_default=True, help="Threads of llama.cpp.")
@click.option("--gpu-layers", type=click.IntRange(0), default=0, show_default=True, help="Layers on a GPU.")
@click.option("--repack/--no-repack", default=True, show_default=True, help="Weights laid out anew for the CPU.")
@_NAME
@click.option("--overwrite", is_flag=True, help="Replace the recording in DIR.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object that says what was written.")
def llamacpp(
    model: Path, prompt: str | None, tokens: str | None, directory: Path | None, decode_from: int | None,
    flash_attention: str, kv: str, threads: int, gpu_layers: int, repack: bool, names: tuple[str, ...],
    overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Record what llama.cpp executes for MODEL, a GGUF file of any architecture that it runs.

    Needs llama-cpp-python: `pip install 'aprtui[oracle]'`.
    """
    from aprtui.recordings.recorders.llamacpp import LlamaRequest, record_llamacpp
    from aprtui.recordings.stages import parsed_names

    if (prompt is None) == (tokens is None):
        raise UsageError("give either -p TEXT or --tokens 1,2,3")
    ids = None if tokens is None else parse_tokens(tokens, _ANY_VOCABULARY)
    text = None if prompt is None else read_prompt(prompt)
    request = LlamaRequest(
        ids, text, decode_from, kv, flash_attention, threads, repack, gpu_layers, parsed_names(names)
    )
    target = directory or Path(f"{model.stem}-ops")
    with ProgressLine() as progress:
        header = record_llamacpp(model, request, target, progress, overwrite=overwrite)
    _print(header, target, as_json)


@command.command(epilog=listed(("record torch model.gguf -p 'def fib(n):' --out reference",)))
@MODEL_ARGUMENT
@prompt_options
@click.option(
    "--out", "directory", type=LOCAL_PATH, metavar="DIR", help="Where to write; ./<model stem>-aten by default."
)
@torch_options
@click.option("--decode-from", type=click.IntRange(1), metavar="K", help="Prefill K tokens, decode the rest.")
@_NAME
@click.option("--overwrite", is_flag=True, help="Replace the recording in DIR.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object that says what was written.")
def torch(
    model: Path | None, prompt: str | None, tokens: str | None, chat: bool, system: str, no_special: bool,
    directory: Path | None, kind: str, attention: str, decode_from: int | None, threads: int | None,
    names: tuple[str, ...], overwrite: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Record what PyTorch executes for MODEL in transformers: a GGUF file dequantised by our loader, or a folder of
    Hugging Face (config.json and safetensors) of any architecture that transformers itself has.

    Needs torch and transformers: `pip install 'aprtui[oracle]'`.
    """
    from aprtui.model.split_files import model_stem
    from aprtui.oracle.transformers_model import AttentionKind, DataType
    from aprtui.recordings.recorders.torch import TorchRequest, record_torch
    from aprtui.recordings.stages import parsed_names

    if model is not None and model.is_dir():
        path, (text, ids) = model, _folder_prompt(model, prompt, tokens, plain=not (chat or system or no_special))
    else:
        loaded = requested_model(model)
        path = loaded.path
        text, ids = prompt_tokens(loaded, prompt, tokens, special=not no_special, chat=chat, system=system)
    request = TorchRequest(
        ids, text, decode_from, DataType(kind), AttentionKind(attention), threads, parsed_names(names)
    )
    target = directory or Path(f"{model_stem(path)}-aten")
    with ProgressLine() as progress:
        header = record_torch(path, request, target, progress, overwrite=overwrite)
    _print(header, target, as_json)


@command.command(
    epilog=listed(("record names mine", "record names mine 'h{layer}.mix=attention' 'h{layer}.up=ffn_up'"))
)
@click.argument("directory", type=LOCAL_PATH, metavar="RECORDING")
@click.argument("names", nargs=-1, metavar="[NODE=STAGE…]")
def names(directory: Path, names: tuple[str, ...]) -> None:
    """Say which stages the nodes of RECORDING are, where its names do not tell; without any, list nodes without one.

    NODE is what the engine calls a node, with {layer} for the number of the layer. All commands and screens then take
    the stages as those of a capture.
    """
    from aprtui.recordings.listing import listed_nodes
    from aprtui.recordings.reading import Recording
    from aprtui.recordings.stages import parsed_names
    from aprtui.recordings.writing import state_stages

    recording = Recording.open(directory)
    if names:
        state_stages(recording, {**recording.header.stages, **parsed_names(names)})
        recording = Recording.open(directory)
    listed = list(listed_nodes(recording))
    without = [node for node in listed if node.name.stage is None]
    for title in () if names else dict.fromkeys(f"{node.title}  {node.node.op}" for node in without):
        click.echo(title)
    click.echo(
        f"aprtui: {len(listed) - len(without)} of {len(listed)} nodes are a stage, or a part of one, "
        f"{len(recording.header.stages)} names stated: aprtui stats {shlex.quote(str(directory))}", err=True,
    )  # fmt: skip


def _folder_prompt(path: Path, prompt: str | None, tokens: str | None, *, plain: bool) -> tuple[str | None, list[int]]:
    """The prompt's text (None where ids were given) and its ids by the tokenizer of a folder."""
    from aprtui.recordings.recorders.modules import folder_tokens

    if (prompt is None) == (tokens is None):
        raise UsageError("give either -p TEXT or --tokens 1,2,3")
    if not plain:
        raise UsageError(f"{path}: --chat, --system and --no-special are for a model file: give ids with --tokens")
    if tokens is not None:
        return None, parse_tokens(tokens, _ANY_VOCABULARY)
    text = read_prompt(prompt or "")
    return text, folder_tokens(path, text)


def _print(header: RecordingHeader, directory: Path, as_json: bool) -> None:
    from aprtui.recordings.reading import Recording

    recording = Recording.open(directory)
    nodes, size = sum(len(graph.nodes) for graph in recording.graphs), recording.data.size
    if as_json:
        write_record(
            {"record": "summary", "directory": str(directory), "engine": header.engine.name,
             "version": header.engine.version, "settings": header.engine.settings, "graphs": len(recording.graphs),
             "nodes": nodes, "bytes": size, "tokens": header.tokens}
        )  # fmt: skip
        return
    click.echo(
        f"{directory}: {nodes} ops of {len(header.tokens)} tokens, {size / 1e6:.1f} MB, {header.engine.name} "
        f"({header.engine.version})"
    )
    click.echo(f"aprtui: next: aprtui replay {shlex.quote(str(directory))}", err=True)
