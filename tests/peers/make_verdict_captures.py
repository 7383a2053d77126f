"""Captures of honest and of faulty models by engines that nobody of this project wrote, to judge the verdicts by.

    python tests/peers/make_verdict_captures.py --peers DIR --out DIR [--only PART] [--real MODEL.gguf ...]

`--peers` is a folder with the peer scripts `make_model.py`, `llama_stages.py` and `hf_stages.py`; the Python that runs
this needs what they need: numpy, gguf, torch, transformers and llama-cpp-python. `--only` makes what has PART in its
name. The result:

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
import itertools
import json
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.engine import edit_gguf

SHORT = 22
PREFILLED = 8
CONTEXT = 1024
REAL_PROMPT = "def mean(values):\n    # the average of the values\n    return sum(values) / len(values)\n"
_NOT_OURS = ("layer_output.bin", *(f"{part}_{kind}.bin" for part in "qkv" for kind in ("matmul", "bias")))
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


class Peers:
    """The peer scripts, imported from their folder and driven through their command lines."""

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(folder))
        self.maker: Any
        self.llama: Any
        self.hf: Any
        self.maker, self.llama, self.hf = map(importlib.import_module, ("make_model", "llama_stages", "hf_stages"))
        self.maker.FTYPES["BF16"] = _BF16_FILE_TYPE
        opened = self.llama.open_model
        self.llama.open_model = lambda *a, **k: opened(*a, **{"n_ctx": CONTEXT, "n_ubatch": CONTEXT} | k)

    def make(self, recipe: Recipe, to: Path) -> None:
        """Write the model file of `recipe`."""
        stem, quantised = to.with_name("made"), recipe.quantisation.lower() != recipe.source
        options = ["--arch", recipe.architecture, "--dtype", recipe.source, "--out", str(stem), *recipe.options]
        _main(self.maker, [*options, "--quant", *([recipe.quantisation] if quantised else [])])
        made = stem.with_name(f"made-{recipe.quantisation if quantised else recipe.source}.gguf")
        made.rename(to)
        for left in to.parent.glob("made-*.gguf"):
            left.unlink()

    def tokens(self, model: Path) -> list[int]:
        """The token ids of the prompt for real models."""
        self.llama.quiet()
        opened, context = self.llama.open_model(str(model))
        ids: list[int] = self.llama.tokenize(opened, REAL_PROMPT)
        self.llama.L.llama_free(context)
        self.llama.L.llama_model_free(opened)
        return ids

    def llamacpp(self, model: Path, out: Path, tokens: list[int], *options: str, decode: bool = False) -> None:
        """Capture `tokens` with llama.cpp on the CPU, flash attention off; float32 K/V unless `options` say f16."""
        with _teacher_forced(self.llama) if decode else nullcontext():
            _main(
                self.llama,
                [*_capture(model, out, tokens), *(options if "--kv" in options else ("--kv", "f32", *options))],
            )
        note = "flash attention off" + (f", {PREFILLED} tokens prefilled, the rest one by one" if decode else "")
        _finish(out, note)

    def llamacpp_flash(
        self, model: Path, out: Path, tokens: list[int], kv: str = "f16", values: str = "", *, turned: bool = True
    ) -> None:
        """Capture `tokens` with llama.cpp on the CPU, flash attention on, K/V in type `kv`, or values in another;
        quantised ones are not turned unless `turned`."""
        values = values or kv
        os.environ["LLAMA_ATTN_ROT_DISABLE"] = str(int(not turned))
        with _flash_attention(self.llama, kv, values):
            _main(self.llama, _capture(model, out, tokens))
        del os.environ["LLAMA_ATTN_ROT_DISABLE"]
        _finish(out, f"flash attention on, K in {kv}, V in {values}{'' if turned else ', not turned'}")

    def transformers(
        self, model: Path, out: Path, tokens: list[int], dtype: str = "float32", attention: str = "eager"
    ) -> None:
        """Capture `tokens` with transformers, weights and activations in `dtype`; `attention` eager or sdpa."""
        with _in_dtype(self.hf, dtype, attention):
            _main(self.hf, _capture(model, out, tokens))
        _finish(out, f"weights dequantised, {attention} attention, weights and activations in {dtype}")
        peer = json.loads((out / "PEER.json").read_text())
        peer["engine"] = peer["engine"].replace(" f32 ", f" {dtype} ")  # the script's own word for all it can do
        (out / "PEER.json").write_text(json.dumps(peer, indent=1) + "\n")


@contextmanager
def _flash_attention(script: Any, keys: str, values: str) -> Iterator[None]:
    """The script runs with flash attention and such K/V, and takes what it returns for the stage attention."""
    bindings, named = script.L, script.stage_of
    start, layers = bindings.llama_init_from_model, itertools.count()

    def started(model: Any, parameters: Any) -> Any:
        parameters.flash_attn_type = bindings.LLAMA_FLASH_ATTN_TYPE_ENABLED
        parameters.type_k, parameters.type_v = (
            getattr(bindings, f"GGML_TYPE_{kind.upper()}") for kind in (keys, values)
        )
        return start(model, parameters)

    def stage_of(name: str, op: str, source: str) -> Any:
        if op == "FLASH_ATTN_EXT":
            return next(layers), "attention"  # it has no name of its own
        return named(name, op, source)

    bindings.llama_init_from_model, script.stage_of = started, stage_of
    try:
        yield
    finally:
        bindings.llama_init_from_model, script.stage_of = start, named


@contextmanager
def _in_dtype(script: Any, dtype: str, attention: str) -> Iterator[None]:
    """The script loads its model in `dtype`; the frequencies of RoPE stay float32, as where the library loads it."""
    import torch

    load = script.load_dequant
    touched: dict[Any, Any] = {}

    def converted(path: str) -> tuple[str, Any]:
        architecture, model = load(path)
        model = model.to(getattr(torch, dtype))
        model.set_attn_implementation(attention)
        model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)
        module = importlib.import_module(type(model).__module__)
        touched[module] = module.eager_attention_forward
        return architecture, model

    script.load_dequant = converted
    try:
        yield
    finally:
        script.load_dequant = load
        for module, eager in touched.items():
            module.eager_attention_forward = eager  # the script hooks it, once more on every call


@contextmanager
def _teacher_forced(script: Any) -> Iterator[None]:
    """The script decodes `PREFILLED` tokens, then one at a time, and sees the records of all passes joined."""
    decode, tracer = script.decode, script.Tracer
    made: list[Any] = []

    def traced(*arguments: Any, **options: Any) -> Any:
        made.append(tracer(*arguments, **options))
        return made[-1]

    def in_steps(context: Any, tokens: list[int]) -> None:
        joined: dict[tuple[int, str], list[Any]] = {}
        starts = [0, *range(PREFILLED, len(tokens))]
        for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
            decode(context, tokens[start:end], pos0=start)
            for key, record in {script.stage_of(*r[:3]): r for r in made[-1].rec}.items():
                if key is not None:
                    joined.setdefault(key, []).append(record)
            made[-1].rec.clear()
        for (_, stage), records in joined.items():
            axis = 1 if stage.endswith(("_post_rope", "_norm")) and stage[:2] in ("q_", "k_") else 2
            made[-1].rec.append((*records[0][:4], np.concatenate([record[4] for record in records], axis)))

    script.decode, script.Tracer = in_steps, traced
    try:
        yield
    finally:
        script.decode, script.Tracer = decode, tracer


def _main(script: Any, arguments: list[str]) -> None:
    before, sys.argv = sys.argv, [script.__name__, *arguments]
    try:
        script.main()
    finally:
        sys.argv = before


def _capture(model: Path, out: Path, tokens: list[int]) -> list[str]:
    shutil.rmtree(out, ignore_errors=True)
    return [str(model), str(out), "--tokens", ",".join(map(str, tokens))]


def _finish(out: Path, note: str) -> None:
    """From the scripts' layout to the capture's: the embedding belongs to layer 0, duplicates go, `PEER.json`."""
    stages = json.loads((out / "stages.json").read_text())
    (out / "stages.json").unlink()
    embedding = (out / "embedding.bin").read_bytes()
    (out / "layer-0" / "embedding.bin").write_bytes(embedding[:4] + struct.pack("<I", 0) + embedding[8:])
    (out / "embedding.bin").unlink()
    shapes = {"layer-0/embedding.bin" if name == "embedding.bin" else name: s for name, s in stages["stages"].items()}
    for name in [name for name in shapes if name.rpartition("/")[2] in _NOT_OURS]:
        (out / name).unlink()
        del shapes[name]
    peer = {
        "engine": stages["engine"],
        "note": note,
        "model": "model.gguf",
        "tokens": stages["tokens"],
        "shapes": shapes,
    }
    peer |= {key: stages[key] for key in ("kv", "repack", "derived") if key in stages}
    (out / "PEER.json").write_text(json.dumps(peer, indent=1) + "\n")


def make_honest(peers: Peers, recipe: Recipe, folder: Path) -> None:
    """A model and all its captures."""
    folder.mkdir(parents=True, exist_ok=True)
    model, short = folder / "model.gguf", token_ids(SHORT)
    peers.make(recipe, model)
    peers.llamacpp(model, folder / "llamacpp", short)
    peers.llamacpp(model, folder / "llamacpp-f16kv", short, "--kv", "f16")
    peers.llamacpp(model, folder / "llamacpp-norepack", short, "--no-repack")
    peers.transformers(model, folder / "transformers", short)
    peers.transformers(model, folder / "transformers-bf16", short, "bfloat16")
    peers.transformers(model, folder / "transformers-f16", short, "float16")
    if recipe.decode:
        peers.llamacpp(model, folder / "llamacpp-decode", short, decode=True)
    for count in recipe.long:
        peers.llamacpp(model, folder / f"llamacpp-{count}", token_ids(count))
        peers.transformers(model, folder / f"transformers-{count}", token_ids(count))


def make_real(peers: Peers, source: Path, folder: Path) -> None:
    """Captures of a model that was trained, beside a link to it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.gguf"
    if not model.exists():
        model.symlink_to(source.resolve())
    tokens = peers.tokens(model)
    peers.llamacpp(model, folder / "llamacpp", tokens)
    peers.llamacpp(model, folder / "llamacpp-f16kv", tokens, "--kv", "f16")
    peers.llamacpp(model, folder / "llamacpp-norepack", tokens, "--no-repack")
    peers.llamacpp(model, folder / "llamacpp-decode", tokens, decode=True)
    peers.llamacpp_flash(model, folder / "llamacpp-flash", tokens)
    for kv in ("q8_0", "q4_0"):
        peers.llamacpp_flash(model, folder / f"llamacpp-flash-{kv}kv", tokens, kv)
        peers.llamacpp_flash(model, folder / f"llamacpp-flash-{kv}kv-plain", tokens, kv, turned=False)
    peers.llamacpp_flash(model, folder / "llamacpp-flash-q8_0keys", tokens, "q8_0", "f16")
    for suffix, dtype in (("", "float32"), ("-bf16", "bfloat16"), ("-f16", "float16")):
        peers.transformers(model, folder / f"transformers{suffix}", tokens, dtype)
        peers.transformers(model, folder / f"transformers-sdpa{suffix}", tokens, dtype, "sdpa")


def make_faulty(peers: Peers, fault: Fault, out: Path) -> None:
    """The captures of one edited model, which itself is not kept."""
    source, tokens = Path(fault.model) / "model.gguf", token_ids(SHORT)
    (out / "faults").mkdir(exist_ok=True)
    edited = out / "faults" / "edited.gguf"
    for engine, capture in (("llamacpp", peers.llamacpp), ("transformers", peers.transformers)):
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
    parser.add_argument("--peers", type=Path, required=True, help="folder of the peer scripts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="make only what has this in its name")
    parser.add_argument("--real", type=Path, nargs="+", default=[], help="GGUF files: captures of these only")
    arguments = parser.parse_args()
    peers = Peers(arguments.peers)
    for source in arguments.real:
        make_real(peers, source, arguments.out / source.stem)
    if arguments.real:
        return
    for recipe in RECIPES:
        if arguments.only in recipe.name:
            make_honest(peers, recipe, arguments.out / recipe.name)
    for fault in faults():
        if arguments.only in f"faults/{fault.name}":
            make_faulty(peers, fault, arguments.out)


if __name__ == "__main__":
    main()
