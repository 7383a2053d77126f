"""Checks of a capture against a reference: equal bits, cosines along the stages, bands of spread, the next token.

Checks of metrics align positions and match layouts as `aprtui diff` does; where that fails, they judge nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from aprtui.compare.align.coverage import Selection
from aprtui.compare.align.tokens import align_tokens
from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import StageComparison
from aprtui.compare.wording import counted
from aprtui.contracts.checks.arguments import PairArguments
from aprtui.contracts.checks.judgement import Judgement, Relation, counted_wrong, judged_by_node, passed_if, unknown
from aprtui.errors import UsageError
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node

MAX_POSITIONS = 1 << 20

COSINE = 0.999
"""The default bound: two stages with at least this cosine count as the same direction."""

Judge = Callable[[PairArguments, tuple[StageComparison, ...]], Judgement]


def on_compared(judge: Judge, one_sided: bool = False) -> Callable[[PairArguments], Judgement]:
    """A check that compares the nodes in question and then calls `judge`; UNKNOWN where one cannot be compared.

    NaN or Inf on one side alone fail it, unless `judge` knows what to make of them (`one_sided`).
    """

    def check(arguments: PairArguments) -> Judgement:
        names = ",".join(dict.fromkeys(node.stage for node in arguments.nodes))
        comparison = compare_captures(arguments.reference, arguments.capture, DiffOptions(Selection(stages=names)))
        if comparison.alignment.problem:
            return unknown(comparison.alignment.problem)
        found = {stage.node: stage for stage in comparison.stages}
        skipped = {entry.node: entry.reason for entry in comparison.skipped}
        for node in arguments.nodes:
            if node not in found:
                return unknown(f"{node} was not compared: {skipped.get(node, 'not in both captures')}")
        stages = tuple(found[node] for node in arguments.nodes)
        mixed = tuple(stage.node for stage in stages if stage.metrics.mismatches)
        if mixed and not one_sided:
            count, metric = sum(stage.metrics.mismatches for stage in stages), "values NaN or Inf on one side"
            return passed_if(False, f"{mixed[0]}: NaN or Inf on one side only", metric, count, 0, mixed)
        empty = next((stage.node for stage in stages if not stage.metrics.compared and stage.node not in mixed), None)
        return unknown(f"{empty} holds no finite value") if empty is not None else judge(arguments, stages)

    return check


def determinism(arguments: PairArguments) -> Judgement:
    """Two runs on the same tokens wrote the same bytes."""
    if arguments.capture.path.resolve() == arguments.reference.path.resolve():
        return unknown("both are one capture: give the capture of another run")
    alignment = align_tokens(arguments.reference, arguments.capture)
    if alignment.proven_different:
        return unknown(f"{alignment.problem}: give two runs on the same tokens")
    other = _other_run(arguments.reference, arguments.capture)
    if other:
        return unknown(f"{other}: give two runs that ought to be the same to the bit")
    wrong = tuple(node for node in arguments.nodes if not _same_bits(arguments.reference, arguments.capture, node))
    reason = f"{wrong[0]} differs" if wrong else f"{counted(len(arguments.nodes), 'file')}, the same to the bit"
    return counted_wrong("files that differ", wrong, arguments.nodes, reason)


def _other_run(a: Capture, b: Capture) -> str:
    """In what the two runs differ so that nothing claims their bits to be the same; empty where nothing is known."""
    if a.manifest is None or b.manifest is None:
        return ""
    for what, left, right in (
        ("weights", a.manifest.model.sha256, b.manifest.model.sha256),
        ("mode", a.manifest.engine.mode, b.manifest.engine.mode),
        ("rounding", a.manifest.engine.rounding, b.manifest.engine.rounding),
        ("injected faults", a.manifest.engine.faults, b.manifest.engine.faults),
    ):
        if left != right:
            return f"the sides differ in {what}"
    return ""


def _same_bits(a: Capture, b: Capture, node: Node) -> bool:
    left, right = a.read(node), b.read(node)
    return left.layer == right.layer and np.array_equal(left.values.view(np.uint32), right.values.view(np.uint32))


def count_parity(arguments: PairArguments) -> Judgement:
    """Both captures hold equally many values of each stage: statistics over different samples must not be compared."""
    problems = {}
    for node in arguments.nodes:
        reference, own = arguments.reference.read(node).values.size, arguments.capture.read(node).values.size
        problems[node] = "" if own == reference else f"{own} values, the reference has {reference}"
    return judged_by_node("counts that differ", problems, f"{counted(len(problems), 'count')}, all alike")


def _cosine(stage: StageComparison) -> float:
    assert stage.metrics.cosine is not None, "a metric is None only where nothing was compared"
    return stage.metrics.cosine


def cosine_floor(arguments: PairArguments, stages: tuple[StageComparison, ...]) -> Judgement:
    """The cosine of every stage is at least `at_least`."""
    bound = arguments.number("at_least", COSINE)
    below = tuple(stage.node for stage in stages if _cosine(stage) < bound)
    worst = min(stages, key=_cosine)
    stated = counted(len(stages), "stage")
    reason = f"{below[0]} is the first of {len(below)} below" if below else f"{stated}, least at {worst.node}"
    nodes = below or _nodes(stages)
    return passed_if(not below, reason, "cosine", _cosine(worst), bound, nodes, Relation.AT_LEAST)


def rel_l2_ceiling(arguments: PairArguments, stages: tuple[StageComparison, ...]) -> Judgement:
    """No token of a stage is farther from the reference than `at_most`, in relative L2.

    UNKNOWN with fewer than `positions` positions, or with fewer than `decoded` of them decoded on either side.
    """
    bound, least = arguments.number("at_most", 1e-4), arguments.count("positions", 1, MAX_POSITIONS)
    few = next((stage for stage in stages if len(stage.tokens) < least), None)
    if few is not None:
        return unknown(f"{few.node}: {counted(len(few.tokens), 'position')}, at least {least} are asked for")
    decoded = arguments.number("decoded", 0)
    for side in (arguments.capture, arguments.reference):
        paths = () if side.manifest is None else side.manifest.code_paths
        if paths.count("decode") < decoded:
            return unknown(f"{side.path}: fewer than {decoded:g} positions through decode: capture with --decode-from")
    errors = {stage.node: stage.metrics.token_rel_l2 or 0.0 for stage in stages}
    worst = max(errors, key=lambda node: errors[node])
    over = tuple(node for node, error in errors.items() if error > bound)
    reason = (
        f"{over[0]} is the first of {len(over)} beyond" if over else f"{counted(len(stages), 'stage')}, most at {worst}"
    )
    reason += f"; cosine {min(map(_cosine, stages)):.7f} at least"
    return passed_if(not over, reason, "token_rel_l2", errors[worst], bound, over or _nodes(stages))


def divergence_localised(arguments: PairArguments, stages: tuple[StageComparison, ...]) -> Judgement:
    """Some stage has a cosine below `below`: the first such stage is where to look. UNKNOWN where there is none."""
    bound = arguments.number("below", COSINE)
    first = next((stage for stage in stages if _cosine(stage) < bound), None)
    if first is None:
        return unknown(f"no cosine is below {bound:g}: there is no divergence to localise")
    return passed_if(True, f"first at {first.node}", "cosine", _cosine(first), bound, (first.node,), Relation.BELOW)


def one_adjacent_pair(arguments: PairArguments, stages: tuple[StageComparison, ...]) -> Judgement:
    """The cosine falls from at least `at_least` to below it just once between neighbouring stages of a layer.

    UNKNOWN where it never is below: there is no divergence to place between two stages.
    """
    bound = arguments.number("at_least", COSINE)
    if len({stage.node.layer for stage in stages}) != 1:
        raise UsageError("check one_adjacent_pair: the stages of one layer are a chain: give layers as one number")
    if all(_cosine(stage) >= bound for stage in stages):
        return unknown(f"no cosine is below {bound:g}: there is no divergence to narrow down")
    falls = [(a, b) for a, b in pairwise(stages) if _cosine(a) >= bound > _cosine(b)]
    if len(falls) == 1:
        (before, after), *_ = falls
        reason = f"between {before.node} ({_cosine(before):.6f}) and {after.node} ({_cosine(after):.6f})"
        return passed_if(True, reason, "falls", 1, 1, (before.node, after.node), Relation.EXACTLY)
    reason = f"{len(falls)} falls, not one" if falls else f"{stages[0].node}, the first, is below already"
    origins = _origins(arguments, stages, frozenset(stage.node for stage in stages if _cosine(stage) < bound))
    reason += f"; by the stage graph it begins at {' and '.join(str(node) for node in origins)}" if origins else ""
    nodes = tuple(stage.node for fall in falls for stage in fall) or _nodes(stages)
    return passed_if(False, reason, "falls", len(falls), 1, nodes, Relation.EXACTLY)


def one_origin(arguments: PairArguments, stages: tuple[StageComparison, ...]) -> Judgement:
    """Just one stage is wrong though all that it is computed from is right: the divergence begins there.

    A stage is wrong where its cosine is below `at_least`, where it is farther than `at_most` (if that is given) in
    relative L2, or where NaN or Inf are on one side alone. The stages are ordered as they depend on one another, not as
    they are listed: queries and keys are no neighbours. UNKNOWN where no stage is wrong.
    """
    bound, most = arguments.number("at_least", COSINE), arguments.number("at_most", math.inf)
    wrong = frozenset(stage.node for stage in stages if _is_wrong(stage, bound, most))
    if not wrong:
        beyond = "" if most == math.inf else f", and no relative L2 above {most:g}"
        return unknown(f"no cosine is below {bound:g}{beyond}: there is no divergence to narrow down")
    origins = _origins(arguments, stages, wrong)
    places = " and ".join(str(node) for node in origins)
    return passed_if(len(origins) == 1, f"it begins at {places}", "origins", len(origins), 1, origins, Relation.EXACTLY)


def _is_wrong(stage: StageComparison, bound: float, most: float) -> bool:
    metrics = stage.metrics
    return bool(metrics.mismatches) or _cosine(stage) < bound or (metrics.rel_l2 or 0.0) > most


def _origins(arguments: PairArguments, stages: tuple[StageComparison, ...], wrong: frozenset[Node]) -> tuple[Node, ...]:
    """The `wrong` ones of the stages none of whose inputs among `stages`, however far back, is wrong."""
    compared = {stage.node for stage in stages}
    graph = arguments.capture.graph
    wrong_before: dict[Node, bool] = {}
    for node in graph.nodes:  # in the order of the forward pass: inputs come before what is computed from them
        wrong_before[node] = any(
            source in wrong if source in compared else wrong_before.get(source, False) for source in graph.inputs(node)
        )
    return tuple(stage.node for stage in stages if stage.node in wrong and not wrong_before[stage.node])


def sigma_band(arguments: PairArguments, stages: tuple[StageComparison, ...]) -> Judgement:
    """The standard deviation of every stage, divided by the reference's, is between `low` and `high`."""
    low, high = arguments.number("low", 0.5), arguments.number("high", 2.0)
    if not 0 < low < high:
        raise UsageError(f"check sigma_band: low {low:g} and high {high:g} are no band: give 0 < low < high")
    ratios = {stage.node: stage.metrics.sigma_ratio or 0.0 for stage in stages}
    outside = tuple(node for node, ratio in ratios.items() if not low <= ratio <= high)
    worst = max(outside or ratios, key=lambda node: _distance_from_one(ratios[node]))
    bound, relation = (low, Relation.AT_LEAST) if ratios[worst] < 1 else (high, Relation.AT_MOST)
    stated = f"{counted(len(stages), 'stage')}, farthest from 1 at {worst}"
    reason = f"{outside[0]} is the first of {len(outside)} outside" if outside else stated
    return passed_if(not outside, reason, "σ ratio", ratios[worst], bound, outside or _nodes(stages), relation)


