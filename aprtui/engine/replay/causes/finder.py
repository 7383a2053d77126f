"""The walk over all that fails in a capture: each stage by its own captured inputs, so that every cause is found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from aprtui.compare.comparison import Cause, StageComparison, TriedAlternative
from aprtui.compare.verdict import Signal, Verdict
from aprtui.compare.wording import counted, listed
from aprtui.engine.replay.behind_layers import is_behind_layers, passes_by_floor, stands_alone
from aprtui.engine.replay.causes.failing import SearchedRun
from aprtui.engine.replay.causes.proof import Judge, Proof, TriedAttempt
from aprtui.engine.replay.causes.read_past import read_past
from aprtui.engine.replay.causes.segment_search import SegmentSearch
from aprtui.engine.replay.causes.stage_search import StageSearch
from aprtui.engine.replay.causes.whole_search import WholeSearch
from aprtui.engine.replay.errors_by_place import ErrorsByPlace
from aprtui.progress import Progress, no_progress
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

_PROVED = "computed in another way than the model's, which reproduces it"


@dataclass(frozen=True, slots=True)
class FoundCauses:
    """The causes that were proved, in execution order, and all that was tried, stage by stage. `faults` are nodes that
    are computed in a way that no engine means; `statements` say what was not looked for."""

    causes: tuple[Cause, ...] = ()
    alternatives: tuple[TriedAlternative, ...] = ()
    faults: frozenset[Node] = frozenset()
    statements: tuple[str, ...] = ()

    def judged(self, compared: Sequence[StageComparison]) -> list[StageComparison]:
        """`compared`, with a FAIL where a fault was proved that could be an unknown arithmetic before."""
        return [self._judged(stage) if stage.node in self.faults else stage for stage in compared]

    @staticmethod
    def _judged(stage: StageComparison) -> StageComparison:
        return replace(stage, verdict=replace(stage.verdict, verdict=Verdict.FAIL, reason=_PROVED))


@dataclass(slots=True)
class CauseFinder:
    """Looks for the causes of what fails in one capture."""

    run: SearchedRun
    places: ErrorsByPlace
    _judge: Judge = field(init=False)
    _of_stages: StageSearch = field(init=False)
    _of_segments: SegmentSearch = field(init=False)
    _of_layers: WholeSearch = field(init=False)

    def __post_init__(self) -> None:
        self._judge = Judge(self.run, self.places)
        self._of_stages = StageSearch(self.run, self._judge)
        self._of_segments = SegmentSearch(self.run, self._judge)
        self._of_layers = WholeSearch(self.run, self._judge)

    def find(
        self, compared: Sequence[StageComparison], alike: frozenset[Node], progress: Progress = no_progress
    ) -> FoundCauses:  # fmt: skip
        """The causes of the stages that fail, but for those that err `alike` everywhere."""
        failing = [stage for stage in compared if self._is_off(stage, compared) and stage.node not in alike]
        proofs: list[Proof] = []
        tried: tuple[TriedAlternative, ...] = ()
        for done, stage in enumerate(failing):
            self._judge.tick = partial(progress, f"looking for the cause at {stage.node},", done, len(failing))
            if is_behind_layers(stage):
                proof, outcomes = self._of_layers.look(stage, proofs, progress)
            else:
                search = self._of_segments if stage.segment else self._of_stages
                proof, outcomes = search.look(stage, proofs)
            if stage.verdict.verdict is Verdict.FAIL or proof is not None:
                tried += tuple(_records(stage.node, outcomes))
            if proof is not None:
                proofs.append(proof)
        faults = frozenset(
            proof.failing.node
            for proof in proofs
            if proof.failing.comparison.verdict.verdict is not Verdict.FAIL and not proof.best.alternative.may_be_meant
        )
        causes = tuple(self._causes(read_past(proofs, self.run.model.graph), compared))
        return FoundCauses(causes, tried, faults, tuple(filter(None, [self._of_layers.left_out])))

    def _is_off(self, stage: StageComparison, compared: Sequence[StageComparison]) -> bool:
        """Whether a stage with captured inputs fails, or would if its op's arithmetic were known.

        Where one stage behind whole layers is all there is to tell the arithmetic by, as where logits alone were
        captured, some coarse one explains what a mistake does, and its passing says little; unless the user's own bound
        says what may pass, which has no floor.
        """
        verdict = stage.verdict
        if verdict.signal is not Signal.INJECTED:
            return False
        if is_behind_layers(stage) and verdict.verdict is Verdict.PASS:
            return stands_alone(stage, compared, self.run.model.graph) and passes_by_floor(verdict)
        if stage.segment:
            return verdict.verdict is not Verdict.PASS
        op = self.run.model.graph[stage.node.stage].op
        is_open = verdict.verdict is Verdict.UNKNOWN and op in self.run.known.open_ops
        return verdict.verdict is Verdict.FAIL or is_open

    def _causes(self, proofs: Sequence[Proof], compared: Sequence[StageComparison]) -> Iterator[Cause]:
        groups: dict[tuple[str, str], list[Proof]] = {}
        for proof in proofs:
            groups.setdefault((proof.best.alternative.name, proof.best.attempt.words), []).append(proof)
        for (name, words), of_group in groups.items():
            nodes = tuple(dict.fromkeys(node for proof in of_group for node in proof.best.nodes))
            alike = tuple(dict.fromkeys(filter(None, (self._alike_words(p, one) for p in of_group for one in p.alike))))
            everywhere = _is_everywhere(nodes, compared)
            yield Cause(
                name, words, of_group[0].best.alternative.advice, nodes, everywhere,
                max(proof.failing.error for proof in of_group), max(proof.best.residue for proof in of_group),
                max(proof.failing.bound for proof in of_group), alike, self._told_apart_by(of_group) if alike else "",
                apart=tuple(self._uncaptured(of_group)), places=tuple(_places(of_group)),
                untold=() if everywhere else tuple(self._untold(of_group, nodes, compared)),
            )  # fmt: skip

    def _untold(
        self, proofs: Sequence[Proof], nodes: Sequence[Node], compared: Sequence[StageComparison]
    ) -> Iterator[int]:  # fmt: skip
        """The layers that pass, and do so with another number of the model as well: where values are large, another
        epsilon changes less than engines differ by."""
        best = proofs[0].best
        if not best.attempt.of_model or len(best.parts) > 1:
            return
        stages = {proof.failing.node.stage for proof in proofs}
        taken = {node.layer for node in (*nodes, *(proof.failing.node for proof in proofs))}
        by_layer: dict[int, list[StageComparison]] = {}
        for stage in compared:
            if stage.node.stage in stages and stage.node.layer is not None and stage.node.layer not in taken:
                by_layer.setdefault(stage.node.layer, []).append(stage)
        for layer, of_layer in by_layer.items():
            if all(self._may_be(stage, best) for stage in of_layer):
                yield layer

    def _may_be(self, stage: StageComparison, best: TriedAttempt) -> bool:
        if stage.verdict.verdict is not Verdict.PASS or is_behind_layers(stage):
            return False
        return (self._of_segments if stage.segment else self._of_stages).may_be(stage, best)

    def _alike_words(self, proof: Proof, one: TriedAttempt) -> str:
        """An alternative that comes out like the best: in its own words, or where it is, if these are the same.

        Empty where nothing is to be told apart: a mask is one, whether the softmax or its sums are computed with it.
        """
        words, graph = one.attempt.words, self.run.model.graph
        if words != proof.best.attempt.words:
            return words
        ops = {graph[node.stage].op for node in (*one.nodes, *proof.best.nodes)}
        same = set(one.nodes) == set(proof.best.nodes) or ops == {Op.SOFTMAX, Op.ATTEND}
        return "" if same else f"{listed(dict.fromkeys(node.stage for node in one.nodes))}: {words}"

    def _uncaptured(self, proofs: Sequence[Proof]) -> list[Node]:
        """Of stages at which alternatives differ that come out alike, those that were not captured."""
        nodes = dict.fromkeys(one.node for p in proofs if p.alike for one in (p.best, *p.alike))
        return [node for node in nodes if not self.run.stages.rows(node)]

    def _told_apart_by(self, proofs: Sequence[Proof]) -> str:
        """What would tell alternatives apart that come out alike: the stages at which they differ, or other values."""
        missing = dict.fromkeys(node.stage for node in self._uncaptured(proofs))
        if missing:
            return f"{listed(missing)} of the same run"
        return f"a longer prompt than these {counted(len(self.run.stages.tokens), 'token')}, if anything does"


def _records(node: Node, outcomes: Sequence[TriedAttempt]) -> Iterator[TriedAlternative]:
    for one in sorted(outcomes, key=_nearness):
        yield TriedAlternative(one.node, node, one.alternative.name, one.attempt.words, one.residue, one.refuted)


def _nearness(one: TriedAttempt) -> tuple[bool, int, float]:
    """Those that are proved come first, the simplest of them before those that leave less: one number says more than
    one for each channel pair."""
    return not one.is_proved, one.attempt.fitted if one.is_proved else 0, one.residue


def _places(proofs: Sequence[Proof]) -> Iterator[tuple[Node, Mapping[str, int]]]:
    """The value that is farthest off at each stage that shows a cause, where it lies in the file as in the model."""
    for failing in (one for proof in proofs for one in (proof.failing, *proof.also)):
        stage = failing.comparison
        if stage.place and not stage.reordered:
            yield stage.node, stage.place


def _is_everywhere(nodes: Sequence[Node], compared: Sequence[StageComparison]) -> bool:
    """Whether `nodes` are all compared layers of their stages, of which there are several."""
    stages = {node.stage for node in nodes}
    covered = {node for stage in compared for node in (*stage.segment, stage.node)}
    having = {node for node in covered if node.stage in stages}
    return len({node.layer for node in nodes}) > 1 and having == set(nodes)
