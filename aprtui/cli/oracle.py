"""`aprtui oracle`: captures of a model by engines that nobody here wrote."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.lazy_group import listed
from aprtui.cli.options import (
    MODEL_ARGUMENT,
    PATH,
    parse_tokens,
    prompt_options,
    prompt_tokens,
    read_prompt,
    requested_model,
    require_one_prompt,
    torch_options,
)
from aprtui.cli.progress import ProgressLine
from aprtui.errors import UsageError

if TYPE_CHECKING:
    from aprtui.model.model import Model
    from aprtui.oracle.hugging_face import ModelFolder
    from aprtui.oracle.requests import Work
    from aprtui.progress import Progress
    from aprtui.trace.manifest import Manifest

    Captures = Callable[[Work, Progress], dict[Path, Manifest]]

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """Write a capture of a GGUF file by another engine, to hold yours against."""


@dataclass(frozen=True, slots=True)
class _OracleOptions:
    """What every oracle is asked."""

    model: Path | None
    prompt: str | None
    tokens: str | None
    chat: bool
    system: str
    no_special: bool
    directory: Path | None
    decode_from: int | None
    overwrite: bool
    as_json: bool
    layout: str
    prompts: Path | None

    def of_model(self, engine: str) -> tuple[Model, Work]:
        """The model, and what is evaluated by the directory that its capture goes to."""
        from aprtui.model.split_files import model_stem

        loaded = requested_model(self.model)

        def encode(prompt: str | None) -> tuple[str | None, list[int]]:
            return prompt_tokens(
                loaded, prompt, self.tokens, special=not self.no_special, chat=self.chat, system=self.system
            )

        return loaded, self.work(f"{model_stem(loaded.path)}-{engine}", encode)

    def of_folder(self, folder: ModelFolder) -> Work:
        """The same of a folder of Hugging Face."""

        def encode(prompt: str | None) -> tuple[str | None, list[int]]:
            if prompt is None:
                return None, parse_tokens(self.tokens or "", folder.vocabulary)
            text = read_prompt(prompt)
            return text, folder.encode(text, special=not self.no_special, chat=self.chat, system=self.system)

        if self.prompts is None:
            require_one_prompt(self.prompt, self.tokens, chat=self.chat, system=self.system)
        return self.work(f"{folder.path.resolve().name}-transformers", encode)

    def work(self, name: str, encode: Callable[[str | None], tuple[str | None, list[int]]]) -> Work:
        """What is evaluated by directory, below `name` where the user gives none."""
        from aprtui.oracle.requests import Evaluation

        target = self.directory or Path(name)
        texts = {target: self.prompt} if self.prompts is None else self._texts(target, self.prompts)
        work = {}
        for directory, prompt in texts.items():
            text, ids = encode(prompt)
            work[directory] = Evaluation(ids, text, len(ids) if self.decode_from is None else self.decode_from)
        return work

    def _texts(self, target: Path, prompts: Path) -> dict[Path, str | None]:
        """The prompt of each directory below `target`: a line of the file each."""
        if self.prompt is not None or self.tokens is not None:
            raise UsageError("--prompts has the prompts: leave -p and --tokens out")
        try:
            lines = [line for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
        except OSError as error:
            raise UsageError(f"--prompts {prompts}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"--prompts {prompts}: byte {error.start}: not UTF-8: write it as UTF-8") from error
        if not lines:
            raise UsageError(f"--prompts {prompts}: has no lines: write a prompt on each")
        width = len(str(len(lines) - 1))
        return {target / f"prompt-{number:0{width}}": line for number, line in enumerate(lines)}

    def write(self, model: Path | None, work: Work, captures: Captures) -> None:
        """Have `captures` made of `work`, in the layout asked for, and print a line for each, with the command that
        judges it."""
        from aprtui.oracle.written import rewrite_as_hooked
        from aprtui.trace.delivery import delivered

        with ProgressLine() as progress, ExitStack() as stack:
            here = {stack.enter_context(delivered(target, self.overwrite, progress)): target for target in work}
            made = captures({local: work[target] for local, target in here.items()}, progress)
            for local, manifest in made.items():
                if self.layout == "hf":
                    rewrite_as_hooked(local, manifest)
        self._print(model, {here[local]: manifest for local, manifest in made.items()})

    def _print(self, model: Path | None, written: Mapping[Path, Manifest]) -> None:
        from aprtui.trace.graph.stage_graph import graph_for

        for directory, manifest in written.items():
            total = sum(info.bytes or 0 for info in manifest.files.values())
            engine = manifest.engine
            if self.as_json:
                write_record(
                    {"record": "capture", "directory": str(directory), "files": len(manifest.files), "bytes": total,
                     "tokens": manifest.tokens, "engine": engine.name, "version": engine.version,
                     "unavailable": manifest.unavailable, "wall_seconds": manifest.wall_seconds}
                )  # fmt: skip
                continue
            click.echo(
                f"{directory}: {len(manifest.files)} of {len(graph_for(manifest.graph).nodes)} stage tensors of "
                f"{len(manifest.tokens)} tokens, {total / 1e6:.1f} MB, {engine.name} {engine.version}, "
                f"{engine.mode}, {engine.code_path}"
            )
            if manifest.unavailable:
                click.echo("   not available: " + ", ".join(manifest.unavailable))
            path = "MODEL.gguf" if model is None else shlex.quote(str(model))
            click.echo(f"aprtui: next: aprtui replay {shlex.quote(str(directory))} --model {path}", err=True)


def _oracle_options(function: Command) -> Command:
    """Add MODEL and the options of `_OracleOptions`; the command gets them as `asked`."""

    @MODEL_ARGUMENT
    @prompt_options
    @click.option(
        "--out", "directory", type=PATH, metavar="DIR", help="Where to write; ./<model stem>-<engine> by default."
    )
    @click.option("--decode-from", type=click.IntRange(1), metavar="K", help="Prefill K tokens, decode the rest.")
    @click.option("--prompts", type=PATH, metavar="FILE", help="A prompt on each line, in place of -p: DIR/prompt-0, …")
    @click.option(
        "--layout", type=click.Choice(["apr", "hf"]), default="apr", show_default=True,
        help="hf: as hooks in PyTorch give it, queries and keys head by head, without a manifest.",
    )  # fmt: skip
    @click.option("--overwrite", is_flag=True, help="Replace the capture in DIR.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object a capture.")
    @wraps(function)
    def command(
        *args: Any, model: Path | None, prompt: str | None, tokens: str | None, chat: bool, system: str,
        no_special: bool, directory: Path | None, decode_from: int | None, overwrite: bool, as_json: bool,
        layout: str, prompts: Path | None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        asked = _OracleOptions(
            model, prompt, tokens, chat, system, no_special, directory, decode_from, overwrite, as_json, layout, prompts
        )
        return function(*args, asked=asked, **kwargs)

    return command  # type: ignore[return-value]  # click's decorators keep the call signature, mypy cannot see it


@command.command(
    epilog=listed(
        (
            "oracle hf model.gguf -p 'def fib(n):' --out theirs",
            "oracle hf model.gguf --chat -p Hello --dtype bfloat16 --attention sdpa",
        )
    )
)
@_oracle_options
@torch_options
def hf(asked: _OracleOptions, kind: str, attention: str, threads: int | None) -> None:
    """Write a capture of MODEL by transformers: a GGUF file, with the weights as our loader dequantises them, or a
    folder of Hugging Face, as transformers loads it.

    Stages that exist nowhere in transformers are left out. Needs `pip install 'aprtui[oracle]'`.
    """
    from aprtui.oracle.transformers_capture import TransformersOptions, write_transformers_captures
    from aprtui.oracle.transformers_model import AttentionKind, DataType

    options = TransformersOptions(DataType(kind), AttentionKind(attention), threads)
    if asked.model is not None and asked.model.is_dir():
        from aprtui.oracle.hugging_face import open_folder, write_folder_captures

        folder = open_folder(asked.model)
        work = asked.of_folder(folder)
        asked.write(
            None, work, lambda here, progress: write_folder_captures(
                folder, here, options, progress, overwrite=asked.overwrite
            )
        )  # fmt: skip
        return
    loaded, work = asked.of_model("transformers")
    asked.write(
        loaded.path, work, lambda here, progress: write_transformers_captures(
            loaded, here, options, progress, overwrite=asked.overwrite
        )
    )  # fmt: skip
    if options.attention is AttentionKind.SDPA and loaded.config.graph.attn_softcap:
        click.echo("aprtui: sdpa of transformers leaves out the softcap of scores that this model has", err=True)


@command.command(
    epilog=listed(
        (
            "oracle llamacpp model.gguf -p 'def fib(n):' --out theirs",
            "oracle llamacpp model.gguf --tokens 1,2,3 --decode-from 2 --flash-attention on --kv-type q8_0",
        )
    )
)
@_oracle_options
@click.option(
    "--kv-type", "kv", type=click.Choice(["f16", "f32", "q8_0", "q4_0"]), default="f16", show_default=True,
    help="Element type of the K/V cache; q8_0 and q4_0 with --flash-attention on only.",
)  # fmt: skip
@click.option(
    "--flash-attention", type=click.Choice(["on", "off"]), default="off", show_default=True,
    help="on, which llama.cpp takes where it can, makes no attention maps.",
)  # fmt: skip
@click.option("--repack/--no-repack", default=True, show_default=True, help="Lay weights out anew for faster kernels.")
@click.option("--gpu-layers", type=click.IntRange(0), default=0, show_default=True, help="Layers on a GPU.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads; all available cores by default.")
def llamacpp(
    asked: _OracleOptions, kv: str, flash_attention: str, repack: bool, gpu_layers: int, threads: int | None
) -> None:
    """Write a capture of MODEL by llama.cpp, through llama-cpp-python, as its graph hands out each tensor.

    Stages that are fused into others there are left out. Needs `pip install 'aprtui[oracle]'`.
    """
    from aprtui.engine.protocol import KvType
    from aprtui.machine import default_threads
    from aprtui.oracle.llamacpp_capture import LlamaCppOptions, write_llamacpp_captures

    loaded, work = asked.of_model("llamacpp")
    options = LlamaCppOptions(
        KvType(kv), flash_attention=flash_attention == "on", threads=threads or default_threads(),
        gpu_layers=gpu_layers, repack=repack,
    )  # fmt: skip
    asked.write(
        loaded.path, work, lambda here, progress: write_llamacpp_captures(
            loaded, here, options, progress, overwrite=asked.overwrite
        )
    )  # fmt: skip
