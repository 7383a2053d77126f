"""Finding out from a capture alone what its engine rounds, and where.

First from the values: their type shows in their own mantissas, and sums and products of two captured stages show
whether the engine computes in that type or only saved it. Then by trying: some nodes of each kind of op are recomputed
under every rounding in question; the right one is closer by orders of magnitude (8-bit inputs: 1e-7 against 7e-3).
Where inputs were not captured, whole segments are computed instead. Medians over several layers, so that one faulty
stage decides nothing; NaN and Inf are set aside. A rounding counts as established only if what it leaves is what honest
engines leave; the ops of any other stay open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import median
from types import MappingProxyType

import numpy as np

from aprtui.compare.deviations import YARN_IN_WHOLE_PAIRS, YARN_OF_USUAL_BETAS
from aprtui.compare.metrics.measure import rel_l2, token_errors
from aprtui.engine.protocol import Rounding
from aprtui.engine.replay.arithmetic import (
    ATTENTION_OPS,
    BY_WEIGHT,
    KEPT,
    UNROUNDED,
    KnownArithmetic,
    NodeEvaluators,
    Recomputation,
    rounding_text,
)
from aprtui.engine.replay.everywhere import CommonCause, find_cause
from aprtui.engine.replay.flash_attention import MET_IN_Q8_0, ONLINE_F16, ROTATED
from aprtui.engine.replay.layouts import find_layouts
from aprtui.engine.replay.recompute import Array, CapturedStages, Misfit, Recomputed, Recomputer
from aprtui.engine.replay.spread import Spreads
from aprtui.engine.replay.value_types import fitting_types, narrowest
from aprtui.engine.rounding import ROUND, has_gelu, other_ways_of_rope
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.progress import Progress, no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import MATRIX_PRODUCTS, Op
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, Node

_OF_WEIGHTS = frozenset({"weights", "sums", "input_limit"})
_ROWS = 16
_LOOKED_AT = 4096
_CLEARLY = 0.5
"""A rounding is taken for another one only if it leaves less than this share of the error."""
_FAR_NEARER = 0.01
"""The same where it shows at some stages only, and makes no difference at the others."""
_NEARER = 0.8
"""Where the error is beyond what rounding nothing explains, a rounding that leaves less than this is taken if it
explains the rest: captured values that miss digits flip many of its levels."""
_PROBES_TO_COUNT = 6
_NEARLY_EVERY = 0.9
"""Nearer at so large a share of so many probes, by however little, is no chance: a rounding that the engine does not do
adds an error of its own."""
_EXACT_SHARE = 0.95
"""Of the values of a sum or product of two captured stages, those that come out equal to the bit where the engine
computes in the type it keeps; where values were only saved in it, about half do."""

_MATMUL_INPUTS = (
    BY_WEIGHT, "q8_0", "q8_1", "f16", "bf16", "tf32", "fp8", "fp8_row", "fp8_block", "int8", "int8_row",
)  # fmt: skip
_WIDEST_BLOCK = 32
_ATTENTION: tuple[Mapping[str, str], ...] = tuple(
    MappingProxyType({"kv_cache": cache, "softmax": softmax})
    for cache, softmax in (
        ("f16", "f32"), ("f16", "f16"), ("bf16", "f32"), ("bf16", "bf16"), ("q8_0", "f32"), ("q4_0", "f32"),
        ("fp8", "f32"), ("fp8_e5m2", "f32"), ("int8_row", "f32"), ("f32", "f16"), ("f32", "bf16"), ("f16", ONLINE_F16),
        *((kind, "f32") for kind in (*ROTATED, *MET_IN_Q8_0)),
        # What llama.cpp keeps where only keys, or both in different types, are asked for.
        *((f"{keys}+f16", softmax) for keys in (*ROTATED, *MET_IN_Q8_0) for softmax in ("f16", ONLINE_F16)),
        ("q8_0_rotated+q4_0_rotated", "f32"), ("q8_0_query+q4_0_query", "f32"),
        *((f"{keys}+{values}", "f32") for keys in ("q8_0", "q4_0") for values in ("f16", "f32")),
        *(("f32", softmax) for softmax in KEPT),
    )
)  # fmt: skip
_TOGETHER: tuple[Mapping[str, str], ...] = tuple(
    MappingProxyType({"matmul_input": matmul, "kv_cache": cache, "softmax": softmax})
    for matmul, cache, softmax in (
        (BY_WEIGHT, "f16", "f16"), (BY_WEIGHT, "f16", ONLINE_F16), (BY_WEIGHT, "q8_0_rotated", "f32"),
        (BY_WEIGHT, "q8_0_rotated+f16", "f16"), (BY_WEIGHT, "q8_0_rotated+f16", ONLINE_F16),
        ("q8_1", "f16", "f32"), ("f16", "f16", "f32"), ("bf16", "bf16", "f32"),
    )
)  # fmt: skip
"""What engines round together; tried where only products and attention together can be computed."""


@dataclass(frozen=True, slots=True)
class FoundEngine:
    """What is known of the engine of a capture: its arithmetic, statements of what that rests on, and whether most of
    the matrix products that were tried are the model's (`own_weights`, which is true where none could be tried).

    `told` are the roundings that were stated, by the user or the manifest, and not found. `cause` is what all products
    err by; `arithmetic` is the one that reproduces them where it may be meant, and
    `without_cause` the one without it, as `arithmetic` is elsewhere.
    """

    arithmetic: KnownArithmetic
    statements: tuple[str, ...]
    own_weights: bool
    cause: CommonCause | None = None
    without_cause: KnownArithmetic | None = None
    told: frozenset[str] = frozenset()

    @property
    def rounding(self) -> Rounding:
        return self.arithmetic.rounding


@dataclass(frozen=True, slots=True)
class IdentifiedCapture:
    """The stages of a capture in the model's order of channels, what was found of that order, and of its engine."""

    stages: CapturedStages
    layouts: tuple[str, ...]
    engine: FoundEngine


