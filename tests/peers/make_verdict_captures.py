"""Captures of honest and of faulty models by engines that nobody of this project wrote, to judge the verdicts by.

    python tests/peers/make_verdict_captures.py --peers DIR --out DIR [--only PART]
    python tests/peers/make_verdict_captures.py --real MODEL.gguf ... --out DIR

Captures are those of `aprtui oracle`, without their manifests. `--peers` is the folder of the script `make_model.py`,
which makes the models and quantises them with llama.cpp. `--only` makes what has PART in its name. The result:

- `<model>/model.gguf` with captures in `<model>/<capture>/`: APRT files and `PEER.json` (engine, tokens, shapes).
  Folders without a suffix are of 22 tokens: `llamacpp` (float32 K/V) and `transformers` (float32 on dequantised
  weights), `-f16kv`, `-norepack`, `-bf16`, `-f16`; `-decode` prefilled 8 tokens and took the rest one by one; a number
  is a longer prompt. `qwen2-f16` is the source of `qwen2-f16-q4km`: the same model, other weights.
- with `--real`, nothing but `<file's name>/` for each of those files: captures of its real weights on a real prompt, in
  the modes above, and `-flash` (llama.cpp's flash attention), `-flash-q8_0kv`, `-flash-q4_0kv` (`-plain`: not turned),
  `-flash-q8_0keys`, `-sdpa` (transformers' default attention): captures without attention maps, as they come.
- `faults/<edit>-<engine>/`: captures of the models edited with `tests/engine/edit_gguf.py`, and `expected.json`: the
  unedited model, relative to the folder, the kind, and the stages accepted as the answer: those whose own computation
  the edit changes first.

Token ids are pseudo-random with a fixed seed, so they do not depend on the tokenizer; the models' weights neither.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from aprtui.engine.protocol import KvType
from aprtui.model.model import load_model
from aprtui.oracle.llamacpp_capture import LlamaCppOptions, write_llamacpp_captures
from aprtui.oracle.requests import Evaluation
from aprtui.oracle.transformers_capture import TransformersOptions, write_transformers_captures
from aprtui.oracle.transformers_model import AttentionKind, DataType
from aprtui.progress import no_progress
from aprtui.trace.capture import PROVENANCE
from aprtui.trace.manifest import FILE_NAME, Manifest
from tests.engine import edit_gguf

SHORT = 22
PREFILLED = 8
REAL_PROMPT = "def mean(values):\n    # the average of the values\n    return sum(values) / len(values)\n"
_BF16_FILE_TYPE = 32


@dataclass(frozen=True)
class Recipe:
    """A model: its architecture, the file type it is stored in, the type it is quantised from, further options."""

    name: str
    architecture: str
    quantisation: str
    source: str = "f32"
    options: tuple[str, ...] = ()
    long: tuple[int, ...] = ()
    decode: bool = False


RECIPES = (
    Recipe("qwen2-q4km", "qwen2", "Q4_K_M", long=(300, 613), decode=True),
    Recipe("qwen3-q4km", "qwen3", "Q4_K_M", decode=True),
    Recipe("llama-q4km", "llama", "Q4_K_M", long=(300,)),
    Recipe("qwen2-q5km", "qwen2", "Q5_K_M"),
    Recipe("qwen2-q8_0", "qwen2", "Q8_0"),
    Recipe("qwen3-q6k", "qwen3", "Q6_K"),
    Recipe("llama-q4_0", "llama", "Q4_0"),
    Recipe("llama-bf16", "llama", "BF16"),
    Recipe("qwen3-f32", "qwen3", "F32"),
    Recipe("qwen2-f16", "qwen2", "F16", source="f16"),
    Recipe("qwen2-f16-q4km", "qwen2", "Q4_K_M", source="f16"),
    Recipe("qwen2-tied-q4km", "qwen2", "Q4_K_M", options=("--tied",)),
    Recipe("qwen2-outliers-q4km", "qwen2", "Q4_K_M", options=("--outliers", "8")),
    Recipe("qwen2-12layers-q4km", "qwen2", "Q4_K_M", options=("--layers", "12")),
)

Edit = Callable[[Path], None]
Q4, F16 = "qwen2-q4km", "qwen2-f16"


@dataclass(frozen=True)
class Fault:
    """An edit of a model, and the stages that are right answers."""

    name: str
    kind: str
    model: str
    edit: Edit
    accepted: tuple[tuple[int | None, str], ...]


def faults() -> Iterator[Fault]:
    """All faults: edits of one tensor at two layers, edits of the metadata once."""
    for layer in (0, 2):

        def fault(kind: str, edit: Callable[..., None], *stages: str, model: str = Q4, layer: int = layer) -> Fault:
            accepted = tuple((layer, stage) for stage in stages)
            return Fault(f"{kind}-layer{layer}", kind, model, functools.partial(edit, layer=layer), accepted)

        yield fault("gate-up-swap", edit_gguf.swap_gate_and_up, "ffn_gate", "ffn_up")
        yield fault("bias-dropped", edit_gguf.zero_q_bias, "qkv_bias")
        yield fault("block-scale", edit_gguf.break_block_scale, "ffn_gate")
        yield fault("k-head-swap", edit_gguf.swap_kv_heads, "qkv_matmul")
        yield fault("v-head-swap", functools.partial(edit_gguf.swap_kv_heads, name="attn_v"), "qkv_matmul")
        yield fault("norm-scaled", edit_gguf.scale_norm, "ffn_norm")
        yield fault("zero-row", edit_gguf.zero_row, "ffn_out")
        yield fault("transpose", edit_gguf.transpose, "attn_out", model=F16)
    rope = ((0, "q_post_rope"), (0, "k_post_rope"))
    for model in (Q4, "llama-q4km", "qwen3-q4km"):
        yield Fault(f"rope-theta-{model}", "rope-theta", model, edit_gguf.double_rope_base, rope)
        yield Fault(f"eps-{model}", "eps", model, edit_gguf.enlarge_epsilon, ((0, "attn_norm"),))
    exchange = functools.partial(edit_gguf.exchange_layers, first=1, second=2)
    yield Fault("layers-exchanged", "layers-exchanged", Q4, exchange, ((1, "attn_out"),))


def token_ids(count: int) -> list[int]:
    """`count` ids below the special tokens of the 1024-token vocabulary."""
    ids: list[int] = np.random.Generator(np.random.PCG64(3)).integers(0, 1000, count).tolist()
    return ids


class Maker:
    """The script that makes model files, imported from its folder and driven through its command line."""

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(folder))
        self.script: Any = importlib.import_module("make_model")
        self.script.FTYPES["BF16"] = _BF16_FILE_TYPE

    def make(self, recipe: Recipe, to: Path) -> None:
        """Write the model file of `recipe`."""
        stem, quantised = to.with_name("made"), recipe.quantisation.lower() != recipe.source
        options = ["--arch", recipe.architecture, "--dtype", recipe.source, "--out", str(stem), *recipe.options]
        before, sys.argv = sys.argv, ["make_model", *options, "--quant", *([recipe.quantisation] if quantised else [])]
        try:
            self.script.main()
        finally:
            sys.argv = before
        made = stem.with_name(f"made-{recipe.quantisation if quantised else recipe.source}.gguf")
        made.rename(to)
        for left in to.parent.glob("made-*.gguf"):
            left.unlink()


def by_llamacpp(
    path: Path, out: Path, tokens: Sequence[int], *, decode: bool = False, turned: bool = True, **options: Any
) -> None:
    """Capture `tokens` with llama.cpp on the CPU, float32 K/V unless `options` say another type; quantised ones are not
    turned unless `turned`."""
    prefill = PREFILLED if decode else len(tokens)
    choice = LlamaCppOptions(**{"kv": KvType.F32} | options)
    os.environ["LLAMA_ATTN_ROT_DISABLE"] = str(int(not turned))
    work = {out: Evaluation(tokens, None, prefill)}
    manifest = write_llamacpp_captures(load_model(path), work, choice, no_progress, overwrite=True)[out]
    del os.environ["LLAMA_ATTN_ROT_DISABLE"]
    note = f"{manifest.engine.code_path}, {manifest.engine.mode}{'' if turned else ', not turned'}"
    _without_manifest(out, manifest, note + (f", {PREFILLED} tokens prefilled, the rest one by one" if decode else ""))


def by_transformers(path: Path, out: Path, tokens: Sequence[int], **options: Any) -> None:
    """Capture `tokens` with transformers, in float32 and eager unless `options` say otherwise."""
    work = {out: Evaluation(tokens, None, len(tokens))}
    choice = TransformersOptions(**options)
    manifest = write_transformers_captures(load_model(path), work, choice, no_progress, overwrite=True)[out]
    _without_manifest(out, manifest, f"weights dequantised, {manifest.engine.code_path}, {manifest.engine.mode}")


def _without_manifest(out: Path, manifest: Manifest, note: str) -> None:
    """Leave what people bring: stage files, and `PEER.json` for the tokens. A manifest would say whose weights they
    are."""
    peer = {
        "engine": f"{manifest.engine.name} {manifest.engine.version}",
        "note": note,
        "model": "model.gguf",
        "tokens": list(manifest.tokens),
        "shapes": {name: list(info.shape) for name, info in manifest.files.items()},
        "unavailable": dict(manifest.unavailable),
    }
    (out / "PEER.json").write_text(json.dumps(peer, indent=1) + "\n")
    for name in (FILE_NAME, PROVENANCE):
        (out / name).unlink()


def make_honest(maker: Maker, recipe: Recipe, folder: Path) -> None:
    """A model and all its captures."""
    folder.mkdir(parents=True, exist_ok=True)
    model, short = folder / "model.gguf", token_ids(SHORT)
    maker.make(recipe, model)
    by_llamacpp(model, folder / "llamacpp", short)
    by_llamacpp(model, folder / "llamacpp-f16kv", short, kv=KvType.F16)
    by_llamacpp(model, folder / "llamacpp-norepack", short, repack=False)
    by_transformers(model, folder / "transformers", short)
    by_transformers(model, folder / "transformers-bf16", short, kind=DataType.BFLOAT16)
    by_transformers(model, folder / "transformers-f16", short, kind=DataType.FLOAT16)
    if recipe.decode:
        by_llamacpp(model, folder / "llamacpp-decode", short, decode=True)
    for count in recipe.long:
        by_llamacpp(model, folder / f"llamacpp-{count}", token_ids(count))
        by_transformers(model, folder / f"transformers-{count}", token_ids(count))


def make_real(source: Path, folder: Path) -> None:
    """Captures of a model that was trained, beside a link to it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.gguf"
    if not model.exists():
        model.symlink_to(source.resolve())
    tokens = load_model(model).tokenizer.encode(REAL_PROMPT, special=True)
    by_llamacpp(model, folder / "llamacpp", tokens)
    by_llamacpp(model, folder / "llamacpp-f16kv", tokens, kv=KvType.F16)
    by_llamacpp(model, folder / "llamacpp-norepack", tokens, repack=False)
    by_llamacpp(model, folder / "llamacpp-decode", tokens, decode=True)
    flash = functools.partial(by_llamacpp, model, tokens=tokens, flash_attention=True)
    flash(out=folder / "llamacpp-flash", kv=KvType.F16)
    for kv in (KvType.Q8_0, KvType.Q4_0):
        flash(out=folder / f"llamacpp-flash-{kv}kv", kv=kv)
        flash(out=folder / f"llamacpp-flash-{kv}kv-plain", kv=kv, turned=False)
    flash(out=folder / "llamacpp-flash-q8_0keys", kv=KvType.Q8_0, values_kv=KvType.F16)
    for suffix, kind in (("", DataType.FLOAT32), ("-bf16", DataType.BFLOAT16), ("-f16", DataType.FLOAT16)):
        by_transformers(model, folder / f"transformers{suffix}", tokens, kind=kind)
        by_transformers(model, folder / f"transformers-sdpa{suffix}", tokens, kind=kind, attention=AttentionKind.SDPA)


