"""Two model files against each other: what the metadata and each tensor say, in execution order, and one verdict.

Any FAIL of a tensor, or metadata that change numbers, makes FAIL. Else UNKNOWN where a tensor is UNKNOWN or missing on
one side, or nothing was compared. Else PASS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from pathlib import Path

from aprtui.compare.align.coverage import Selection
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import DEFAULT_METRIC, Tolerance, Verdict
from aprtui.compare.wording import counted
from aprtui.errors import UsageError
from aprtui.model.architectures.base import TIED_HEAD
from aprtui.model.model_file import ModelFile
from aprtui.model.open_file import open_model_file
from aprtui.model.weight_difference.findings import (
    BytesDifference,
    Tensors,
    bytes_difference,
    few_blocks,
    stored_findings,
    transposed,
    twins,
    value_findings,
)
from aprtui.model.weight_difference.judgement import BIT_EQUAL, WeightJudgement, judge, judge_bytes_only, judge_shapes
from aprtui.model.weight_difference.metadata import MetadataDifference, metadata_differences
from aprtui.model.weight_difference.nodes import graph_of, nodes_by_tensor, same_config, selected_nodes
from aprtui.model.weight_difference.values import WeightMetrics, weight_metrics
from aprtui.model.weights import StoredTensor, stored_tensor
from aprtui.progress import Progress
from aprtui.trace.graph.stage import Node

_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor that both files have. `bytes` is None where they are equal, or where type or shape differ; `metrics`
    is None where the bytes are equal or there are no values to compare. `findings` say what a difference looks like."""

    name: str
    nodes: tuple[Node, ...]
    types: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    judgement: WeightJudgement
    bytes: BytesDifference | None
    metrics: WeightMetrics | None
    findings: tuple[str, ...]

    @property
    def bit_equal(self) -> bool:
        """Whether type, shape and bytes are equal."""
        return self.judgement is BIT_EQUAL


@dataclass(frozen=True, slots=True)
class SkippedTensor:
    """A tensor that was not compared: `side` is A or B where only that file has it, None where both do.

    `same_as` names tensors of the other file that hold the same bytes; `harmless` says that the other file uses one of
    them in its place.
    """

    name: str
    nodes: tuple[Node, ...]
    side: str | None
    reason: str
    same_as: tuple[str, ...] = ()
    harmless: bool = False


@dataclass(frozen=True, slots=True)
class ModelDifference:
    """Everything that a comparison of two model files says; `notes` say what is not known of a file."""

    verdict: Verdict
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    metadata: tuple[MetadataDifference, ...]
    tensors: tuple[TensorDifference, ...]
    skipped: tuple[SkippedTensor, ...]

    @property
    def first(self) -> TensorDifference | None:
        """The first tensor, in execution order, that fails."""
        return next((t for t in self.tensors if t.judgement.verdict is Verdict.FAIL), None)

    @property
    def number_changing(self) -> tuple[MetadataDifference, ...]:
        return tuple(entry for entry in self.metadata if entry.changes_numbers)

    @property
    def expected(self) -> int:
        """How many tensors must be compared: all but those that the other file has under the name it uses."""
        return len(self.tensors) + sum(not skip.harmless for skip in self.skipped)


def compare_models(
    path_a: Path,
    path_b: Path,
    selection: Selection = Selection(),  # noqa: B008  # frozen
    tolerances: Sequence[Tolerance] = (),
    progress: Progress | None = None,
) -> ModelDifference:
    """Compare the GGUF file `path_b` with the reference `path_a`; takes about 30 MB of memory for files of any size.

    `selection` leaves out the tensors that none of the selected stages uses; the metadata are compared all the same.
    Raises `UnreadableError` for a file that is no GGUF file or is damaged, `UsageError` for a selection that has no
    tensors.
    """
    a, b = open_model_file(path_a), open_model_file(path_b)
    graphs = graph_of(a), graph_of(b)
    users = nodes_by_tensor(a, b, graphs)
    chosen = selected_nodes(graphs, selection.stages, selection.layers)
    names = _in_order({**a.tensors, **b.tensors}, users)
    if chosen is not None:
        names = [name for name in names if chosen.intersection(users.get(name, ()))]
        if not names:
            raise UsageError("--stage, --layers: no tensor belongs to what they select: leave them out")
    comparer = _Comparer(_stored(a), _stored(b), users, tolerances, progress)
    tensors, skipped = comparer.compare(a, b, names)
    metadata = metadata_differences(a, b, same_config=same_config(*graphs))
    verdict, reasons = _conclude(tensors, skipped, metadata)
    notes = tuple(own.problem for own in graphs if own.problem)
    return ModelDifference(verdict, reasons, notes, metadata, tensors, skipped)


def _in_order(names: Mapping[str, object], users: Mapping[str, tuple[Node, ...]]) -> list[str]:
    """Tensors in execution order; those that no known node uses come last, in file order."""
    return [*(name for name in users if name in names), *(name for name in names if name not in users)]