def identify_capture(
    stages: CapturedStages, stated: Mapping[str, str], evaluators: NodeEvaluators, progress: Progress | None = None
) -> IdentifiedCapture:
    """Order and engine of a capture, whose `stages` are put in that order."""
    layouts = tuple(find_layouts(stages, evaluators))
    return IdentifiedCapture(stages, layouts, identify(stages, stated, evaluators, progress))


def identify(
    stages: CapturedStages, stated: Mapping[str, str], evaluators: NodeEvaluators, progress: Progress | None = None
) -> FoundEngine:
    """The engine of a capture: as the user states it, else as its manifest does; the rest is found by trying."""
    manifest = stages.capture.manifest
    names = {entry.name for entry in fields(Rounding)}
    if not has_gelu(stages.model):
        names -= {"activation"}
    recorded = {} if manifest is None else {k: v for k, v in manifest.engine.rounding.items() if k in names}
    source = " and ".join(name for name, given in (("the manifest", recorded), ("--rounding", stated)) if given)
    given = {**recorded, **stated}
    search = _Search(stages, evaluators, _types_of(stages), progress or no_progress)
    arithmetic = search.arithmetic(given)
    plain, cause = arithmetic, None
    if not _OF_WEIGHTS & stated.keys():

        def is_declared() -> bool:
            by_manifest = "matmul_input" in recorded and "matmul_input" not in stated
            return by_manifest and states_weights(stages.capture, stages.model) is True

        cause = find_cause(stages, arithmetic, progress or no_progress, declared=is_declared)
    if cause is not None and cause.found.may_be_meant and "sums" not in cause.changes:
        arithmetic = under_cause(arithmetic, cause)
    unstated = names - _OF_WEIGHTS - given.keys()
    how = f"as {source} states" if not unstated else "found by trying"
    how += f", beyond what {source} states" if unstated and source else ""
    statements = [f"rounding ({how}): {rounding_text(arithmetic.rounding)}", *_type_statements(arithmetic)]
    statements += _yarn_deviations(stages.model, RopeAngles(arithmetic.rounding.rope_angles))
    if arithmetic.open_ops:
        statements.append(_open_statement(arithmetic))
    if cause is not None and not cause.found.nodes:
        cause = None
    told = frozenset(given)
    return FoundEngine(arithmetic, tuple(statements), search.weights_agree(arithmetic), cause, plain, told)


def under_cause(known: KnownArithmetic, cause: CommonCause) -> KnownArithmetic:
    """The arithmetic with what all products err by, which is then known, and no error of theirs."""
    opened = known.open_ops - MATRIX_PRODUCTS if cause.is_exact else known.open_ops
    return replace(known, rounding=replace(known.rounding, **cause.changes), open_ops=opened)


