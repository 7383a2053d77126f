"""Whether two recorded graphs mean the same: both in exact arithmetic, pinned together where they consume one weight.

Products of B's matrices stand in for those of both sides, as B's engine computed them, so each stretch between products
is computed by the ops of A and by those of B from the same values. What differs then differs in meaning: rounding,
kernels and types are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.verdict import Verdict
from aprtui.errors import UsageError
from aprtui.progress import Progress
from aprtui.recordings.alignment.anchors import AnchorPair, anchors_of, paired, rows_of_a, without_bias
from aprtui.recordings.alignment.exact import ExactRun, Seen, recorded_output
from aprtui.recordings.alignment.weights import WeightMatch, matched_weights, matrices, signature
from aprtui.recordings.element_types import PLAIN
from aprtui.recordings.format import OpGraph
from aprtui.recordings.memory import NamedWeights, Values
from aprtui.recordings.ops.operands import Operands
from aprtui.recordings.reading import Recording
from aprtui.recordings.stages import NodeName, NodeNames

Array = NDArray[np.float64]

MEANING_BOUND = 2e-6
"""The most that two exact graphs of one meaning differ by between two products: constants are kept in float32."""
ANGLE_BOUND = 1e-7
"""And for each position: angles of RoPE grow with it, and their frequencies are kept in float32."""
_VALUES_BOUND = 1e-6
"""Two nodes have the same values where these, sorted, differ by less."""


@dataclass(frozen=True, slots=True)
class SideNode:
    """A node of one side, for people: what it is, and what it computes."""

    index: int
    op: str
    name: NodeName


@dataclass(frozen=True, slots=True)
class Pin:
    """A pair of nodes that consume one weight, or the ends of both graphs (`weight` empty).

    `error` is how far the exact inputs are apart, rel_l2 against A (None where they cannot be compared, `reason` says
    why); `numeric` how far what both engines computed is.
    """

    graph: int
    a: SideNode
    b: SideNode
    weight: str
    unique: bool
    error: float | None
    bound: float
    numeric: float | None
    reason: str = ""

    @property
    def beyond(self) -> bool:
        return self.error is not None and not self.error <= self.bound


@dataclass(frozen=True, slots=True)
class Deviation:
    """The first pin beyond its bound, and on each side the first node whose values the other one lacks."""

    pin: Pin
    a: SideNode | None
    b: SideNode | None


@dataclass(frozen=True, slots=True)
class MeaningComparison:
    """The verdict on two graphs. `products` and `unique` count the matrix products of B, and those that are pinned to
    exactly one of A; `weights` the matrices of B, `matched` those that A has too."""

    verdict: Verdict
    reason: str
    pins: tuple[Pin, ...]
    deviation: Deviation | None
    products: int
    unique: int
    weights: int
    matched: int
    statements: tuple[str, ...]


def compare_meaning(
    a: Recording, b: Recording, weights_a: NamedWeights, weights_b: NamedWeights, progress: Progress
) -> MeaningComparison:
    """Hold the graphs of B against those of A, of the same tokens.

    Raises `UsageError` for recordings of other tokens, or whose passes are of other tokens.
    """
    if a.header.tokens != b.header.tokens:
        raise UsageError(f"{a.path} and {b.path} are of other tokens: record both from the same, with --tokens")
    if [(g.position, g.count) for g in a.graphs] != [(g.position, g.count) for g in b.graphs]:
        raise UsageError(f"{a.path} and {b.path} are of other passes: record both with the same --decode-from")
    runs = ExactRun(a, weights_a), ExactRun(b, weights_b)
    matches, counts = _weights(a, b, weights_a, weights_b, progress)
    pins, deviation, products, unique = list[Pin](), None, 0, 0
    for number, graphs in enumerate(zip(a.graphs, b.graphs, strict=True)):
        progress("comparing graphs", number, len(a.graphs))
        pairs = _pairs(graphs, matches)
        names = NodeNames(graphs[0], a.header.stages), NodeNames(graphs[1], b.header.stages)
        before = tuple(run.again() for run in runs)
        found = _pins(number, names, pairs, _taken(runs, graphs, pairs))
        pins += found
        products += len(_products(graphs[1]))
        unique += sum(pair.unique for pair in pairs if pair.a.kind.is_product)
        wrong = next((pin for pin in found if pin.beyond), None)
        if wrong is not None:
            deviation = _localised(before, names, pairs, found, wrong)
            break
    return _concluded(runs, pins, deviation, (products, unique), counts, matches)


def _weights(
    a: Recording, b: Recording, weights_a: NamedWeights, weights_b: NamedWeights, progress: Progress
) -> tuple[list[WeightMatch], tuple[int, int]]:
    columns: dict[str, int] = {}
    found: list[dict[str, Array]] = []
    for letter, recording, weights in (("a", a, weights_a), ("b", b, weights_b)):
        graph, mine = recording.graphs[0], {}
        held = matrices(graph)
        for done, (name, matrix) in enumerate(held.items()):
            progress(f"reading weights of {letter.upper()}", done, len(held))
            mine[name] = signature(recording, graph, weights, matrix)
            columns[f"{letter}:{name}"] = matrix.shape[1]
        found.append(mine)
    matches = matched_weights(found[0], found[1], columns)
    return matches, (len(found[1]), len({match.b for match in matches}))


def _pairs(graphs: tuple[OpGraph, OpGraph], matches: list[WeightMatch]) -> list[AnchorPair]:
    names = {match.a: match for match in matches}, {match.b: match for match in matches}
    a, b = (anchors_of(graph, name) for graph, name in zip(graphs, names, strict=True))
    return paired(a, b, matches)


def _products(graph: OpGraph) -> list[int]:
    held = matrices(graph)
    return [anchor.index for anchor in anchors_of(graph, held) if anchor.kind.is_product]


@dataclass(slots=True)
class _Taken:
    """What a run gave: exact inputs of products and products without bias by node, values that are kept, the end."""

    inputs: dict[int, Array] = field(default_factory=dict)
    doubtful: set[int] = field(default_factory=set)
    """Nodes that read what is in doubt behind an op that is not modelled."""
    products: dict[int, Array] = field(default_factory=dict)
    kept: dict[int, Array] = field(default_factory=dict)
    end: Array = field(default_factory=lambda: np.zeros(0))


Runs = tuple[ExactRun, ...]
Graphs = tuple[OpGraph, OpGraph]
Names = tuple[NodeNames, NodeNames]


def _taken(
    runs: Runs, graphs: Graphs, pairs: Sequence[AnchorPair], keep: tuple[set[int], ...] = (set(), set())
) -> tuple[_Taken, _Taken]:
    """Run both graphs; `keep` are nodes of each whose values are wanted."""
    a, b = _Taken(), _Taken()
    of_a, of_b = {pair.a.index: pair for pair in pairs}, {pair.b.index: pair for pair in pairs}

    def cut_b(index: int, operands: Operands) -> Values | None:
        if (pair := of_b.get(index)) is None:
            return None
        if pair.b.kind.is_product:
            b.inputs[index] = operands.values(pair.b.kind.input).reshape(-1)
            b.doubtful |= {index} if runs[1].in_doubt(operands.node) else set()
        recorded = recorded_output(runs[1].recording, graphs[1].nodes[index], operands)
        b.products[index] = rows_of_a(without_bias(recorded, operands, pair.b.kind, -1), pair.match)
        return recorded

    def cut_a(index: int, operands: Operands) -> Values | None:
        if (pair := of_a.get(index)) is None:
            return None
        if pair.a.kind.is_product:
            a.inputs[index] = operands.values(pair.a.kind.input).reshape(-1)
            a.doubtful |= {index} if runs[0].in_doubt(operands.node) else set()
        recorded = recorded_output(runs[0].recording, graphs[0].nodes[index], operands)
        a.products[index] = without_bias(recorded, operands, pair.a.kind, -1).reshape(-1, recorded.shape[-1])
        return without_bias(b.products[pair.b.index].reshape(operands.shape), operands, pair.a.kind, 1)

    runs[1].run(graphs[1], cut_b, _keeper(runs[1], graphs[1], b, keep[1]))
    runs[0].run(graphs[0], cut_a, _keeper(runs[0], graphs[0], a, keep[0]))
    return a, b


def _keeper(run: ExactRun, graph: OpGraph, side: _Taken, kept: set[int]) -> Seen:
    last = len(graph.nodes) - 1

    def seen(index: int, found: Values) -> None:
        if index in kept and found.dtype.kind == "f":  # indices are soon alike
            side.kept[index] = np.array(found, np.float64).reshape(-1)
        if index == last:
            side.end = np.array(found, np.float64).reshape(-1)
            side.doubtful |= {index} if run.in_doubt(graph.nodes[index]) else set()

    return seen


def _pins(number: int, names: Names, pairs: Sequence[AnchorPair], taken: tuple[_Taken, _Taken]) -> list[Pin]:
    a, b = taken
    graphs = names[0].graph, names[1].graph
    bound = MEANING_BOUND + ANGLE_BOUND * (graphs[0].position + graphs[0].count)
    pins = []
    for pair in pairs:
        if pair.a.kind.is_product:
            numeric = _relative(b.products[pair.b.index].reshape(-1), a.products[pair.a.index].reshape(-1))
            pins.append(
                _pin(number, names, (pair.a.index, pair.b.index), (a.inputs[pair.a.index], b.inputs[pair.b.index]),
                     bound, numeric, pair, pair.a.index in a.doubtful or pair.b.index in b.doubtful)
            )  # fmt: skip
    ends = len(graphs[0].nodes) - 1, len(graphs[1].nodes) - 1
    doubtful = ends[0] in a.doubtful or ends[1] in b.doubtful
    return [*pins, _pin(number, names, ends, (a.end, b.end), bound, None, None, doubtful)]


def _pin(
    number: int, names: Names, indices: tuple[int, int], values: tuple[Array, Array], bound: float,
    numeric: float | None, pair: AnchorPair | None, doubtful: bool,
) -> Pin:  # fmt: skip
    mine, theirs = values
    reason = "" if mine.size == theirs.size else f"{mine.size} values there, {theirs.size} here"
    if doubtful:
        reason = "an op before it is not modelled"
    return Pin(
        number, _side_node(names[0], indices[0]), _side_node(names[1], indices[1]), pair.match.a if pair else "",
        pair is None or pair.unique, None if reason else _relative(theirs, mine), bound, numeric,
        reason,
    )  # fmt: skip


def _side_node(names: NodeNames, index: int) -> SideNode:
    found = names.graph.nodes[index]
    return SideNode(index, found.op, names.name(found))


def _localised(runs: Runs, names: Names, pairs: Sequence[AnchorPair], pins: Sequence[Pin], wrong: Pin) -> Deviation:
    """The first node of each side, on the way to the input that differs, whose values the other side lacks.

    A node behind which there are values that the other side has is only another factoring of the same.
    """
    graphs = names[0].graph, names[1].graph
    cuts = {pair.a.index for pair in pairs}, {pair.b.index for pair in pairs}
    ways = []
    for side in (0, 1):
        good = [pin for pin in pins if pin.error is not None and not pin.beyond]
        ways.append(_before(graphs[side], [wrong], side, cuts[side]) - _before(graphs[side], good, side, cuts[side]))
    # What goes into a way is known on both sides, though one may have it with a bias and the other without.
    held = [
        way | {source for node in way for source in _sources(graph)[node]}
        for way, graph in zip(ways, graphs, strict=True)
    ]
    taken = _taken(runs, graphs, pairs, (held[0], held[1]))
    prints = [{index: _print(values) for index, values in side.kept.items()} for side in taken]
    first = []
    for side in (0, 1):
        others = prints[1 - side].values()
        lacking = {i for i in ways[side] & prints[side].keys() if not any(_alike(prints[side][i], p) for p in others)}
        known, sources = prints[side].keys() - lacking, _sources(graphs[side])
        found = [i for i in sorted(lacking) if not _after(graphs[side], i, cuts[side]) & known]
        # Masks and angles are made of nothing that the other side has: what they meet comes first.
        meeting = [i for i in found if sources[i] & known] or found
        first.append(_side_node(names[side], meeting[0]) if meeting else None)
    return Deviation(wrong, first[0], first[1])


def _index(pin: Pin, side: int) -> int:
    return pin.b.index if side else pin.a.index


def _sources(graph: OpGraph) -> list[set[int]]:
    """The nodes that each node takes values from: those that last wrote to the roots that it reads."""
    writers: dict[int, set[int]] = {}
    found = []
    for index, node in enumerate(graph.nodes):
        read = {graph.tensors[source].root for source in node.sources if source is not None}
        found.append({writer for root in read for writer in writers.get(root, ())})
        for output in node.outputs:
            root = graph.tensors[output].root
            writers[root] = {*(writers.get(root, set()) if node.rows or root in read else ()), index}
    return found


def _before(graph: OpGraph, pins: Iterable[Pin], side: int, cuts: set[int]) -> set[int]:
    """The nodes that the inputs of pinned products, or the end of the graph, are made by, back to cuts."""
    sources, found, waiting = _sources(graph), set[int](), list[int]()
    for pin in pins:
        waiting += sources[_index(pin, side)] if pin.weight else [_index(pin, side)]
    while waiting:
        node = waiting.pop()
        if node not in found and node not in cuts:
            found.add(node)
            waiting += sources[node]
    return found


def _after(graph: OpGraph, node: int, cuts: set[int]) -> set[int]:
    """The nodes that take values from `node`, by any way that leads through no cut and no indices."""
    found = {node}
    for index, sources in enumerate(_sources(graph)):
        if sources & found and index not in cuts and not _chooses(graph, index):
            found.add(index)
    return found - {node}


def _chooses(graph: OpGraph, index: int) -> bool:
    """Whether a node gives indices, which stay the same where values differ."""
    kind = PLAIN.get(graph.tensors[graph.nodes[index].outputs[0]].type)
    return kind is not None and kind.kind != "f"


def _print(values: Array) -> Array:
    """Values without zeros and what is not finite, sorted: the same whatever their layout and padding."""
    kept = values[np.isfinite(values) & (values != 0)]
    return np.sort(kept)


def _alike(mine: Array, theirs: Array) -> bool:
    return mine.size == theirs.size and mine.size > 0 and _relative(theirs, mine) <= _VALUES_BOUND


def _relative(values: Array, reference: Array) -> float:
    """rel_l2 of the finite values; inf where others are not alike."""
    finite = np.isfinite(values) & np.isfinite(reference)
    if not np.array_equal(values[~finite], reference[~finite], equal_nan=True):
        return float("inf")
    norm = float(np.linalg.norm(reference[finite]))
    distance = float(np.linalg.norm(values[finite] - reference[finite]))
    return distance / norm if norm else float("inf") if distance else 0.0


def _concluded(
    runs: Runs, pins: Sequence[Pin], deviation: Deviation | None, products: tuple[int, int], weights: tuple[int, int],
    matches: Sequence[WeightMatch],
) -> MeaningComparison:  # fmt: skip
    statements = list(_statements(runs, weights, matches))
    judged = [pin for pin in pins if pin.error is not None]
    silent = [pin for pin in pins if pin.error is None]
    if deviation is not None:
        verdict, reason = Verdict.FAIL, "the graphs do not compute the same"
    elif not [pin for pin in judged if pin.weight]:
        verdict, reason = Verdict.UNKNOWN, "no product of the two consumes the same weight"
    elif silent:
        verdict, reason = Verdict.UNKNOWN, f"{len(silent)} of {len(pins)} places could not be compared"
    else:
        verdict, reason = Verdict.PASS, f"both compute the same at {len(judged)} places"
    return MeaningComparison(verdict, reason, tuple(pins), deviation, *products, *weights, tuple(statements))


def _statements(runs: Runs, weights: tuple[int, int], matches: Sequence[WeightMatch]) -> Iterator[str]:
    for letter, run in zip("AB", runs, strict=True):
        if run.unmodelled:
            kinds = ", ".join(sorted(set(run.unmodelled))[:4])
            yield f"{len(run.unmodelled)} ops of {letter} are not modelled ({kinds}): what was recorded stands for them"
        if not run.recording.header.complete:
            yield f"the run of {letter} did not finish"
    if weights[1] < weights[0]:
        yield f"{weights[0] - weights[1]} matrices of B have no single counterpart in A"
    furthest = max((match.error for match in matches), default=0.0)
    if furthest > _VALUES_BOUND:
        yield f"the weights are those of another type: their values differ by up to {furthest:.1g}"
