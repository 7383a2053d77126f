"""Checks of the verdicts: injected faults must be named at their own stage, and honest runs must not be blamed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import counted
from aprtui.contracts.checks.arguments import CheckArguments
from aprtui.contracts.checks.judgement import Judgement, Relation, passed_if, unknown
from aprtui.engine.evaluation.false_alarms import judge_pairs, judge_replays, own_captures
from aprtui.engine.evaluation.fault_detection import PROMPT, REPLAY, SIGNALS, run_detection
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.errors import UsageError

_MOST = 10_000


def detection_rate(arguments: CheckArguments) -> Judgement:
    """Of every `every`-th fault of the matrix that is above the bound of `signal`, a share of at least `at_least` is
    named at its own stage."""
    signal, bound = arguments.one_of("signal", REPLAY, SIGNALS), arguments.number("at_least", 0.99)
    every = arguments.count("every", 1, _MOST)
    if not 0 < bound <= 1:
        raise UsageError(f"check parameter at_least: {bound:g} is no share: give more than 0, at most 1")
    tallies = list(run_detection(arguments.require_model(), every=every, signals=(signal,)))
    planted, named = sum(tally.planted for tally in tallies), sum(tally.named for tally in tallies)
    if not planted:
        return unknown(f"no fault was planted that is above the bound of {signal}: plant more, with a smaller every")
    sample = "the whole matrix" if every == 1 else f"one in {every} of the matrix"
    missed = [miss for tally in tallies for miss in tally.missed]
    reason = f"{named} of {planted} faults named at their own stage by {signal}, {sample}"
    reason += f"; the first that is missed: {missed[0]}" if missed else ""
    share = named / planted
    return passed_if(share >= bound, reason, "share named", share, bound, relation=Relation.AT_LEAST)


def false_alarms(arguments: CheckArguments) -> Judgement:
    """No honest run of the model fails. Each is replayed, or compared with the first (`exact`, float32) by the measured
    floor. The runs have both modes and every type of K/V, and take the prompt at once or partly token by token."""
    signal, model = arguments.one_of("signal", REPLAY, SIGNALS), arguments.require_model()
    tokens = tuple(model.tokenizer.encode(PROMPT, special=True))
    with tempfile.TemporaryDirectory(prefix="aprtui-honest-") as folder, Evaluators(model) as evaluators:
        first, *others = own_captures(model, tokens, Path(folder))
        if signal == REPLAY:
            judged = list(judge_replays(model, [first, *others], evaluators))
        else:
            judged = list(judge_pairs(model, tokens, [(first, other) for other in others], evaluators))
    alarms = [entry for entry in judged if entry.verdict is Verdict.FAIL]
    doubts = [entry for entry in judged if entry.verdict is Verdict.UNKNOWN]
    if doubts and not alarms:
        return unknown(f"{doubts[0].what} cannot be judged: {doubts[0].said}")
    reason = f"{counted(len(judged), 'judgement')} by {signal} of honest runs"
    reason += f"; the first that is blamed: {alarms[0].what}, {alarms[0].said}" if alarms else ", none blamed"
    return passed_if(not alarms, reason, "false alarms", len(alarms), 0)
