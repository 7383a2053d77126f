"""What is UNKNOWN names the smallest further capture, or the statement, that decides it, as a command to paste."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import pytest

from aprtui.cli.comparison.further_captures import Run, run_of
from aprtui.cli.comparison.next_steps import diff_steps, replay_steps
from aprtui.cli.comparison.options import ComparisonOptions
from aprtui.cli.main import cli
from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.align.tokens import TokenAlignment
from aprtui.compare.comparison import Cause, Comparison, Everywhere, Focus, FocusKind
from aprtui.compare.verdict import NO_BOUND, UNSETTLED, Verdict
from aprtui.engine.replay.common_error import ALIKE
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.other_layers import GROWN
from aprtui.engine.replay.replay import ANYWHERE, ReplayOptions, replay_capture
from aprtui.model.model import Model
from aprtui.resources import embedded_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import evaluators, exact, model

__all__ = ["evaluators", "exact", "model"]

AT = Node(2, "ffn_gate")
RUN = Run("aprtui", "exact", (str(embedded_model()),), (1, 2, 3))
OPTIONS = ComparisonOptions(None, None, (), None, (), None, 10, False, None, None, False, False)
FP8 = Everywhere(
    "matrix products", (AT,), 4, 0.02, "weights in fp8", True, "if that is meant, state it: --rounding weights=fp8"
)


@pytest.fixture(scope="session")
def honest(exact: Path, model: Model, evaluators: Evaluators) -> Comparison:
    return replay_capture(Capture.open(exact), model, ReplayOptions(), evaluators)


def because(reason: str, segment: tuple[Node, ...] = ()) -> Callable[[Comparison], Comparison]:
    """A stage that is UNKNOWN for a reason."""

    def changed(comparison: Comparison) -> Comparison:
        stages = tuple(
            replace(s, verdict=replace(s.verdict, verdict=Verdict.UNKNOWN, reason=reason), segment=segment)
            if s.node == AT
            else s
            for s in comparison.stages
        )
        return replace(comparison, stages=stages)

    return changed


def problem(text: str) -> Callable[[Comparison], Comparison]:
    return lambda c: replace(c, alignment=TokenAlignment(0, (None, None), (None, None), text), stages=(), compared=0)


SKIPPED = Unpaired(AT, "b", "truncated")
REASONS: dict[str, tuple[Callable[[Comparison], Comparison], str]] = {
    "an arithmetic that nothing settles": (because(UNSETTLED), "ffn_gate,ffn_up"),
    "an arithmetic in a segment": (because(UNSETTLED, (Node(2, "ffn_norm"),)), "--save-tensor ffn_norm"),
    "errors that grow": (because(GROWN, (Node(2, "ffn_norm"),)), "--save-tensor ffn_norm --save-tensor-layers 2"),
    "errors that are alike": (because(ALIKE), "--save-tensor-layers 2"),
    "a place that is not known": (because(ANYWHERE), "--save-tensor-layers 2"),
    "no bound": (because(NO_BOUND), "--save-tensor-layers 2"),
    "no finite value": (because("no finite value on either side"), "--save-tensor-layers 2"),
    "tokens that are not known": (problem("token ids are not recorded"), "--save-tensor embedding"),
    "weights in another type": (lambda c: replace(c, everywhere=(FP8,)), "--rounding weights=fp8"),
    "other weights": (lambda c: replace(c, everywhere=(replace(FP8, settled_by="give the model"),)), "--model"),
    "a run that did not finish": (lambda c: replace(c, unfinished=("A",)), "--tokens 1,2,3"),
    "a file that cannot be read": (
        lambda c: replace(c, skipped=(SKIPPED,), compared=1), "--save-tensor ffn_gate --save-tensor-layers 2",
    ),
    "nothing at all": (lambda c: replace(c, stages=(), compared=0, expected=0), "--save-tensor-layers 0"),
}  # fmt: skip
"""What a replay, or a diff, may be UNKNOWN for; and a part of the command that settles it in a replay."""


def commands(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("aprtui ")]


def parsed(command: str) -> None:
    """Raises `click.UsageError` for a command line that aprtui would not take."""
    _, name, *arguments = shlex.split(command)
    with click.Context(cli) as context:
        found: click.Command | None = cli.get_command(context, name)
        while isinstance(found, click.Group):
            found = found.get_command(context, arguments.pop(0))
        assert found is not None, command
        found.make_context(name, arguments, parent=context)


@pytest.mark.parametrize("name", REASONS)
def test_every_replay_that_is_unknown_names_a_command_that_decides_it(name: str, honest: Comparison) -> None:
    change, part = REASONS[name]
    unknown = replace(change(honest), verdict=Verdict.UNKNOWN)
    found = commands(list(replay_steps(unknown, Path("capture"), embedded_model(), [], RUN)))
    assert any(part in command for command in found), found
    for command in found:
        parsed(command.replace("--model MODEL", f"--model {embedded_model()}").replace("IDS", "1,2"))


@pytest.mark.parametrize("name", REASONS)
@pytest.mark.parametrize("judging", [[], ["--model", str(embedded_model())]], ids=["unjudged", "judged"])
def test_every_diff_that_is_unknown_names_a_command_that_decides_it(
    name: str, judging: list[str], honest: Comparison, exact: Path
) -> None:
    unknown = replace(REASONS[name][0](honest), verdict=Verdict.UNKNOWN)
    found = commands(list(diff_steps(unknown, exact, exact, OPTIONS, judging, (RUN, RUN))))
    assert found
    for command in found:
        parsed(command.replace("--model MODEL", f"--model {embedded_model()}").replace("IDS", "1,2"))


def test_a_further_capture_is_made_by_the_engine_of_the_first() -> None:
    nodes = [Node(3, "attn_scores")]
    assert RUN.command(nodes).startswith(f"aprtui trace {embedded_model()} --tokens 1,2,3 --mode exact --save-tensor")
    assert replace(RUN, engine="llama.cpp").command(nodes).startswith("aprtui oracle llamacpp ")
    assert replace(RUN, engine="transformers").command(nodes).startswith("aprtui oracle hf ")
    assert Run().command(nodes).startswith("aprtui trace MODEL -p PROMPT --save-tensor attn_scores")
    assert "the engine that wrote it" in replace(RUN, engine="").words


def test_a_capture_says_what_made_it(exact: Path) -> None:
    run = run_of(Capture.open(exact), None, embedded=True)
    assert (run.engine, run.mode, run.model) == ("aprtui", "exact", ())
    assert len(run.tokens) == 13


def test_a_diff_of_the_embedded_model_names_it(exact: Path, honest: Comparison) -> None:
    unknown, runs = (
        replace(because(NO_BOUND)(honest), verdict=Verdict.UNKNOWN),
        (run_of(Capture.open(exact), None),) * 2,
    )
    steps = commands(list(diff_steps(unknown, exact, exact, OPTIONS, [], runs)))
    assert shlex.join(["aprtui", "diff", str(exact), str(exact), "--model", embedded_model().stem]) in steps


def test_causes_that_come_out_alike_name_the_stages_that_tell_them_apart(honest: Comparison) -> None:
    cause = Cause("mask", "no mask", "mask", (AT,), False, 0.1, 1e-7, 2e-6, ("a window",), "attn_softmax", "", (AT,))
    failing = replace(honest, verdict=Verdict.FAIL, causes=(cause,))
    assert any("--save-tensor ffn_gate" in line for line in replay_steps(failing, Path("capture"), None, [], RUN))


def test_a_command_that_looks_closer_names_its_layers_once(honest: Comparison) -> None:
    failing = replace(honest, verdict=Verdict.FAIL, focus=Focus(AT, FocusKind.DIVERGENCE))
    words = ["--tolerance", "rel_l2=1e-9", "--layers", "0..3"]
    (command,) = commands(list(replay_steps(failing, Path("capture"), None, words, RUN)))
    assert command.count("--layers") == 1 and "0..3" not in command and "--tolerance rel_l2=1e-9" in command
    parsed(command)


def test_logits_alone_are_decided_by_layer_outputs(honest: Comparison) -> None:
    """The final norm is what they are computed from; it would tell no more of the layers."""
    segment = (Node(2, "ffn_gate"), Node(2, "post_ffn_residual"), Node(None, "final_norm"))
    logits = next(stage for stage in honest.stages if stage.node.stage == "lm_head")
    verdict = replace(logits.verdict, verdict=Verdict.UNKNOWN, reason=UNSETTLED)
    alone = (replace(logits, verdict=verdict, segment=segment),)
    unknown = replace(honest, verdict=Verdict.UNKNOWN, stages=alone, compared=1, expected=1)
    (command,) = commands(list(replay_steps(unknown, Path("capture"), embedded_model(), [], RUN)))
    assert "--save-tensor post_ffn_residual" in command and "--save-tensor-layers" not in command
    parsed(command)
