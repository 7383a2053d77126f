"""Two sums that are wrong because of what stands between them: an op that reads one of the terms, and not the sum.

Where a sum was captured as the input of the op behind it, as hooks of a framework have it, the capture shows no more
than that the first sum lacks a term, and that the next one has it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aprtui.engine.alternatives.alternative import Attempt
from aprtui.engine.alternatives.results import source_words
from aprtui.engine.replay.causes.failing import Failing, residue
from aprtui.engine.replay.causes.proof import Proof
from aprtui.trace.graph.ops import Op, Part
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph


def read_past(proofs: Sequence[Proof], graph: StageGraph) -> list[Proof]:
    """`proofs`; one in place of two where the second sum is made of the first as it should be."""
    by_node = {proof.failing.node: proof for proof in proofs}
    instead: dict[Node, Proof | None] = {}
    for node, proof in by_node.items():
        term = _single_term(proof.failing, graph)
        if term is None:
            continue
        behind = [other for other in graph.nodes if node in graph.inputs(other)]
        sums = [other for other in behind if graph[other.stage].op is Op.ADD]
        readers = tuple(other for other in behind if other not in sums)
        if readers and sums and all(_takes_the_sum(other, by_node, proof.failing) for other in sums):
            also = tuple(by_node[other].failing for other in sums)
            instead |= {node: replace(_as_reading(proof, term, readers), also=also), **dict.fromkeys(sums)}
    return [found for proof in proofs if (found := instead.get(proof.failing.node, proof)) is not None]


def _single_term(failing: Failing, graph: StageGraph) -> Node | None:
    """The only term of a sum that its values have; None where they are something else."""
    if graph[failing.node.stage].op is not Op.ADD:
        return None
    terms = zip(graph.inputs(failing.node), failing.call.inputs, strict=True)
    return next((term for term, x in terms if residue(x, failing.found, is_map=False) <= failing.bound), None)


def _takes_the_sum(node: Node, by_node: Mapping[Node, Proof], before: Failing) -> bool:
    """Whether a sum that fails comes out as captured where the sum `before` it is the model's."""
    if node not in by_node:
        return False
    failing = by_node[node].failing
    sources = failing.call.model.graph.inputs(node)
    inputs = [before.own if source == before.node else x
              for source, x in zip(sources, failing.call.inputs, strict=True)]  # fmt: skip
    fits = all(x.shape == failing.own.shape for x in inputs)
    return fits and residue(failing.call.honest(*inputs), failing.found, is_map=False) <= failing.bound


def _as_reading(proof: Proof, term: Node, readers: tuple[Node, ...]) -> Proof:
    """The proof of a sum that lacks a term, said of the ops that read it."""
    node = proof.failing.node
    words = f"reads {source_words(node, term, Part.WHOLE)} in place of {node.stage}"
    best = replace(proof.best, node=readers[0], nodes=readers, attempt=Attempt(words, proof.best.attempt.compute))
    return Proof(proof.failing, best)
