"""The search where more than a layer lies between captured stages, as where logits alone were captured.

Code that is wrong is wrong in every layer, so an alternative is tried at all nodes on the way that it concerns, at
once; then at those of one name, as keys alone. What the engine rounds cannot be told from values that its mistake has
put off: it is found out again under each of the nearest alternatives. Where that leaves it open, or honest engines part
by much, an alternative must leave far less than the model's own way to be proved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aprtui.compare.comparison import StageComparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.alternatives.call import AlternativeNodes, Array, StageCall
from aprtui.engine.replay.arithmetic import KnownArithmetic, NodeEvaluators
from aprtui.engine.replay.causes.failing import Failing, SearchedRun
from aprtui.engine.replay.causes.proof import FAR, ChangedNodes, Judge, Proof, TriedAttempt, is_as_near, nearest_proof
from aprtui.engine.replay.causes.whole_scan import Scanned, WholeScan, changed, recomputed
from aprtui.engine.replay.identify import identify
from aprtui.engine.replay.spread import Spreads
from aprtui.progress import Progress
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

_LOOKED_AT = 3
"""Alternatives under which the engine's arithmetic is looked for: the nearest."""
_CLEARLY = 10.0
"""What the model's own way must leave, times what an alternative leaves, where an honest engine may leave more than a
fifth of it: 99 % of the squared error is explained then."""
_EXACT = 1e-5
"""What is left by nothing but last bits: no other alternative comes nearer."""
_MOST_WORK = 10**11
"""Weights times tokens, for each alternative that is tried: some minutes for all of them on two cores."""