def make_faulty(fault: Fault, out: Path) -> None:
    """The captures of one edited model, which itself is not kept."""
    source, tokens = Path(fault.model) / "model.gguf", token_ids(SHORT)
    (out / "faults").mkdir(exist_ok=True)
    edited = out / "faults" / "edited.gguf"
    for engine, capture in (("llamacpp", by_llamacpp), ("transformers", by_transformers)):
        shutil.copyfile(out / source, edited)
        fault.edit(edited)
        folder = out / "faults" / f"{fault.name}-{engine}"
        capture(edited, folder, tokens)
        accepted = [{"layer": layer, "stage": stage} for layer, stage in fault.accepted]
        expected = {"model": str(source), "kind": fault.kind, "accepted": accepted}
        (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    edited.unlink()


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path(), help="folder of make_model.py, for all but --real")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="make only what has this in its name")
    parser.add_argument("--real", type=Path, nargs="+", default=[], help="GGUF files: captures of these only")
    arguments = parser.parse_args()
    for source in arguments.real:
        make_real(source, arguments.out / source.stem)
    if arguments.real:
        return
    maker = Maker(arguments.peers)
    for recipe in RECIPES:
        if arguments.only in recipe.name:
            make_honest(maker, recipe, arguments.out / recipe.name)
    for fault in faults():
        if arguments.only in f"faults/{fault.name}":
            make_faulty(fault, arguments.out)


if __name__ == "__main__":
    main()