def _distance_from_one(ratio: float) -> float:
    return abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf


def argmax_parity(arguments: PairArguments, stages: tuple[StageComparison, ...]) -> Judgement:
    """The most probable token of every row of logits is the same, and their cosine is at least `cosine_at_least`."""
    logits = [stage for stage in stages if arguments.capture.graph[stage.node.stage].holds_logits]
    if not logits:
        raise UsageError("check argmax_parity: is about logits: give stages: lm_head")
    (stage, *_) = logits
    if stage.logits is None or stage.logits.skipped:
        return unknown(f"{stage.node}: rows without a softmax")
    flips = stage.logits.flips
    least = arguments.number("cosine_at_least", -1.0)
    if flips or _cosine(stage) >= least:
        reason = (
            f"row {flips[0].row}: token {flips[0].token_b}, the reference puts {flips[0].token_a} first"
            if flips
            else f"{counted(stage.logits.rows, 'row')} alike, cosine {_cosine(stage):.6f}"
        )
        return passed_if(not flips, reason, "rows with another first token", len(flips), 0, (stage.node,))
    reason = "the first tokens agree"
    return passed_if(False, reason, "cosine", _cosine(stage), least, (stage.node,), Relation.AT_LEAST)


def _nodes(stages: tuple[StageComparison, ...]) -> tuple[Node, ...]:
    return tuple(stage.node for stage in stages)