@dataclass(slots=True)
class WholeSearch:
    """Looks for the cause of a stage that fails behind whole layers of which nothing was captured; `left_out` says why
    none was looked for, where there is too much to compute."""

    run: SearchedRun
    judge: Judge
    left_out: str = ""
    _is_fruitless: bool = False

    @np.errstate(all="ignore")
    def look(
        self, stage: StageComparison, proofs: Sequence[Proof], progress: Progress
    ) -> tuple[Proof | None, Sequence[TriedAttempt]]:  # fmt: skip
        """The proof at the end of a segment, and what was tried for it: what `proofs` hold, where they hold any."""
        if self._is_fruitless or self._is_too_much(stage):
            return None, ()
        known = {part.name for proof in proofs for part in proof.best.parts}
        scan = WholeScan(self.run, self.run.failing(stage, self.run.known), known, progress)
        if not np.isfinite(scan.failing.found).all():
            # Whatever else overflows comes out alike.
            return None, ()
        scanned: list[Scanned] = []
        proof, outcomes = None, list[TriedAttempt]()
        for tried in (scan.at_all_nodes, scan.at_nodes_of_one_name):
            scanned += tried()
            proof, outcomes = self._nearest(scan.failing, sorted(scanned, key=lambda one: one.residue))
            if proof is not None and proof.best.residue <= _EXACT:
                break
        self._is_fruitless = proof is None and not known
        return proof, outcomes

    def _is_too_much(self, stage: StageComparison) -> bool:
        way = (*stage.segment, stage.node)
        weights = sum(weight.rows * weight.columns for node in way for weight in self.run.model.params(node))
        tokens = len(self.run.stages.tokens)
        if weights * tokens <= _MOST_WORK:
            return False
        would_do = f"{_MOST_WORK // weights} would do" if weights <= _MOST_WORK else "the outputs of layers would do"
        what = f"the cause at {stage.node}"
        if stage.verdict.verdict is Verdict.PASS:
            what = f"whether a mistake in all layers is hidden in what {stage.node} passes by"
        self.left_out = (
            f"{what} was not looked for: {len(stage.segment)} stages before it were not captured, and {tokens} tokens "
            f"are too many to compute them again for each alternative; {would_do}"
        )
        return True

    def _nearest(
        self, failing: Failing, scanned: Sequence[Scanned]
    ) -> tuple[Proof | None, list[TriedAttempt]]:  # fmt: skip
        """The proof among what was scanned, the nearest first."""
        judged: list[tuple[Failing, TriedAttempt]] = []
        for one in scanned[:_LOOKED_AT]:
            is_proved = any(outcome.is_proved for _, outcome in judged)
            if one.residue * FAR > failing.error or (is_proved and not is_as_near(one.residue, scanned[0].residue)):
                break
            judged.append(self._judged(failing, one.change))
        outcomes = [outcome for _, outcome in judged]
        outcomes += [self._refused(failing, one) for one in scanned[len(judged) :]]
        proof = nearest_proof(failing, outcomes)
        if proof is not None:
            proof = replace(proof, failing=next(under for under, outcome in judged if outcome is proof.best))
        return proof, outcomes

    def _judged(self, failing: Failing, change: ChangedNodes) -> tuple[Failing, TriedAttempt]:
        """What an alternative leaves of an engine whose arithmetic is found out under it."""
        run, evaluators = self.run, changed(self.run, change)
        known = identify(run.stages, run.stated, evaluators, lambda what, done, total: self.judge.tick()).arithmetic
        found = recomputed(run, failing, known, evaluators)
        spreads = Spreads(run.model, run.stages, known, evaluators)
        tolerance, is_open = spreads.bound(failing.node, found), spreads.open_ops(failing.node, found.segment)
        bound = tolerance.limit if is_open and tolerance.limit is not None else tolerance.bound
        under, values = replace(failing, bound=bound, known=known), np.ascontiguousarray(found.values)
        outcome = self._at(self.judge.outcome(under, change.alternative, change.attempt, values), change)
        if not outcome.is_proved:
            return under, outcome
        may_leave_much = is_open or bound * FAR > failing.error
        times, own = _CLEARLY if may_leave_much else FAR, self._own_way(failing, known, change)
        if outcome.residue * times > own:
            refuted = f"the model's own way may leave {own:.2g} as well, which is not {times:g} times as much"
            if may_leave_much:
                refuted = f"honest engines may leave {bound:.2g} under it, and {refuted}"
            outcome = replace(outcome, refuted=refuted)
        return under, outcome

    def _own_way(self, failing: Failing, known: KnownArithmetic, change: ChangedNodes) -> float:
        """The least that the model's own way leaves: under the arithmetic that was known, under the one that is found
        with an alternative, and with the experts that are chosen then.

        Of two experts that are about as probable, a change of last bits chooses the other, which may be all that an
        alternative does.
        """
        run = self.run
        own = recomputed(run, failing, known, run.evaluators)
        ways = [own]
        chosen = frozenset(node for node in own.segment if run.model.graph[node.stage].op is Op.CHOOSE_EXPERTS)
        if chosen and chosen.isdisjoint(change.at):
            choices = dict[Node, Array]()

            def choose(call: StageCall) -> Array:
                return choices.setdefault(call.node, call.honest())

            recomputed(run, failing, known, self._computing(choose, chosen, changed(run, change)))
            as_chosen = self._computing(lambda call: choices[call.node], chosen, run.evaluators)
            ways.append(recomputed(run, failing, known, as_chosen))
        return min(failing.error, *(run.left(failing, way.values) for way in ways))

    def _computing(
        self, compute: Callable[[StageCall], Array], at: frozenset[Node], evaluators: NodeEvaluators
    ) -> NodeEvaluators:  # fmt: skip
        model = self.run.model
        return lambda angles: AlternativeNodes(model, angles, evaluators(angles), compute, at, {})

    def _refused(self, failing: Failing, scanned: Scanned) -> TriedAttempt:
        change, own = scanned.change, failing.error
        refuted = f"the model's own way leaves {own:.2g}, which is not {FAR:g} times as much"
        if scanned.residue * FAR <= own:
            refuted = "others come nearer"
        node, parts = failing.node, (change.alternative,)
        one = TriedAttempt(node, change.alternative, change.attempt, scanned.residue, refuted, (node,), parts, change)
        return self._at(one, change)

    def _at(self, outcome: TriedAttempt, change: ChangedNodes) -> TriedAttempt:
        """An outcome at the changed nodes."""
        nodes = tuple(sorted(change.at, key=self.run.model.graph.order.__getitem__))
        return replace(outcome, node=nodes[-1], nodes=nodes, change=change)
