"""A local fault on top of an error that is everywhere: what a stage errs by beyond what all stages of its kind do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aprtui.compare.comparison import Everywhere, StageComparison
from aprtui.compare.everywhere import STANDS_OUT, standing_out
from aprtui.compare.metrics.measure import Metric, measure
from aprtui.compare.verdict import Verdict
from aprtui.engine.replay.arithmetic import NodeEvaluators, Recomputation
from aprtui.engine.replay.identify import FoundEngine, under_cause
from aprtui.engine.replay.recompute import CapturedStages, Recomputed, Recomputer
from aprtui.engine.replay.spread import Spreads
from aprtui.engine.weight_rounding import OWN_WEIGHTS, round_rows
from aprtui.model.model import Model
from aprtui.trace.graph.ops import MATRIX_PRODUCTS, Op
from aprtui.trace.graph.stage import Node

_ALONE = f"more than {STANDS_OUT:g} times what the same stage of any other layer errs by"
ALIKE = "errs as all matrix products do"
_OF_A_SEARCH = 1e-4
"""What a limit leaves that was found by a search in float32 values."""


@dataclass(slots=True)
class CommonError:
    """What the matrix products of a capture err by alike; `local` are those that err by more, once all are `judged`."""

    model: Model
    stages: CapturedStages
    engine: FoundEngine
    evaluators: NodeEvaluators
    local: frozenset[Node] = field(default_factory=frozenset)

    def instead(self, node: Node, found: Recomputed) -> tuple[Recomputed, Spreads] | None:
        """A stage as an engine may compute it that rounds weights: some keep those of one product or other as they are,
        and some round the table of the embedding as well. None for any other stage or engine."""
        kept, plain = self.engine.rounding.weights, self.engine.without_cause
        if self.engine.cause is None or kept == OWN_WEIGHTS or plain is None:
            return None
        op = self.model.graph[node.stage].op
        if op is Op.EMBED:
            (table,) = self.model.params(node)
            rounded = round_rows(found.values, table, kept)
            return replace(found, values=rounded), Spreads(self.model, self.stages, plain, self.evaluators)
        if op not in MATRIX_PRODUCTS:
            return None
        recomputation = Recomputation(self.model, plain.rounding, self.evaluators, plain.outputs)
        other = Recomputer(self.model, self.stages, recomputation).recompute(node, found.values.shape[-2])
        return other, Spreads(self.model, self.stages, plain, self.evaluators)

    def judged(self, compared: Sequence[StageComparison], *, foreign: bool) -> list[StageComparison]:
        """`compared`, with a FAIL where a product errs by more than all do, and no other FAIL for what may be meant.

        `foreign` is whether all that fails rests on weights: then those may be another model's.
        """
        cause = self.engine.cause
        if cause is None:
            return list(compared)
        of_class = [stage for stage in compared if stage.node in cause.found.nodes]
        if cause.is_exact and cause.changes:
            meant = cause.found.may_be_meant
            self.local = frozenset(
                stage.node
                for stage in of_class
                if (stage.verdict.verdict is not Verdict.PASS if meant else not self._is_reproduced(stage))
            )
            return list(compared)
        errors = {stage.node: _worst(stage) for stage in of_class}
        self.local = standing_out(errors)
        return [self._by_the_others(stage, errors, foreign=foreign) for stage in compared]

    def findings(self, compared: Sequence[StageComparison]) -> tuple[Everywhere, ...]:
        """What is wrong everywhere, without the stages that err by more; nothing where none of it was compared."""
        cause = self.engine.cause
        if cause is None:
            return ()
        held = {stage.node for stage in compared}
        nodes = tuple(node for node in cause.found.nodes if node in held - self.local)
        return (replace(cause.found, nodes=nodes),) if nodes else ()

    def _is_reproduced(self, stage: StageComparison) -> bool:
        """Whether a stage is what the cause gives, within the bound of an honest engine."""
        assert self.engine.cause is not None
        known = under_cause(self.engine.arithmetic, self.engine.cause)
        recomputation = Recomputation(self.model, known.rounding, self.evaluators, known.outputs)
        found = Recomputer(self.model, self.stages, recomputation).recompute(stage.node, stage.shape[-2])
        values = np.ascontiguousarray(self.stages.values(stage.node))
        error = measure(np.ascontiguousarray(found.values), values).metrics.token_rel_l2
        bound = Spreads(self.model, self.stages, known, self.evaluators).bound(stage.node, found).bound
        searched = known.rounding.input_limit != self.engine.rounding.input_limit
        return error is not None and error <= max(bound, _OF_A_SEARCH if searched else 0.0)

    def _by_the_others(
        self, stage: StageComparison, errors: Mapping[Node, float], *, foreign: bool
    ) -> StageComparison:  # fmt: skip
        assert self.engine.cause is not None
        verdict, node = stage.verdict, stage.node
        failed = verdict.verdict is Verdict.FAIL
        if node in self.local and not failed:
            others = max(error for other, error in errors.items() if other.stage == node.stage and other != node)
            bound = STANDS_OUT * others
            return replace(
                stage, verdict=replace(verdict, verdict=Verdict.FAIL, bound=bound, floor=others, reason=_ALONE)
            )
        # Weights of another model are in its embedding too.
        other = self.engine.cause.found.looks_like is None and self.model.graph[node.stage].op is Op.EMBED
        alike = node in errors or foreign or other
        alike = alike and node not in self.local and verdict.metric is not Metric.NON_FINITE
        if failed and alike and self.engine.cause.found.may_be_meant:
            return replace(stage, verdict=replace(verdict, verdict=Verdict.UNKNOWN, reason=ALIKE))
        return stage


def _worst(stage: StageComparison) -> float:
    return stage.metrics.token_rel_l2 or 0.0
