"""What all matrix products of a capture have in common where they err.

Weights of another type, inputs that are left out, clamped or rounded in another way, sums in 16 bits, a factor.

Some channels of every product that has its captured input are computed again under each candidate: a few rows of the
weights and a few tokens, so that a hundred candidates cost less than one layer. A candidate is taken if it leaves a
small part of what the model's own weights leave under any rounding of inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.comparison import Everywhere
from aprtui.compare.everywhere import FEWEST, NEARLY_ALL, OP_WORDS, err_alike
from aprtui.compare.wording import counted
from aprtui.engine.alternatives.left_out import STEP, End, squares_without
from aprtui.engine.protocol import Rounding
from aprtui.engine.replay.arithmetic import INPUT_LIMIT, KnownArithmetic, matmul_rounding
from aprtui.engine.replay.bounds import LEAST_BOUND, OUTPUT_STEP
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.engine.replay.value_types import fitting_types, narrowest
from aprtui.engine.rounding import ROUND, sum_correction
from aprtui.engine.weight_rounding import OWN_WEIGHTS, WEIGHT_ROUNDINGS, round_rows
from aprtui.model.weights import Weight
from aprtui.progress import Progress
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

_CHANNELS = 48
_TOKENS = 16

_TAKEN = 0.25
"""A candidate that leaves less than this share of the error is the cause, or is very near to it."""
_SMALL_SHARE = 0.05
"""The same where a number is fitted."""
_OF_A_SEARCH = 1e-4
"""What a limit leaves that was found by a search in float32 values."""
_OWN_SHARE = 0.25
"""Of the step of a 16-bit type: what an honest engine that keeps results in it errs by, as most come out equal."""
_SEVERAL_STEPS = 1.0
"""In steps of a 16-bit type: beyond this, one rounding of the result explains no error."""

_FLOATS = ("none", "f16", "bf16", "tf32")
"""Types of inputs that no value of a usual size saturates in."""

_STANDARD = frozenset({("f16", "f16"), ("bf16", "bf16"), ("tf32", "tf32")})
"""Types of weights and inputs that engines use together, and that nobody need be told of: what a matrix unit takes."""

_INPUT_WORDS: Mapping[str, str] = {
    "none": "inputs that are not rounded", "q8": "inputs in 8-bit blocks as llama.cpp's", "q8_0": "inputs in Q8_0",
    "q8_1": "inputs in Q8_1", "f16": "inputs in f16", "bf16": "inputs in bf16", "tf32": "inputs in TF32",
    "fp8": "inputs in fp8 with one scale a tensor", "int8_row": "inputs in int8 with a scale a token",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CommonCause:
    """What all products err by: the finding, and the changes of the rounding under which they are reproduced; none
    where no rounding does. `is_exact` is False where these come near and no more. `factors` are those of nodes whose
    every value is multiplied by one."""

    found: Everywhere
    changes: Mapping[str, str]
    is_exact: bool = True
    factors: Mapping[Node, float] | None = None


@dataclass(frozen=True, slots=True)
class _Product:
    """Some channels of the product of one weight: `inputs` `[n, columns]` of all captured tokens, of which `tokens` are
    looked at; `values` `[channels, columns]` of the weight, and the `captured` results `[tokens, channels]`."""

    node: Node
    weight: Weight
    channels: slice
    inputs: Array
    tokens: NDArray[np.intp]
    values: Array
    captured: Array
    output: str
    _rounded: dict[tuple[str, str], Wide] = field(default_factory=dict)

    def factors(self, rounding: Rounding) -> tuple[Wide, Wide]:
        """What is multiplied under `rounding`: inputs `[tokens, columns]` and rows of the weight."""
        kind = matmul_rounding(rounding.matmul_input, self.weight)
        inputs, weights = (kind, rounding.input_limit), ("", rounding.weights)
        if inputs not in self._rounded:
            self._rounded[inputs] = ROUND[kind](self._clamped(rounding))[self.tokens].astype(np.float64)
        if weights not in self._rounded:
            own = rounding.weights == OWN_WEIGHTS
            values = self.values if own else round_rows(self.values, self.weight, rounding.weights)
            self._rounded[weights] = values.astype(np.float64)
        return self._rounded[inputs], self._rounded[weights]

    def forget_rounded(self) -> None:
        """Forget what `factors` keeps for the next rounding that has one of them in common."""
        self._rounded.clear()

    def _clamped(self, rounding: Rounding) -> Array:
        if rounding.input_limit == "none":
            return self.inputs
        limit = np.float32(rounding.input_limit)
        return np.clip(self.inputs, -limit, limit)

    def under(self, rounding: Rounding) -> Array:
        x, values = self.factors(rounding)
        out = (x @ values.T).astype(np.float32)
        if rounding.weights == OWN_WEIGHTS:
            kind, inputs = matmul_rounding(rounding.matmul_input, self.weight), self._clamped(rounding)[self.tokens]
            out = np.asarray(out + sum_correction(kind, inputs, self.weight, self.channels), np.float32)
        return ROUND["none" if self.output == "f32" else self.output](out)

    def squares(self, expected: Array) -> tuple[float, float]:
        """Of the error and of what is expected."""
        error = self.captured.astype(np.float64) - expected
        return float((error**2).sum()), float((expected.astype(np.float64) ** 2).sum())

    def needs_pass(self, kept: str) -> bool:
        return kept != OWN_WEIGHTS and WEIGHT_ROUNDINGS[kept].needs_largest


@dataclass(slots=True)
class _Products:
    """The sampled products of one capture, by node; errors are relative L2 over all that is sampled of a node."""

    by_node: Mapping[Node, Sequence[_Product]]

    def errors(self, rounding: Rounding, nodes: Sequence[Node]) -> dict[Node, float]:
        return {node: self.of_each([rounding], node)[0] for node in nodes}

    def of_each(self, roundings: Sequence[Rounding], node: Node) -> list[float]:
        """The error of `node` under each rounding."""
        errors = [self._error([(p, p.under(rounding)) for p in self.by_node[node]]) for rounding in roundings]
        self._forget_rounded(node)
        return errors

    def _forget_rounded(self, node: Node) -> None:
        for product in self.by_node[node]:
            product.forget_rounded()

    @staticmethod
    def _error(pairs: Sequence[tuple[_Product, Array]]) -> float:
        squares = np.sum([product.squares(expected) for product, expected in pairs], axis=0)
        return float(np.sqrt(squares[0] / squares[1])) if squares[1] else 0.0

    def left_without(self, rounding: Rounding, node: Node, end: End) -> Wide:
        """The errors of `node` that are left where its first inputs at an `end` are not summed, 8, 16, …"""
        squares, scale = np.zeros(1), 0.0
        for piece in self.by_node[node]:
            expected = piece.under(rounding)
            _, of_expected = piece.squares(expected)
            squares = squares + squares_without(
                *piece.factors(rounding), (piece.captured - expected).astype(np.float64), end
            )
            scale += of_expected
        self._forget_rounded(node)
        return np.asarray(np.sqrt(squares / scale)) if scale else squares

    def factor(self, rounding: Rounding, node: Node) -> tuple[float, float]:
        """The factor that brings what is expected nearest to what was captured, and the error that it leaves."""
        pairs = [(product, product.under(rounding)) for product in self.by_node[node]]
        self._forget_rounded(node)
        dot = sum(float((p.captured.astype(np.float64) * e).sum()) for p, e in pairs)
        square = sum(float((e.astype(np.float64) ** 2).sum()) for _, e in pairs)
        factor = dot / square if square else 1.0
        return factor, self._error([(p, (e * factor).astype(np.float32)) for p, e in pairs])


def find_cause(
    stages: CapturedStages, known: KnownArithmetic, progress: Progress, *, declared: Callable[[], bool]
) -> CommonCause | None:  # fmt: skip
    """What all captured products err by, whose inputs are captured as well; None where they do not, or where it is a
    standard arithmetic. `declared` tells whether a manifest states an arithmetic, which then allows no other."""
    products = _Products(dict(_sampled(stages, known)))
    nodes = list(products.by_node)
    if len(nodes) < FEWEST:
        return None
    own = products.errors(known.rounding, nodes)
    honest = {node: LEAST_BOUND + _own_error(known, node) for node in nodes}
    off = [node for node in nodes if own[node] > honest[node]]
    search = _Search(products, known, own, honest, off, progress, declared)
    if len(off) < NEARLY_ALL * len(nodes):
        return search.clamp() if off else None
    found = (
        search.weights_as_results() or search.left_out() or search.clamp() or search.candidates() or search.factor()
        or search.own_clamps()
    )  # fmt: skip
    if found is not None or (known.stored != "f32" and Op.MATMUL not in known.open_ops):
        # What storage lost flips levels of rounded inputs: products of an engine that is known err by that as well.
        return found
    return (search.sums() if known.stored == "f32" else None) or search.unexplained()


def _own_error(known: KnownArithmetic, node: Node) -> float:
    return _OWN_SHARE * OUTPUT_STEP[known.output_type(node)] + OUTPUT_STEP[known.stored]


def _sampled(stages: CapturedStages, known: KnownArithmetic) -> Iterator[tuple[Node, list[_Product]]]:
    model = stages.model
    graph = model.graph
    for node in graph.nodes:
        if graph[node.stage].op is not Op.MATMUL or model.uses_rebuilt(node):
            continue
        (source,), (entry,) = graph.inputs(node), graph.entries(node)
        rows = stages.rows(node)
        if not rows or stages.rows(source) < rows:
            continue
        x = stages.values(source)[-rows:, model.config.graph.part(entry.part)]
        y = stages.values(node)[-rows:]
        finite = np.flatnonzero(np.isfinite(x).all(1) & np.isfinite(y).all(1))
        if not finite.size:
            continue
        x = np.where(np.isfinite(x), x, np.float32(0))
        tokens = finite[:: max(1, finite.size // _TOKENS)]
        found, start = [], 0
        for weight in model.params(node):
            channels = slice(0, weight.rows, max(1, weight.rows // _CHANNELS))
            captured = y[tokens, start : start + weight.rows][:, channels]
            values = weight.dequantize(channels)
            output = known.output_type(node)
            found.append(_Product(node, weight, channels, x, tokens, values, np.asarray(captured), output))
            start += weight.rows
        yield node, found


@dataclass(frozen=True, slots=True)
class _Search:
    products: _Products
    known: KnownArithmetic
    own: Mapping[Node, float]
    honest: Mapping[Node, float]
    off: Sequence[Node]
    progress: Progress
    declared: Callable[[], bool]

    def candidates(self) -> CommonCause | None:
        """Weights of another type with inputs of any."""
        probes = self._probes()
        own = self._nearest(probes, [OWN_WEIGHTS])
        best = self._nearest(probes, list(WEIGHT_ROUNDINGS))
        before = median(self.own[node] for node in probes)
        chosen, error = best if best[1] < _TAKEN * own[1] else own
        if error >= _TAKEN * before:
            return None
        rounding = replace(self.known.rounding, **chosen)
        if (rounding.weights, rounding.matmul_input) in _STANDARD:
            return self._standard(chosen)
        words = [] if rounding.weights == OWN_WEIGHTS else [WEIGHT_ROUNDINGS[rounding.weights].words]
        if rounding.matmul_input != self.known.rounding.matmul_input:
            words.append(_INPUT_WORDS[rounding.matmul_input])
        exact = error <= max(median(self.honest[node] for node in probes), LEAST_BOUND)
        return self._cause(" and ".join(words), chosen, meant=not self.declared(), is_exact=exact)

    def weights_as_results(self) -> CommonCause | None:
        """Weights in the 16-bit type that results are kept in. These lose no less by it, so that nothing need change:
        products of the model's own weights are much faster."""
        kind = self.known.output_type(self.off[0])
        if kind == "f32":
            return None
        errors = self.products.errors(replace(self.known.rounding, weights=kind), self.off)
        return self._standard({}) if all(errors[node] < _TAKEN * self.own[node] for node in self.off) else None

    def _standard(self, changes: Mapping[str, str]) -> CommonCause:
        return self._cause("", changes, meant=True, nodes=())

    def _nearest(self, probes: Sequence[Node], weights: Sequence[str]) -> tuple[dict[str, str], float]:
        """The changes under which the median of the probes comes out nearest, and how near."""
        inputs = [name for name in _INPUT_WORDS if self._divides(name)]
        tried = [{"matmul_input": name, "weights": kept} for kept in weights for name in inputs]
        errors = []
        for done, node in enumerate(probes):
            self.progress(f"trying {len(tried)} types of weights and inputs at {node},", done, len(probes))
            errors.append(self.products.of_each([replace(self.known.rounding, **changes) for changes in tried], node))
        medians = [median(of_probes) for of_probes in zip(*errors, strict=True)]
        least = min(medians)
        return tried[medians.index(least)], least

    def _divides(self, name: str) -> bool:
        columns = {product.weight.columns for some in self.products.by_node.values() for product in some}
        return not name.startswith("q8_") or all(count % 32 == 0 for count in columns)

    def _probes(self) -> list[Node]:
        """All products of the first, the middle and the last layer."""
        layers = sorted({node.layer for node in self.own if node.layer is not None})
        chosen = {layers[index] for index in (0, len(layers) // 2, -1)}
        return [node for node in self.own if node.layer in chosen]

    def left_out(self) -> CommonCause | None:
        """The same number of inputs at one end that no product sums, whatever inputs are rounded to."""
        names = [self.known.rounding.matmul_input, *(name for name in _INPUT_WORDS if self._divides(name))]
        for end in End:
            tried = {name: self._count_left_out(self._probes(), end, name) for name in dict.fromkeys(names)}
            name = min(tried, key=lambda name: tried[name][1])
            count, _ = tried[name]
            shares = [self._share_without(node, end, name, count) for node in self.off]
            if sum(share <= _SMALL_SHARE for share in shares) >= NEARLY_ALL * len(shares):
                which = f"the {end} {counted(count, 'input')}"
                return self._cause(f"products that do not sum {which} of each row", {}, meant=False)
        return None

    def _count_left_out(self, nodes: Sequence[Node], end: End, name: str) -> tuple[int, float]:
        """How many inputs `nodes` leave out, as most of them show, and the median share of the error that remains."""
        lefts = [self.products.left_without(replace(self.known.rounding, matmul_input=name), n, end) for n in nodes]
        count = Counter(int(left.argmin()) for left in lefts).most_common(1)[0][0]
        shares = [left[min(count, len(left) - 1)] / self.own[node] for node, left in zip(nodes, lefts, strict=True)]
        return (count + 1) * STEP, median(shares)

    def _share_without(self, node: Node, end: End, name: str, count: int) -> float:
        left = self.products.left_without(replace(self.known.rounding, matmul_input=name), node, end)
        return float(left[count // STEP - 1] / self.own[node]) if count <= len(left) * STEP else np.inf

    def clamp(self) -> CommonCause | None:
        """One limit on the inputs of all products: those with larger inputs err, and no others."""
        off = self.off
        # The largest error may be that of a local fault.
        largest = sorted(off, key=lambda node: -self.own[node])[:FEWEST]
        limit = next((found for node in largest if (found := self._limit(node))), None)
        if limit is None:
            return None
        text = f"{limit:.6g}"
        rounding = replace(self.known.rounding, input_limit=text)
        left = self.products.errors(rounding, off)
        if median(left[node] / self.own[node] for node in off) > _SMALL_SHARE:
            return None
        beyond = [
            n for n in self.own if any(np.abs(p.inputs[p.tokens]).max() > limit for p in self.products.by_node[n])
        ]
        if len(beyond) < 2 or len(set(beyond) ^ set(off)) > max(1, (1 - NEARLY_ALL) * len(beyond)):
            return None
        eight_bits = self.known.rounding.matmul_input in ("fp8", "int8_row")
        settled = median(left[node] for node in off) <= 50 * max(self.honest.values())
        return self._cause(
            f"inputs clamped at {text}", {INPUT_LIMIT: text}, meant=eight_bits and not self.declared(),
            is_exact=settled,
        )  # fmt: skip

    def own_clamps(self) -> CommonCause | None:
        """A limit for each product: the inputs of all of them saturate, as where a scale is too small."""
        limits: dict[Node, float] = {}
        for node in self._probes():
            limit = self._limit(node)
            if limit is None:
                return None
            left = self.products.errors(replace(self.known.rounding, input_limit=repr(limit)), [node])[node]
            if left > max(_OF_A_SEARCH, 2 * self.honest[node]):
                return None
            limits[node] = limit
        eight_bits = self.known.rounding.matmul_input not in _FLOATS
        low, high = min(limits.values()), max(limits.values())
        looks_like = f"inputs clamped at {low:.3g} … {high:.3g}, each product's at a limit of its own,"
        return self._cause(looks_like, {}, meant=eight_bits and not self.declared())

    def _limit(self, node: Node) -> float | None:
        """The limit under which a product comes out nearest to what was captured: a scan, then a search in the best
        interval; None where none is much nearer than no limit."""
        largest = max(float(np.abs(product.inputs[product.tokens]).max()) for product in self.products.by_node[node])

        def error(limit: float) -> float:
            return self.products.errors(replace(self.known.rounding, input_limit=repr(float(limit))), [node])[node]

        grid = list(np.geomspace(largest / 100, largest, 40))
        at = int(np.argmin([error(limit) for limit in grid]))
        if at == len(grid) - 1 or error(grid[at]) > 0.7 * self.own[node]:
            return None
        low, high = grid[max(at - 1, 0)], grid[at + 1]
        ratio = (5**0.5 - 1) / 2
        for _ in range(50):
            inner, outer = high - ratio * (high - low), low + ratio * (high - low)
            low, high = (low, outer) if error(inner) < error(outer) else (inner, high)
        return float((low + high) / 2)

    def factor(self) -> CommonCause | None:
        """Every product multiplied by a factor: a scale that is wrong a tensor at a time."""
        fitted = {node: self.products.factor(self.known.rounding, node) for node in self.own}
        if median(left / self.own[node] for node, (_, left) in fitted.items()) > _SMALL_SHARE:
            return None
        factors = {node: factor for node, (factor, _) in fitted.items()}
        low, high = min(factors.values()), max(factors.values())
        text = f"{low:.5g}" if high - low < 1e-4 * abs(high) else f"{low:.4g} … {high:.4g}"
        cause = self._cause(f"products multiplied by {text}", {}, meant=False)
        return replace(cause, factors=factors)

    def sums(self) -> CommonCause | None:
        """Results that fit a 16-bit type and are off by several of its steps: the sums were kept in it."""
        kinds = [narrowest(fitting_types(p.captured) or ()) for some in self.products.by_node.values() for p in some]
        kind = max(set(kinds), key=kinds.count)
        if kind == "f32" or kinds.count(kind) < NEARLY_ALL * len(kinds) or not err_alike(list(self.own.values())):
            return None
        if median(self.own.values()) < _SEVERAL_STEPS * OUTPUT_STEP[kind] + OUTPUT_STEP[self.known.stored]:
            return None
        return self._cause(f"sums kept in {kind}", {"sums": kind}, meant=not self.declared(), is_exact=False)

    def unexplained(self) -> CommonCause | None:
        """Nothing that is known explains it: other weights, or an arithmetic that is not known here."""
        least = {node: 4 * self.honest[node] for node in self.own}
        beyond = [node for node, error in self.own.items() if error > least[node]]
        if len(beyond) < NEARLY_ALL * len(self.own) or not err_alike([self.own[node] for node in beyond]):
            return None
        return self._cause(None, {}, meant=True, is_exact=False)

    def _cause(
        self, looks_like: str | None, changes: Mapping[str, str], *, meant: bool, nodes: Sequence[Node] | None = None,
        is_exact: bool = True,
    ) -> CommonCause:  # fmt: skip
        chosen = tuple(self.off) if nodes is None else tuple(nodes)
        error = median(self.own[node] for node in chosen) if chosen else 0.0
        settled_by = ""
        stated = {name: value for name, value in changes.items() if getattr(self.known.rounding, name) != value}
        if meant and stated:
            settled_by = f"if that is meant, state it: --rounding {','.join(f'{k}={v}' for k, v in stated.items())}"
        elif meant:
            settled_by = "other weights than MODEL's, or a rounding that is not known here: give the engine's own model"
        found = Everywhere(OP_WORDS[Op.MATMUL], chosen, len(self.own), error, looks_like, meant, settled_by)
        return CommonCause(found, changes, is_exact)
