"""Measure an exported embedded model with PyTorch: `python -m aprtui.demo.evaluate MODEL.gguf --work DIR --out FILE`.

The figures are those of `aprtui.engine.quality.text`, on the quantised weights; the JSON written here is what
`aprtui.demo.export --quality` puts into the model's metadata.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aprtui.demo.corpus import CorpusDocument, Split, collect, split, standard_library
from aprtui.demo.network import NetworkShape, Weights, load_torch, make_forward, rotary_tables
from aprtui.demo.prompts import PROMPTS, SEED, TEMPERATURE, TOKENS
from aprtui.demo.vocabulary import TrainedVocabulary, load_vocabulary
from aprtui.engine.quality.text import parses, repeated_lines

SCORING_CONTEXT = 1024
MOST_REPEATS = 2
"""How often a line may occur in a completion that passes."""
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt's completion and its two judgements."""

    prompt: str
    completion: str
    tokens: int
    most_repeated_line: int
    parses: bool


@dataclass(frozen=True, slots=True)
class Quality:
    """All figures of one model; bits per byte are over the held-out files' UTF-8 bytes."""

    held_out_bits_per_byte: float
    xz_bits_per_byte: float
    held_out_bytes: int
    training_bytes: int
    repeat_passes: int
    parse_passes: int
    samples: tuple[Sample, ...]


def read_weights(model: Path) -> Weights:
    """Dequantised float32 tensors of a GGUF file."""
    import gguf

    torch = load_torch()
    weights: Weights = {}
    for tensor in gguf.GGUFReader(model).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        weights[tensor.name] = torch.from_numpy(np.array(values, dtype=np.float32))
    return weights


def held_out_bits(
    shape: NetworkShape, weights: Weights, vocabulary: TrainedVocabulary, documents: tuple[CorpusDocument, ...]
) -> float:
    """Bits the model needs for the documents' tokens, each document after an end-of-text mark.

    Windows of `SCORING_CONTEXT` tokens advance by half their length; a token is scored once, in the first window that
    has it, so that all but a document's first half window are predicted from at least that much text.
    """
    torch = load_torch()
    windows: list[tuple[int, list[int]]] = []
    for document in documents:
        ids = [vocabulary.end_of_text, *vocabulary.encode(document.text)]
        scored = 1
        while scored < len(ids):
            start = 0 if scored == 1 else scored - SCORING_CONTEXT // 2
            window = ids[start : start + SCORING_CONTEXT]
            windows.append((scored - start, window))
            scored = start + len(window)
    windows.sort(key=lambda window: len(window[1]))
    forward, bits = make_forward(shape), 0.0
    with torch.inference_mode():
        for first in range(0, len(windows), _BATCH):
            group = windows[first : first + _BATCH]
            width = max(len(ids) for _, ids in group)
            tokens = torch.tensor([ids + [0] * (width - len(ids)) for _, ids in group])
            logits = forward(weights, tokens[:, :-1], rotary_tables(shape, width - 1, "cpu")).log_softmax(-1)
            chosen = logits.gather(-1, tokens[:, 1:, None])[:, :, 0].double()
            bits -= sum(float(chosen[i, new - 1 : len(ids) - 1].sum()) for i, (new, ids) in enumerate(group))
    return bits / math.log(2.0)


def complete(shape: NetworkShape, weights: Weights, vocabulary: TrainedVocabulary, prompt: str) -> Sample:
    """Sample up to `TOKENS` tokens after `prompt` (an end-of-text mark before it); a special token ends the text."""
    torch = load_torch()
    forward, generator = make_forward(shape), np.random.Generator(np.random.PCG64(SEED))
    ids = [vocabulary.end_of_text, *vocabulary.encode(prompt)]
    start = len(ids)
    with torch.inference_mode():
        while len(ids) - start < TOKENS:
            logits = forward(weights, torch.tensor([ids]), rotary_tables(shape, len(ids), "cpu"))[0, -1]
            token = draw(logits.numpy(), TEMPERATURE, generator)
            if token >= vocabulary.end_of_text:
                break
            ids.append(token)
    completion = vocabulary.decode(ids[start:])
    text = prompt + completion
    return Sample(prompt, completion, len(ids) - start, repeated_lines(text), parses(text))


