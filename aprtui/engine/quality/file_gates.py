"""Gates that read the model file and run nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from aprtui.compare.verdict import Verdict
from aprtui.engine.quality.gate import GateFinding, ModelUnderTest
from aprtui.errors import UnreadableError, UsageError
from aprtui.model.model import Model
from aprtui.model.tensor_table import TensorInfo, summarise, tensor_table
from aprtui.model.weight_difference.compare import compare_models

LARGEST = 1e4
"""Beyond every weight of a model that works; a scale that was read at the wrong place is."""


def tensor_contract(subject: ModelUnderTest) -> GateFinding:
    """Every tensor can be read, is finite, of plausible size and not all zero; shapes were held against the graph."""
    table = tensor_table(subject.model.path)
    problems = [problem for info in table if (problem := _problem(subject.model, info))]
    return GateFinding.of_problems(
        problems, f"{len(table)} tensors are finite, of plausible size, and of the right shape"
    )


def _problem(model: Model, info: TensorInfo) -> str:
    """What is wrong with one tensor; empty where nothing is."""
    if info.stored is None:
        return f"{info.name}: {info.problem}"
    with np.errstate(invalid="ignore", over="ignore"):
        summary = summarise(info)
    for name, (low, high) in summary.scales.items():
        if not (math.isfinite(low) and math.isfinite(high)):
            return f"{info.name}: {name} of a block is not finite"
    stats = summary.stats
    if stats is None:
        return f"{info.name}: values of type {info.type} are not known here"
    if stats.nan or stats.inf:
        return f"{info.name}: {stats.nan} NaN and {stats.inf} Inf among {stats.count} values"
    if stats.absmax is not None and stats.absmax > LARGEST:
        return f"{info.name}: a value of {stats.absmax:.3g}, more than {LARGEST:g}"
    if stats.absmax == 0 and info.name.endswith(".weight"):
        return f"{info.name}: all {stats.count} values are zero"
    return ""


def weights_against(subject: ModelUnderTest) -> GateFinding:
    """The weights are those of a model that is known to be good, within the step of each type, as `diff --weights` has
    it."""
    good = subject.options.against
    if good is None:
        return GateFinding.skipped("no good model to compare with: --against GOOD.gguf gives one")
    difference = compare_models(good, subject.model.path)
    failed = sum(tensor.judgement.verdict is Verdict.FAIL for tensor in difference.tensors)
    if difference.verdict is Verdict.PASS:
        return GateFinding.passed(f"{len(difference.tensors)} tensors as in {good.name}", 0, 0)
    said = f"against {good.name}: {'; '.join(difference.reasons)}"
    if difference.verdict is Verdict.UNKNOWN:
        return GateFinding.unknown(said)
    return GateFinding.failed(said, max(failed, 1), 0)


def metadata_plausibility(subject: ModelUnderTest) -> GateFinding:
    """Sizes, constants, special tokens and the chat template are what a working model has."""
    problems = [*_numbers(subject.model), *_tokens(subject.model), *_template(subject.model)]
    return GateFinding.of_problems(problems, "sizes, constants, special tokens and chat template are plausible")


def _numbers(model: Model) -> Iterator[str]:
    config, graph = model.config, model.config.graph
    # The published models of the supported architectures lie well within these ranges.
    ranges = (
        ("RoPE base", config.rope.theta, 1e3, 1e9),
        ("norm epsilon", config.norm_epsilon, 1e-8, 1e-3),
        ("context", config.context, 64, 1 << 24),
        ("layers", graph.layers, 1, 512),
        ("head dimension", graph.head_dim if graph.latent is None else graph.latent.value, 16, 512),
        ("vocabulary", graph.vocabulary, 64, 1 << 21),
    )
    for name, value, low, high in ranges:
        if not low <= value <= high:
            yield f"{name} is {value:g}, expected {low:g} … {high:g}"
    temperature = model.sampling_temperature
    if temperature is not None and temperature > 2:
        yield f"the recommended temperature is {temperature:g}, expected at most 2"


def _tokens(model: Model) -> Iterator[str]:
    for token in sorted(model.tokenizer.stop_ids):
        if not 0 <= token < model.config.graph.vocabulary:
            yield f"stop token {token} is not in the vocabulary of {model.config.graph.vocabulary}"
    if not model.tokenizer.stop_ids:
        yield "no token ends a text"


def _template(model: Model) -> Iterator[str]:
    try:
        template = model.chat_template
        if template is not None and "hello-there" not in template.render([{"role": "user", "content": "hello-there"}]):
            yield "the chat template leaves out what the user says"
    except (UsageError, UnreadableError) as error:
        yield str(error)
