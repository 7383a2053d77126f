"""Gates that let the model run: what it says, and how fast."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

from aprtui.demo.quality import repeated_lines
from aprtui.engine.cuda import detect
from aprtui.engine.quality.finding import Finding
from aprtui.engine.quality.gate import Subject
from aprtui.engine.quality.golden import GoldenPrompt, golden_prompts
from aprtui.errors import AprtuiError, EngineError, UnreadableError
from aprtui.model.prompt import encode_prompt
from aprtui.trace.aprt import write_atomically

ITERATIONS, WARM_UP, TOKENS = 5, 1, 32

MOST_REPEATS = 8
"""More lines alike than this in one completion is a model that runs in circles."""

SPEEDUP = 2.0
"""Of the GPU over the CPU: what `apr qa` asks for."""

SLOWER = 0.75
"""Of the stored speed: less is a regression, and more the spread of a busy machine."""


def golden_output(subject: Subject) -> Finding:
    """Completions of known prompts hold what they must, raw and through the model's own chat template."""
    problems, judged = [], 0
    for prompt in golden_prompts(subject.options.golden, subject.model.path):
        for way, expected in (("raw", prompt.raw), ("chat", prompt.chat)):
            if way == "chat" and subject.model.chat_template is None:
                continue
            judged += 1
            problem = _judge(subject, prompt, expected, chat=way == "chat")
            problems += [f"{prompt.text!r:.40} {way}: {problem}"] if problem else []
    if not judged:
        return Finding.skipped("the file of prompts has none")
    return Finding.of_problems(problems, f"{judged} completions hold what they must and do not run in circles")


def _judge(subject: Subject, prompt: GoldenPrompt, expected: tuple[str, ...], *, chat: bool) -> str:
    """What is wrong with one completion; empty where nothing is."""
    ids = encode_prompt(subject.model, prompt.text, special=True, chat=chat)
    generation = subject.generate(ids, prompt.tokens, greedy=False)
    text = "".join(token.text for token in generation) + generation.tail
    if not text.strip():
        return "" if chat and not expected else "an empty completion"
    if "\ufffd" in text:
        return f"bytes that are no UTF-8: {text!r:.60}"
    if (repeats := repeated_lines(text)) > MOST_REPEATS:
        return f"one line {repeats} times"
    if expected and not any(word in text for word in expected):
        return f"none of {', '.join(map(repr, expected))} in {text!r:.80}"
    return ""


def throughput(subject: Subject) -> Finding:
    """Tokens decoded a second, median of five runs of 32 tokens after one to warm up."""
    speeds = decode_speeds(subject, TOKENS)
    if not speeds:
        return Finding.failed("the model ends at once: nothing to measure")
    subject.speed = statistics.median(speeds)
    least = subject.options.tokens_per_second
    message = f"{subject.speed:.1f} tokens/s, median of {len(speeds)} runs [{min(speeds):.1f} … {max(speeds):.1f}]"
    return Finding.of(subject.speed >= least, message, subject.speed, least)


def decode_speeds(subject: Subject, tokens: int) -> list[float]:
    """Tokens decoded a second in each of five runs of up to `tokens` tokens, after one to warm up; fewer where a run
    ended before its second token."""
    ids, speeds = subject.prompt(), []
    for turn in range(WARM_UP + ITERATIONS):
        generation = subject.generate(ids, tokens)
        for _ in generation:
            pass
        if turn >= WARM_UP and generation.timing.decoded_tokens:
            speeds.append(generation.timing.tokens_per_second)
    return speeds


def gpu_speedup(subject: Subject) -> Finding:
    """Decode on the GPU against the CPU, median against median."""
    found = detect.detect()
    if found.problem:
        return Finding.skipped(found.problem)
    medians = {}
    for backend in ("cuda", "cpu"):
        with Subject(subject.model, replace(subject.options, backend=backend)) as other:
            speeds = decode_speeds(other, TOKENS)
        if not speeds:
            return Finding.skipped("the model ends at once: nothing to measure")
        medians[backend] = statistics.median(speeds)
    ratio = medians["cuda"] / medians["cpu"]
    message = f"{medians['cuda']:.1f} tokens/s on the GPU, {medians['cpu']:.1f} on the CPU: {ratio:.2f} times"
    return Finding.of(ratio >= SPEEDUP, message, ratio, SPEEDUP)


def performance_regression(subject: Subject) -> Finding:
    """The speed against the one stored for this model, backend and machine."""
    path = subject.options.baseline
    if subject.speed is None or path is None:
        return Finding.skipped("no speed was measured" if path else "no place to keep a baseline")
    stored = _stored(path)
    if subject.options.save_baseline:
        _store(path, subject.speed)
    if stored is None:
        kept = "stored as the first" if subject.options.save_baseline else "--save-baseline stores one"
        return Finding.skipped(f"no baseline in {path}: {kept}")
    ratio = subject.speed / stored
    message = f"{subject.speed:.1f} tokens/s, {ratio:.2f} of the stored {stored:.1f}"
    return Finding.of(ratio >= SLOWER, message, ratio, SLOWER)


def _stored(path: Path) -> float | None:
    try:
        speed = float(json.loads(path.read_text())["tokens_per_second"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableError(f"{path}: no baseline: {error}: remove it, or --save-baseline replaces it") from error
    if not speed > 0:
        raise UnreadableError(f"{path}: tokens_per_second is {speed}: expected more than 0: remove it")
    return speed


def _store(path: Path, speed: float) -> None:
    try:
        write_atomically(path, json.dumps({"tokens_per_second": speed}).encode())
    except AprtuiError as error:
        raise EngineError(f"the baseline was not stored: {error}") from error
