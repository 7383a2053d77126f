"""What all oracles have in common: what they are asked to evaluate, and what the manifest says of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aprtui.errors import UsageError
from aprtui.model.model import Model
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import EngineInfo, Manifest, ModelInfo, unavailable_stages
from aprtui.trace.writer import planned_files, require_usable


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Tokens that are evaluated: the first `prefill` at once, the rest one by one."""

    tokens: Sequence[int]
    text: str | None
    prefill: int

    @property
    def steps(self) -> list[int]:
        """How many tokens are evaluated at once, one time after the other."""
        return [self.prefill, *[1] * (len(self.tokens) - self.prefill)]


Work = Mapping[Path, Evaluation]
"""What is evaluated, by the directory that its capture goes to."""


def require_evaluable(context: int, work: Work, overwrite: bool) -> None:
    """Raise `UsageError` unless all of `work` fits the `context` and its directories can be written."""
    for directory, evaluation in work.items():
        count = len(evaluation.tokens)
        if not count:
            raise UsageError("the prompt has no tokens: give a longer one")
        if count > context:
            raise UsageError(f"{count} tokens, the context has room for {context}: shorten the prompt")
        if not 1 <= evaluation.prefill <= count:
            raise UsageError(f"--decode-from {evaluation.prefill}: the prompt has {count} tokens: use 1 … {count}")
        require_usable(directory, overwrite)


def planned_manifest(
    model: Model, evaluation: Evaluation, engine: EngineInfo, nodes: Collection[Node], fused: Mapping[str, str]
) -> Manifest:
    """The manifest of a capture of `nodes` with logits of all positions; `fused` as for `unavailable_stages`."""
    count = len(evaluation.tokens)
    return Manifest(
        model=ModelInfo(model.name, model.sha256(), model.architecture, model.quantization),
        graph=model.config.graph,
        engine=engine,
        tokens=tuple(evaluation.tokens),
        positions=tuple(range(count)),
        text=evaluation.text,
        prompt_tokens=count,
        prefill_tokens=evaluation.prefill,
        logits="all",
        files=planned_files(model.graph, nodes, count, count),
        pieces=model.pieces(evaluation.tokens),
        unavailable=unavailable_stages(model.graph, nodes, fused),
    )