def primed_xz_bits_per_byte(primer: bytes, text: bytes) -> float:
    """Bits `xz` adds for each byte of `text` when it follows `primer`: preset 9 | EXTREME, one dictionary over both.

    The preset's own 64 MiB dictionary is enlarged where the texts are longer, so that none of the primer is forgotten.
    Raises ValueError for an empty `text`.
    """
    if not text:
        raise ValueError("bits per byte of an empty text are undefined")
    preset = 9 | lzma.PRESET_EXTREME
    dictionary = max(64 << 20, 1 << (len(primer) + len(text) - 1).bit_length())
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}]

    def size(content: bytes) -> int:
        return len(lzma.compress(content, format=lzma.FORMAT_XZ, filters=filters))

    return 8.0 * (size(primer + text) - size(primer)) / len(text)


def draw(logits: npt.NDArray[np.floating], temperature: float, generator: np.random.Generator) -> int:
    """One token id from `logits` [vocabulary]: softmax of logits / temperature in float64, inverse CDF in id order."""
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    cumulative = np.cumsum(weights / weights.sum())
    return min(int(np.searchsorted(cumulative, generator.random(), side="right")), len(cumulative) - 1)


def primed_xz(sides: Split, cache: Path) -> float:
    """`primed_xz_bits_per_byte` of the corpus, kept in `cache` because it takes minutes."""
    if cache.exists():
        return float(json.loads(cache.read_text(encoding="utf-8"))["bits_per_byte"])
    primer, text = ("".join(document.text for document in side).encode() for side in (sides.train, sides.held_out))
    figure = primed_xz_bits_per_byte(primer, text)
    cache.write_text(json.dumps({"bits_per_byte": figure}), encoding="utf-8")
    return figure


def measure(shape: NetworkShape, weights: Weights, work: Path) -> Quality:
    """All figures for `weights`, with the tokenizer of `work` and this interpreter's standard library."""
    vocabulary = load_vocabulary(work / "tokenizer.json")
    sides = split(collect(standard_library()))
    held_out_bytes, training_bytes = (sum(len(d.text.encode()) for d in side) for side in (sides.held_out, sides.train))
    samples = tuple(complete(shape, weights, vocabulary, prompt) for prompt in PROMPTS)
    return Quality(
        held_out_bits(shape, weights, vocabulary, sides.held_out) / held_out_bytes,
        primed_xz(sides, work / "xz.json"),
        held_out_bytes,
        training_bytes,
        sum(sample.most_repeated_line <= MOST_REPEATS for sample in samples),
        sum(sample.parses for sample in samples),
        samples,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m aprtui.demo.evaluate", description="Measure the embedded model.")
    parser.add_argument("model", type=Path, help="GGUF file, or a checkpoint of the training (*.pt)")
    parser.add_argument("--work", type=Path, required=True, help="folder of the training")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args(arguments)
    torch = load_torch()
    torch.set_num_threads(options.threads)
    weights: dict[str, Any]
    if options.model.suffix == ".pt":
        saved = torch.load(options.model, map_location="cpu", weights_only=True)["weights"]
        weights = {name: weight.detach() for name, weight in saved.items()}
    else:
        weights = read_weights(options.model)
    quality = measure(NetworkShape(), weights, options.work)
    options.out.write_text(json.dumps(asdict(quality), indent=1), encoding="utf-8")
    for sample in quality.samples:
        print(f"--- {sample.tokens} tokens, line repeats {sample.most_repeated_line}, parses {sample.parses}")
        print(sample.prompt + sample.completion)
    print(f"--- held-out {quality.held_out_bits_per_byte:.4f} bits per byte, primed xz {quality.xz_bits_per_byte:.4f}")
    print(f"--- lines repeat at most twice: {quality.repeat_passes} of 5; parse: {quality.parse_passes} of 5")


if __name__ == "__main__":
    main()