def _stored(file: ModelFile) -> dict[str, StoredTensor]:
    found = {name: stored_tensor(file, entry) for name, entry in file.tensors.items()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


@dataclass(slots=True)
class _Comparer:
    a: Tensors
    b: Tensors
    users: Mapping[str, tuple[Node, ...]]
    tolerances: Sequence[Tolerance]
    progress: Progress | None
    done: int = 0
    total: int = 0

    def compare(
        self, file_a: ModelFile, file_b: ModelFile, names: Sequence[str]
    ) -> tuple[tuple[TensorDifference, ...], tuple[SkippedTensor, ...]]:
        self.total = sum(self.a[name].data.nbytes for name in names if name in self.a and name in self.b)
        tensors, skipped = [], []
        for name in names:
            nodes = self.users.get(name, ())
            if name not in file_a.tensors or name not in file_b.tensors:
                skipped.append(self._one_sided(name, nodes, file_a))
            elif name not in self.a or name not in self.b:
                numbers = [file.tensors[name].type for file in (file_a, file_b)]
                reason = f"type numbers {numbers[0]} in A, {numbers[1]} in B: not known here"
                skipped.append(SkippedTensor(name, nodes, None, reason))
            else:
                tensors.append(self._pair(name, nodes, self.a[name], self.b[name]))
        return tuple(tensors), tuple(skipped)

    def _one_sided(self, name: str, nodes: tuple[Node, ...], file_a: ModelFile) -> SkippedTensor:
        side, own, other = ("A", self.a, self.b) if name in file_a.tensors else ("B", self.b, self.a)
        same_as = twins(own[name], other) if name in own else ()
        reason = f"only in {side}"
        # Without a head of its own the other file uses its embedding table.
        tied = TIED_HEAD.get(name) in same_as
        return SkippedTensor(name, nodes, side, reason, same_as, harmless=tied)

    def _advance(self, size: int) -> None:
        self.done += size
        if self.progress:
            self.progress("comparing weights, MB", self.done // _MEGABYTE, self.total // _MEGABYTE)

    def _pair(self, name: str, nodes: tuple[Node, ...], a: StoredTensor, b: StoredTensor) -> TensorDifference:
        return compare_tensors(nodes, a, b, (self.a, self.b), self.tolerances, self._advance)


def compare_tensors(
    nodes: tuple[Node, ...], a: StoredTensor, b: StoredTensor, all_tensors: tuple[Tensors, Tensors],
    tolerances: Sequence[Tolerance] = (), advance: Callable[[int], None] = lambda _: None,
) -> TensorDifference:  # fmt: skip
    """How tensor `b` differs from the reference `a`, and what that looks like among `all_tensors` of both sides.

    `advance` takes the bytes of A that were compared since its last call.
    """
    name, types, shapes, (all_a, all_b) = b.name, (a.type, b.type), (a.shape, b.shape), all_tensors
    if a.shape != b.shape:
        advance(a.data.nbytes)
        found = (*stored_findings(a, b, all_a, all_b), *transposed(a, b))
        return TensorDifference(name, nodes, types, shapes, judge_shapes(a, b), None, None, found)
    if a.has_bytes_of(b):
        advance(a.data.nbytes)
        return TensorDifference(name, nodes, types, shapes, BIT_EQUAL, None, None, ())
    where = bytes_difference(a, b) if a.has_layout_of(b) else None
    findings = (*stored_findings(a, b, all_a, all_b), *(few_blocks(a, where) if where else ()))
    try:
        metrics = weight_metrics(a, b, advance)
    except NotImplementedError:
        return TensorDifference(name, nodes, types, shapes, judge_bytes_only(a, b), where, None, findings)
    judgement = judge(a, b, metrics, tolerances)
    if judgement.verdict is Verdict.FAIL:
        findings += tuple(value_findings(a, b, metrics, all_a, all_b))
    return TensorDifference(name, nodes, types, shapes, judgement, where, metrics, findings)


def _conclude(
    tensors: Sequence[TensorDifference], skipped: Sequence[SkippedTensor], metadata: Sequence[MetadataDifference]
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict, and why it is not PASS."""
    computed = [entry.key for entry in metadata if entry.changes_numbers]
    failed = [tensor for tensor in tensors if tensor.judgement.verdict is Verdict.FAIL]
    if computed or failed:
        reasons = [f"metadata that change numbers: {', '.join(computed)}"] if computed else []
        if failed:
            reasons.append(f"{failed[0].name}: {failed[0].judgement.reason}{_and_more(len(failed) - 1)}")
        return Verdict.FAIL, tuple(reasons)
    reasons = [] if tensors else ["no tensor was compared"]
    missing = [skip for skip in skipped if not skip.harmless]
    if missing:
        reasons.append(f"{missing[0].name}: {missing[0].reason}{_and_more(len(missing) - 1)}")
    unknown = [tensor for tensor in tensors if tensor.judgement.verdict is Verdict.UNKNOWN]
    if unknown:
        reasons.append(f"{unknown[0].name}: {unknown[0].judgement.reason}{_and_more(len(unknown) - 1)}")
    return (Verdict.UNKNOWN if reasons else Verdict.PASS), tuple(reasons)


def _and_more(count: int) -> str:
    return f", and {counted(count, 'more tensor')}" if count else ""


def smallest_tolerance(difference: ModelDifference, metric: Metric = DEFAULT_METRIC) -> Tolerance | None:
    """The smallest tolerance of `metric`, rounded to three digits (cosine: six), that every tensor with numbers passes;
    None where none would do, and where no tensor has numbers."""
    pairs = [tensor.metrics for tensor in difference.tensors if tensor.metrics]
    numbers = [number for pair in pairs if (number := pair.value(metric)) is not None]
    hopeless = len(numbers) < len(pairs) or any(pair.mismatches for pair in pairs) or math.inf in numbers
    shapes_differ = any(tensor.shapes[0] != tensor.shapes[1] for tensor in difference.tensors)
    if not numbers or hopeless or shapes_differ:
        return None
    if metric.is_similarity:
        return Tolerance(metric, float(Context(prec=6, rounding=ROUND_FLOOR).plus(Decimal(min(numbers)))))
    return Tolerance(metric, float(Context(prec=3, rounding=ROUND_CEILING).plus(Decimal(max(numbers)))))
