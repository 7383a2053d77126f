"""The floor between two engines: several runs of one model on the same tokens, as each of them would round.

*Same weights*: one run under A's rounding, others under B's. Where both round alike, what is left is chaos: a
difference in the last bits flips an 8-bit rounding now and then, and flips add up. So B's runs are disturbed by as much
as float32 engines differ, each by its own seed. *Other weights*: exact runs whose weights are disturbed within their
own quantisation step, against the undisturbed one; that is an estimate, and marked so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics.measure import measure
from aprtui.engine.floors.perturbed import perturbed
from aprtui.engine.protocol import NodeEvaluator, Rounding
from aprtui.engine.reference.evaluate import NumpyNodes
from aprtui.engine.replay.arithmetic import UNROUNDED, NodeEvaluators, Recomputation
from aprtui.engine.replay.bounds import flip_error
from aprtui.engine.replay.chunked_delta import ChunkedNodes, has_recurrence
from aprtui.engine.replay.disturbed import LAST_BITS, MORE_FLIPS, Disturb, disturbance
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph

Array = NDArray[np.float32]
Run = Iterator[tuple[Node, Array]]


def run_forward(
    model: Model, tokens: Sequence[int], recomputation: Recomputation, disturb: Disturb | None = None,
    logit_rows: Sequence[int] = (), given: Container[Node] = frozenset(),
    values_of: Callable[[Node], Array] | None = None,
) -> Run:  # fmt: skip
    """Each node of the graph with its stage tensor for all `tokens`, in execution order.

    Of logits and states there is that of the last position; of logits also those of `logit_rows`, a list that may grow
    until they are computed.

    `disturb` changes each tensor before it is given out and used. Keeps the tensors of two layers.

    The nodes of `given` are not computed: `values_of` gives their tensors. Of the others there are then those alone
    that logits need.
    """
    graph, config = model.graph, model.config.graph
    recent: dict[Node, Array] = {}
    for node in graph.nodes if values_of is None else _needed(graph, given):
        if values_of is not None and node in given:
            recent[node] = values_of(node)
            yield node, recent[node]
            continue
        stage = graph[node.stage]
        inputs = []
        for entry, source in zip(graph.entries(node), graph.inputs(node), strict=True):
            tensor = recent[source]
            inputs.append(tensor if tensor.ndim == 3 else tensor[:, config.part(entry.part)])
        first = len(tokens) - 1 if stage.of_last_position else 0
        if stage.holds_logits:
            # No logits depend on tokens or positions. Those that are made of logits have their rows.
            inputs = [inputs[0] if _holds_logits(graph, node) else inputs[0][[*logit_rows, first]]]
        values = recomputation.evaluate(node, inputs, tokens[first:], first)
        recent[node] = values if disturb is None else disturb(node, values)
        yield node, recent[node]
        _forget(recent, node, graph[node.stage].op)


def _needed(graph: StageGraph, given: Container[Node]) -> list[Node]:
    """What the last node is made of, itself included, back to the nodes `given`; in execution order."""
    found, pending = {graph.nodes[-1]}, [graph.nodes[-1]]
    while pending:
        node = pending.pop()
        sources = () if node in given else graph.inputs(node)
        pending += [source for source in sources if source not in found]
        found.update(sources)
    return sorted(found, key=graph.order.__getitem__)


def _holds_logits(graph: StageGraph, node: Node) -> bool:
    """Whether `node` is made of logits."""
    return graph[graph.inputs(node)[0].stage].holds_logits


def _forget(recent: dict[Node, Array], node: Node, op: Op) -> None:
    """Maps are used once and large; of the layers before, only what entered this one is needed."""
    if op is Op.ATTEND:
        for found in [n for n, tensor in recent.items() if tensor.ndim == 3]:
            del recent[found]
    if node.layer is not None:
        for found in [n for n in recent if n.layer is not None and n.layer < node.layer - 1]:
            del recent[found]


DISTURBED_RUNS = 3
WEIGHT_SEEDS = 8
WEIGHT_PERCENTILE = 95


def arithmetic_floor(
    model: Model, tokens: Sequence[int], roundings: tuple[Rounding, Rounding], evaluators: NodeEvaluators,
    progress: Progress | None = None, *, all_logits: bool = False,
) -> dict[Node, float]:  # fmt: skip
    """For each node the largest error of a token (`token_rel_l2`) between engines of the two `roundings`.

    `all_logits`: as for `_errors`.
    """
    first, second = roundings
    if first == second and first.stage_output != "f32":
        # 16-bit stages round in the middle of ops as well, each engine elsewhere: as far apart as from float32.
        first = UNROUNDED
    least = flip_floors(model, roundings)
    size = LAST_BITS * (MORE_FLIPS if first == second and any(least.values()) else 1)
    rows: list[int] = []
    reference = run_forward(model, tokens, Recomputation(model, first, evaluators), None, rows)
    # Each engine computes recurrences in its own way: one of them token after token, the other in chunks.
    in_chunks: NodeEvaluators = lambda angles: ChunkedNodes(evaluators(angles), model)  # noqa: E731
    other = Recomputation(model, second, in_chunks if has_recurrence(model) else evaluators)
    runs = [run_forward(model, tokens, other, disturbance(model, seed, size), rows) for seed in range(DISTURBED_RUNS)]
    errors = _errors(model, reference, runs, progress, rows if all_logits else None)
    saturated = _saturated(model, tokens, roundings, evaluators, progress, all_logits=all_logits)
    return {node: max(least[node], saturated.get(node, 0.0), *found) for node, found in errors.items()}


def _saturated(
    model: Model, tokens: Sequence[int], roundings: tuple[Rounding, Rounding], evaluators: NodeEvaluators,
    progress: Progress | None, *, all_logits: bool,
) -> dict[Node, float]:  # fmt: skip
    """Where both engines round, half of what rounding costs against float32; nothing where one does not.

    A flip makes more flips at the next rounded tensor, until two engines err as if independently: √2 times that cost,
    which three times half of it admits.
    """
    if not all(any(flip_error(model, node, rounding) for node in model.graph.nodes) for rounding in roundings):
        return {}
    rows: list[int] = []
    exact, rounded = (
        run_forward(model, tokens, Recomputation(model, rounding, evaluators), None, rows)
        for rounding in (UNROUNDED, roundings[1])
    )
    errors = _errors(model, exact, [rounded], progress, rows if all_logits else None)
    return {node: found[0] / 2 for node, found in errors.items()}


def spread_floor(
    model: Model, tokens: Sequence[int], reference: Rounding, others: Sequence[Rounding], evaluators: NodeEvaluators,
    progress: Progress | None = None, *, all_logits: bool = False,
) -> dict[Node, float]:  # fmt: skip
    """For each node how far the farthest of the `others` comes out from an engine of the `reference` rounding."""
    rows: list[int] = []
    run, *runs = (
        run_forward(model, tokens, Recomputation(model, rounding, evaluators), None, rows)
        for rounding in (reference, *others)
    )
    errors = _errors(model, run, runs, progress, rows if all_logits else None)
    return {node: max(found, default=0.0) for node, found in errors.items()}


def flip_floors(model: Model, roundings: Sequence[Rounding]) -> dict[Node, float]:
    """The error of flips at each node if every rounded tensor on the way to it had one: 0 before the first of them.

    Independent errors, so the root of the sum of their squares. A run may see fewer flips than another pair of engines.
    """
    graph = model.graph
    last_use = {source: node for node in graph.nodes for source in graph.inputs(node)}
    flipped: dict[Node, dict[Node, float]] = {}
    floors: dict[Node, float] = {}
    for node in graph.nodes:
        sources = graph.inputs(node)
        found: dict[Node, float] = {}
        for source in sources:
            found.update(flipped[source])
        own = max(flip_error(model, node, rounding) for rounding in roundings)
        if own:
            found.update(dict.fromkeys(sources, own))
        flipped[node], floors[node] = found, math.hypot(*found.values())
        for source in sources:
            if last_use[source] == node:
                flipped.pop(source, None)  # of 600 layers these would be gigabytes
    return floors


def weight_floor(
    model: Model, tokens: Sequence[int], progress: Progress | None = None, *, all_logits: bool = False
) -> dict[Node, float]:
    """For each node the error that other weights of this quantisation would make: the 95th percentile over 8 seeds."""
    exact = Recomputation(model, UNROUNDED, lambda angles: NumpyNodes(model, angles))
    rows: list[int] = []
    reference = run_forward(model, tokens, exact, None, rows)
    runs = []
    for seed in range(WEIGHT_SEEDS):
        disturbed = perturbed(model, seed)
        evaluator = NumpyNodes(disturbed, RopeAngles.F64)
        recomputation = Recomputation(disturbed, UNROUNDED, _always(evaluator))
        runs.append(run_forward(disturbed, tokens, recomputation, None, rows))
    errors = _errors(model, reference, runs, progress, rows if all_logits else None)
    return {node: float(np.percentile(found, WEIGHT_PERCENTILE)) for node, found in errors.items()}


def _always(evaluator: NodeEvaluator) -> NodeEvaluators:
    return lambda angles: evaluator


def _errors(
    model: Model, reference: Run, runs: Sequence[Run], progress: Progress | None, logit_rows: list[int] | None = None
) -> dict[Node, list[float]]:
    """The worst token of every node in each of `runs`, all walked side by side so that no run is kept whole.

    Where `logit_rows` is a list, all runs have been given it, and get the tokens at which they are farthest apart
    before the logits: an engine that chooses other experts for one token has other logits there, and not at the end.
    """
    nodes, graph = model.graph.nodes, model.graph
    heads = {graph.inputs(node)[0] for node in nodes if graph[node.stage].holds_logits}
    errors: dict[Node, list[float]] = {}
    for done, (node, expected) in enumerate(reference):
        if progress:
            progress("measuring the noise floor,", done, len(nodes))
        causal = graph[node.stage].is_attention_map
        found = [measure(expected, next(run)[1], causal=causal) for run in runs]
        errors[node] = [0.0 if error is None else error for error in (each.metrics.token_rel_l2 for each in found)]
        if logit_rows is not None and node in heads and not graph[node.stage].holds_logits:
            logit_rows += [int(np.nan_to_num(each.tokens, nan=-1).argmax()) for each in found]
    return errors