def states_weights(capture: Capture, model: Model) -> bool | None:
    """Whether the manifest states that the weights are those of `model`; None where it says nothing."""
    stated = None if capture.manifest is None else capture.manifest.model.sha256
    return None if stated is None else stated == model.sha256()


def _type_statements(arithmetic: KnownArithmetic) -> Iterator[str]:
    if arithmetic.stored != "f32":
        more = "" if arithmetic.stored in arithmetic.between else ", and the engine computed with more digits"
        yield f"values are stored in {arithmetic.stored}{more}: that rounding is part of every bound"
    others = {s: kind for s, kind in arithmetic.outputs.items() if kind != arithmetic.rounding.stage_output}
    if others:
        yield "kept in another type than other stages: " + ", ".join(f"{s} in {kind}" for s, kind in others.items())


def _yarn_deviations(model: Model, angles: RopeAngles) -> Iterator[str]:
    """What an engine of that way of computing angles does otherwise than the file says, a sentence each."""
    own = model.config.rope.yarn
    found = model.config.rope.as_read(angles).yarn
    if own is None or found is None:
        return
    if not own.whole_pairs and (found.whole_pairs or angles.is_recurrence):
        yield YARN_IN_WHOLE_PAIRS.said()
    if (own.fast, own.slow) != (found.fast, found.slow):
        yield YARN_OF_USUAL_BETAS.said(f" in place of {own.fast:.6g} and {own.slow:.6g}")


def _open_statement(arithmetic: KnownArithmetic) -> str:
    what = [
        name
        for name, ops in (("matrix products", MATRIX_PRODUCTS), ("attention", ATTENTION_OPS), ("activation", {Op.GELU}))
        if arithmetic.open_ops & ops
    ]
    return (
        f"no rounding that is known here reproduces the {' and the '.join(what)}: what rests on them fails only beyond "
        "what the coarsest honest engine explains; --rounding states what the engine does"
    )


