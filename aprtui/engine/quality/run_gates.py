"""Gates that run the model: on its output, and on its speed."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

from aprtui.engine.backends.registry import device_backends, host_backends
from aprtui.engine.quality.gate import GateFinding, ModelUnderTest
from aprtui.engine.quality.golden import GoldenPrompt, golden_prompts
from aprtui.engine.quality.text import repeated_lines
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


def golden_output(subject: ModelUnderTest) -> GateFinding:
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
        return GateFinding.skipped("the file of prompts has none")
    return GateFinding.of_problems(problems, f"{judged} completions hold what they must and do not run in circles")


def _judge(subject: ModelUnderTest, prompt: GoldenPrompt, expected: tuple[str, ...], *, chat: bool) -> str:
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


def throughput(subject: ModelUnderTest) -> GateFinding:
    """Tokens decoded a second, median of five runs of 32 tokens after one to warm up."""
    speeds = decode_speeds(subject, TOKENS)
    if not speeds:
        return GateFinding.failed("the model ends at once: nothing to measure")
    subject.speeds = speeds
    speed, least = statistics.median(speeds), subject.options.tokens_per_second
    message = f"{speed:.1f} tokens/s, median of {len(speeds)} runs [{min(speeds):.1f} … {max(speeds):.1f}]"
    return GateFinding.reaching_in_all(speeds, message, speed, least)


def decode_speeds(subject: ModelUnderTest, tokens: int) -> list[float]:
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


def gpu_speedup(subject: ModelUnderTest) -> GateFinding:
    """Decode on the GPU against the CPU, median against median."""
    device, host = device_backends()[0], host_backends()[0]
    obstacle = device.obstacle()
    if obstacle is not None:
        return GateFinding.skipped(obstacle.problem)
    medians = []
    for backend in (device, host):
        with ModelUnderTest(subject.model, replace(subject.options, backend=backend.name)) as other:
            speeds = decode_speeds(other, TOKENS)
        if not speeds:
            return GateFinding.skipped("the model ends at once: nothing to measure")
        medians.append(statistics.median(speeds))
    ratio = medians[0] / medians[1]
    message = f"{medians[0]:.1f} tokens/s on the GPU, {medians[1]:.1f} on the CPU: {ratio:.2f} times"
    return GateFinding.reaching(message, ratio, SPEEDUP)


def performance_regression(subject: ModelUnderTest) -> GateFinding:
    """The speed against the one stored for this model, backend and machine."""
    path = subject.options.baseline
    if not subject.speeds or path is None:
        return GateFinding.skipped("no speed was measured" if path else "no place to keep a baseline")
    stored = _stored(path)
    speed = statistics.median(subject.speeds)
    if subject.options.save_baseline:
        _store(path, speed)
    if stored is None:
        kept = "stored as the first" if subject.options.save_baseline else "--save-baseline stores one"
        return GateFinding.skipped(f"no baseline in {path}: {kept}")
    ratio, ratios = speed / stored, [found / stored for found in subject.speeds]
    message = f"{speed:.1f} tokens/s, {ratio:.2f} of the stored {stored:.1f}"
    return GateFinding.reaching_in_all(ratios, message, ratio, SLOWER)


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
