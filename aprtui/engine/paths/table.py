"""The paths by which an engine can evaluate the same tokens, a row each.

A path is a way to cut a sequence into passes, or a setting that must change no result: threads, room in the cache,
what is tapped. All of these give the same bits in an engine that computes each output in one order. What another type
of the K/V cache may change is known too (it rounds keys and values), and is judged by a replay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import counted
from aprtui.engine.generation import evaluate
from aprtui.engine.protocol import NO_TAPS, Engine, Logits, Taps

Array = NDArray[np.float32]
Evaluate = Callable[[Engine, Sequence[int], Taps, Logits], Array]
"""Evaluates tokens from an empty context; the logits of the last one `[V]`."""

SHORT = 256
"""Sequences up to here are cut into passes of all sizes, and decoded to the half; longer ones take a few large ones."""

_CHUNKS = (2, 7, 32, 64)
_LONG_CHUNKS = (100, 512, 1000)
_DECODED = 16
"""Tokens at the end of a long sequence that are decoded."""


@dataclass(frozen=True, slots=True)
class EvaluationPath:
    """One path: how it cuts the tokens, and what it sets otherwise than the first one does.

    `threads` of None are those asked for; `room` is the context in lengths of the sequence. With `maps` the attention
    maps are handed out as well.
    """

    name: str
    says: str
    evaluate: Evaluate
    threads: int | None = None
    room: int = 1
    maps: bool = False


def whole(engine: Engine, tokens: Sequence[int], taps: Taps, logits: Logits) -> Array:
    """All tokens at once."""
    engine.reset()
    return np.array(engine.forward(tokens, taps, logits)[-1])


def in_chunks(size: int) -> Evaluate:
    """Prefill in passes of `size` tokens."""

    def run(engine: Engine, tokens: Sequence[int], taps: Taps, logits: Logits) -> Array:
        engine.reset()
        passes = (engine.forward(tokens[at : at + size], taps, logits) for at in range(0, len(tokens), size))
        *_, last = passes
        return np.array(last[-1])

    return run


def decoded_from(first: int) -> Evaluate:
    """Prefill of `first` tokens, then one by one."""

    def run(engine: Engine, tokens: Sequence[int], taps: Taps, logits: Logits) -> Array:
        return np.array(evaluate(engine, tokens, prefill=first, taps=taps, logits=logits)[-1])

    return run


def again(engine: Engine, tokens: Sequence[int], taps: Taps, logits: Logits) -> Array:
    """Behind another sequence, whose rows are still in the cache: the same tokens backwards."""
    whole(engine, tokens[::-1], NO_TAPS, Logits.LAST)
    return whole(engine, tokens, taps, logits)


def back_to(kept: int) -> Evaluate:
    """Goes on from a state in the middle, behind which other tokens had been evaluated."""

    def run(engine: Engine, tokens: Sequence[int], taps: Taps, logits: Logits) -> Array:
        engine.reset()
        engine.forward(tokens[:kept], taps, logits)
        engine.forward(tokens[:kept][::-1][: len(tokens) - kept], NO_TAPS, Logits.LAST)
        engine.reset(kept)
        return np.array(engine.forward(tokens[kept:], taps, logits)[-1])

    return run


PREFILL = EvaluationPath("prefill", "all tokens in one pass", whole)


def paths_for(tokens: int, threads: int | None) -> tuple[EvaluationPath, ...]:
    """The paths that a sequence of so many tokens can take, the plain prefill first; `threads` are those in use."""
    half = tokens // 2
    sizes = [size for size in (_CHUNKS if tokens <= SHORT else _LONG_CHUNKS) if size < tokens]
    starts = [1, half] if tokens <= SHORT else [tokens - _DECODED]
    found = [PREFILL]
    found += [
        EvaluationPath(f"chunks-{size}", f"prefill in passes of {size} tokens", in_chunks(size)) for size in sizes
    ]
    found += [
        EvaluationPath(f"decode-{first}", f"{first} prefilled, the others decoded one by one", decoded_from(first))
        for first in dict.fromkeys(starts)
        if 0 < first < tokens
    ]
    if half:
        says = f"gone back to position {half} after {counted(half, 'other token')} behind it"
        found.append(EvaluationPath(f"back-{half}", says, back_to(half)))
    found.append(EvaluationPath("again", "in an engine that has evaluated other tokens before", again))
    found += [
        EvaluationPath(f"threads-{count}", "on " + counted(count, "thread"), whole, threads=count)
        for count in _other_threads(threads)
    ]
    found.append(EvaluationPath("room-4x", "in a context of four times the length", whole, room=4))
    if tokens <= SHORT:
        found.append(EvaluationPath("maps", "with attention maps handed out", whole, maps=True))
    return tuple(found)


def _other_threads(threads: int | None) -> tuple[int, ...]:
    return () if threads is None else tuple(sorted({1, 2, 3} - {threads}))