def _types_of(stages: CapturedStages) -> dict[str, frozenset[str]]:
    """The 16-bit types that each captured stage fits, as most of its layers that are looked at show."""
    found: dict[str, frozenset[str]] = {}
    for stage in stages.model.graph.stages:
        nodes = [node for node in stages.model.graph.nodes if node.stage == stage.name and stages.rows(node)]
        tensors = [stages.raw(nodes[index]) for index in sorted({0, len(nodes) // 2, len(nodes) - 1}) if nodes]
        fitting = [fits for raw in tensors if not isinstance(raw, Misfit) and (fits := fitting_types(raw)) is not None]
        if fitting:
            found[stage.name] = Counter(fitting).most_common(1)[0][0]
    return found


@dataclass(frozen=True, slots=True)
class _Search:
    """Tries arithmetics on one capture; `types` are the 16-bit ones that the values of each stage fit."""

    stages: CapturedStages
    evaluators: NodeEvaluators
    types: Mapping[str, frozenset[str]]
    progress: Progress

    def arithmetic(self, stated: Mapping[str, str]) -> KnownArithmetic:
        known = self._typed(replace(UNROUNDED, **stated), "stage_output" in stated)
        products, attention = self._probes(MATRIX_PRODUCTS), self._probes(ATTENTION_OPS)
        unsettled: set[Op] = set()
        if "matmul_input" not in stated:
            candidates: list[Mapping[str, str]] = [{"matmul_input": n} for n in _MATMUL_INPUTS if self._divides(n)]
            if set(products) & set(attention) and not {"kv_cache", "softmax"} & set(stated):
                candidates += _TOGETHER
                if has_gelu(self.stages.model) and "activation" not in stated:
                    candidates += [{**choice, "activation": "f16"} for choice in _TOGETHER[:1]]
            candidates += [{"stage_output": kind} for kind in known.between - {known.rounding.stage_output}]
            known, settled = self._best(known, candidates, products)
            unsettled |= set() if settled else MATRIX_PRODUCTS
        if "rope_angles" not in stated:
            ways = other_ways_of_rope(self.stages.model)
            # Where llama.cpp computes with another YaRN than the model, all that follows shows it.
            probes = self._direct if len(ways) == 1 else self._probes
            known, _ = self._best(known, [{"rope_angles": str(way)} for way in ways], probes({Op.ROPE}))
        if not {"kv_cache", "softmax"} & set(stated):
            before = known.alternatives
            known, settled = self._best(known, _ATTENTION, attention)
            unsettled |= set() if settled else ATTENTION_OPS
            if settled:
                known, untold = self._told_by_others(known, known.alternatives[len(before) :], attention)
                unsettled |= untold
        if "activation" not in stated and has_gelu(self.stages.model):
            known, settled = self._best(known, [{"activation": "f16"}], self._probes({Op.GELU}))
            unsettled |= set() if settled else {Op.GELU}
        if unsettled and self._explains(known, products) and self._explains(known, attention):
            # Where both can be computed together only, the first choice was made without the second.
            unsettled = set()
        return replace(known, open_ops=frozenset(unsettled))

    def _told_by_others(
        self, known: KnownArithmetic, possible: Sequence[Mapping[str, str]], probes: Sequence[Node]
    ) -> tuple[KnownArithmetic, set[Op]]:
        """`known` without those of the `possible` alternatives that scores refute, or values, where the `probes` hold
        the other only; and the ops of these that none of them explains.

        A capture with probabilities and without raw scores has the keys' type in its probabilities alone. Where values
        miss digits, all that is possible leaves much there, and nothing is refuted.
        """
        if not known.stored == known.rounding.stage_output == "f32":
            return known, set()
        run = self._run(known)
        told = {self.stages.model.graph[n.stage].op for p in probes for n in (*run.segment(p, self._rows(p)), p)}
        untold = {op for op in ATTENTION_OPS - told if self._probes({op})}
        others = [node for op in untold for node in self._probes({op})]
        if not others:
            return known, set()
        sure = replace(known, alternatives=known.alternatives[: len(known.alternatives) - len(possible)])
        best, settled = self._best(sure, [changes for changes in possible if changes], others)
        return (best, set()) if settled else (sure, untold)

    def _typed(self, rounding: Rounding, output_stated: bool) -> KnownArithmetic:
        """The types of stages: kept so by the engine, or only stored."""
        graph = self.stages.model.graph
        inner = [fits for name, fits in self.types.items() if name != ENTRY and not graph[name].of_last_position]
        kinds = {name: narrowest(fits) for name, fits in self.types.items()}
        common = frozenset.intersection(*(inner or self.types.values())) if self.types else frozenset()
        if set(kinds.values()) <= {"f32"} or (output_stated and (rounding.stage_output != "f32" or not common)):
            return KnownArithmetic(rounding)
        if not common:
            most = Counter(kinds.values()).most_common(1)[0][0]
            outputs = {name: kind for name, kind in kinds.items() if kind != most}
            between = frozenset(narrowest(fits) for fits in inner) | {"f32"}
            return KnownArithmetic(replace(rounding, stage_output=most), outputs, between=between)
        kind = narrowest(common)
        computes = False if output_stated else self._computes_in_its_types(kinds)
        if computes:
            outputs = {name: other for name, other in kinds.items() if other != kind}
            return KnownArithmetic(replace(rounding, stage_output=kind), outputs, between=frozenset({"f32", kind}))
        outputs = {name: other for name, other in kinds.items() if other not in ("f32", kind)}
        between = frozenset({"f32"} if computes is False else {"f32", kind})
        return KnownArithmetic(rounding, outputs, stored=kind, between=between)

    def _computes_in_its_types(self, kinds: Mapping[str, str]) -> bool | None:
        """Whether products and sums of two captured stages come out equal to the bit in the type they are kept in; None
        where the capture holds none of them. Sums tell where products do not, and where they are in another type: a
        residual stream in float32 was only saved in that."""
        seen: dict[str, bool] = {}
        for op in (Op.MULTIPLY, Op.ADD):
            shares: dict[str, list[float]] = {}
            for node in self._direct({op}):
                kind, values = kinds[node.stage], self._captured(node, self.stages.rows(node))
                expected = self._run(KnownArithmetic()).recompute(node, values.shape[-2]).values
                shares.setdefault(kind, []).append(float(np.mean(ROUND[kind](expected) == values)))
            seen = {kind: median(found) >= _EXACT_SHARE for kind, found in shares.items()} | seen
        return all(seen.values()) if seen else None

    def weights_agree(self, known: KnownArithmetic) -> bool:
        """Whether the median matrix product whose input was captured is within its bound."""
        return self._explains(known, self._direct(MATRIX_PRODUCTS))

    def _explains(self, known: KnownArithmetic, probes: Sequence[Node]) -> bool:
        """Whether `known` leaves no more at the median probe than honest engines of it do; so without probes."""
        spreads, run = Spreads(self.stages.model, self.stages, known, self.evaluators), self._run(known)
        ratios = []
        for node in probes:
            found = run.recompute(node, self._rows(node))
            error = self._token_error(node, found)
            if error is None:
                continue
            bound = spreads.close_bound(node, found.segment).bound
            ratios.append(error / bound if error <= bound else error / spreads.bound(node, found).bound)
        return not ratios or median(ratios) <= 1

    def _best(
        self, base: KnownArithmetic, candidates: Sequence[Mapping[str, str]], probes: Sequence[Node]
    ) -> tuple[KnownArithmetic, bool]:
        """`base` with the candidate under which `probes` come out clearly closest, `base` where none does; and whether
        that explains them. Where `base` does not, the closest will do, if it explains them. Those that come out about
        as close stay possible."""
        if not probes:
            return base, True
        tried = [base, *(replace(base, rounding=replace(base.rounding, **changes)) for changes in candidates)]
        errors = []
        for done, (changes, known) in enumerate(zip(({}, *candidates), tried, strict=True)):
            self.progress(f"trying {_words(base, changes)},", done, len(tried))
            errors.append(self._errors(known, probes))
        medians = [median(found.values()) if found else np.inf for found in errors]
        own, least = medians[0], min(medians)
        nearest = medians.index(least)
        if least < own * _CLEARLY:
            chosen, settled = nearest, self._explains(tried[nearest], probes)
        elif self._explains(base, probes):
            finer = next((i for i, found in enumerate(errors) if _is_nearer_somewhere(found, errors[0])), 0)
            chosen, settled = finer if self._explains(tried[finer], probes) else 0, True
        else:
            nearer = least < own * _NEARER or _is_nearer_throughout(errors[nearest], errors[0])
            settled = nearer and self._explains(tried[nearest], probes)
            chosen = nearest if settled else 0
        if not settled:
            return tried[chosen], False
        pairs = zip(({}, *candidates), errors, strict=True)
        close = [changes for changes, found in pairs if _as_close(found, errors[chosen])]
        return replace(tried[chosen], alternatives=(*tried[chosen].alternatives, *close)), True

    def _errors(self, known: KnownArithmetic, probes: Sequence[Node]) -> dict[Node, float]:
        run = self._run(known)
        return {node: error for node in probes if (error := self._node_error(run, node)) is not None}

    def _node_error(self, run: Recomputer, node: Node) -> float | None:
        """The error over all tokens whose values are finite on both sides; None where there are none."""
        rows = self._rows(node)
        expected, found = run.recompute(node, rows).values, self._captured(node, rows)
        finite = np.isfinite(expected).all((0, 2) if expected.ndim == 3 else 1)
        finite &= np.isfinite(found).all((0, 2) if found.ndim == 3 else 1)
        if not finite.any():
            return None
        return rel_l2(np.ascontiguousarray(expected[..., finite, :]), np.ascontiguousarray(found[..., finite, :]))

    def _token_error(self, node: Node, expected: Recomputed) -> float | None:
        """The error of the worst token whose values are finite on both sides; None where there are none."""
        causal = self.stages.model.graph[node.stage].is_attention_map
        rows = expected.values.shape[-2]
        values = np.ascontiguousarray(expected.values)
        tokens = token_errors(values, self._captured(node, rows), causal=causal and rows == values.shape[-1])
        finite = tokens[np.isfinite(tokens)]
        return float(finite.max()) if finite.size else None

    def _captured(self, node: Node, rows: int) -> Array:
        return np.ascontiguousarray(self.stages.values(node)[..., -rows:, :])

    def _rows(self, node: Node) -> int:
        """How many of the last rows to look at; all of them where NaN or Inf spoils some."""
        held = self.stages.rows(node)
        rows = min(_ROWS, held)
        if self.stages.model.graph[node.stage].is_attention_map:
            return held
        return rows if np.isfinite(self._captured(node, rows)).all() else held

    def _run(self, known: KnownArithmetic) -> Recomputer:
        model = self.stages.model
        return Recomputer(model, self.stages, Recomputation(model, known.rounding, self.evaluators, known.outputs))

    def _direct(self, ops: Collection[Op]) -> list[Node]:
        """Nodes of `ops` with captured inputs, in the first, the middle and the last layer that have any."""
        graph, run = self.stages.model.graph, self._run(KnownArithmetic())
        usable = [
            node
            for node in graph.nodes
            if graph[node.stage].op in ops and graph.inputs(node) and self._usable(node)
            and not self.stages.model.uses_rebuilt(node) and not run.segment(node, self.stages.rows(node))
        ]  # fmt: skip
        layers = sorted({node.layer for node in usable if node.layer is not None})
        chosen = {layers[index] for index in (0, len(layers) // 2, -1)} if layers else set()
        return [node for node in usable if node.layer is None or node.layer in chosen]

    def _probes(self, ops: Collection[Op]) -> list[Node]:
        """`_direct`, or where there are none, the captured stages that are the fewest stages behind one of `ops`."""
        direct = self._direct(ops)
        if direct:
            return direct
        graph, run = self.stages.model.graph, self._run(KnownArithmetic())
        lengths: dict[Node, int] = {}
        for node in filter(self._usable, graph.nodes):
            segment = run.segment(node, self.stages.rows(node))
            if any(graph[n.stage].op in ops for n in (*segment, node)):
                lengths[node] = len(segment)
        shortest = [node for node, length in lengths.items() if length == min(lengths.values())]
        return [shortest[i] for i in sorted({0, len(shortest) // 2, len(shortest) - 1})] if shortest else []

    def _usable(self, node: Node) -> bool:
        """Whether the capture holds finite values of `node`, as some of them show: those of all nodes are gigabytes."""
        if not self.stages.rows(node):
            return False
        flat = self.stages.raw(node).reshape(-1)  # type: ignore[union-attr]  # a node with rows is no misfit
        return bool(np.isfinite(flat[:: max(1, flat.size // _LOOKED_AT)]).any())

    def _divides(self, name: str) -> bool:
        """Whether every matmul input of the model can be cut into the blocks of a rounding."""
        model = self.stages.model
        columns = {
            weight.columns
            for node in model.graph.nodes
            if model.graph[node.stage].op in MATRIX_PRODUCTS
            for weight in model.params(node)
        }
        return not name.startswith("q8_") or all(count % _WIDEST_BLOCK == 0 for count in columns)


def _is_nearer_throughout(errors: Mapping[Node, float], others: Mapping[Node, float]) -> bool:
    """Whether `errors` are smaller than `others` at nearly every probe, and probes many."""
    nearer = sum(error < others.get(node, 0) for node, error in errors.items())
    return len(errors) >= _PROBES_TO_COUNT and nearer >= _NEARLY_EVERY * len(errors)


def _words(base: KnownArithmetic, changes: Mapping[str, str]) -> str:
    """A candidate in words: what it rounds where, and in which type the residual is kept where that is another one."""
    text = ", ".join(f"{name}={value}" for name, value in changes.items()) or rounding_text(base.rounding)
    residual = base.outputs.get(LAYER_OUTPUT, base.rounding.stage_output)
    return text if residual == base.rounding.stage_output else f"{text}, {residual} residual"


def _as_close(errors: Mapping[Node, float], least: Mapping[Node, float]) -> bool:
    """Whether `errors` are no clearly larger than `least`, at any stage: where one channel is all that counts, as
    behind a norm of massive ones, every rounding comes out alike."""
    stages = {node.stage for node in least}
    return errors.keys() == least.keys() and all(_at(s, errors) * _CLEARLY <= _at(s, least) for s in stages)


def _is_nearer_somewhere(errors: Mapping[Node, float], others: Mapping[Node, float]) -> bool:
    """Whether `errors` are far smaller than `others` at some stage, and larger at none: where most weights are floats,
    which take inputs as they are, the rounding of the others shows in few products."""
    stages = {node.stage for node in others}
    if errors.keys() != others.keys() or any(_at(s, errors) > _at(s, others) for s in stages):
        return False
    return any(_at(s, errors) < _FAR_NEARER * _at(s, others) for s in stages)


def _at(stage: str, errors: Mapping[Node, float]) -> float:
    return median(error for node, error in errors.items() if node.stage == stage)
