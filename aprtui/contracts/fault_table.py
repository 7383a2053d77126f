"""Claim × fault: which faults turn a falsifier red. One that no fault can fail proves nothing by passing.

A falsifier of captures is judged on honest captures of a model first, and then on captures with one fault each: a fault
of the matrix in a stage, or a file that a writer got wrong. Faults are not declared to the check. Checks that place a
divergence pass where they find its stage; they are named where they misfire.
"""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.arguments import BACKENDS, DEVICES_DIFFER, LAYERS, STAGES, CheckSubject, wanted_nodes
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.checks.pairs import COSINE
from aprtui.contracts.checks.registry import CHECKS, CaptureCheck, PairCheck
from aprtui.contracts.checks.vacuous import why_vacuous
from aprtui.contracts.documents.document import CheckCall, Document, Falsifier
from aprtui.contracts.evaluation import evaluate
from aprtui.contracts.evidence.about import ABOUT
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.faults.faults import Fault, FaultInjector
from aprtui.engine.faults.kinds import KINDS, applies
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Logits, Mode
from aprtui.model.model import Model
from aprtui.progress import Progress, no_progress
from aprtui.trace.aprt import HEADER_BYTES
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Scope
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import read_manifest, relative_path, write_manifest

PROMPT = "def fib(n):\n    if n < 2:\n        return n\n"
POSITIONS, PREFILL = 10, 5
LOCALISERS = frozenset({"one_adjacent_pair", "one_origin", "divergence_localised"})
"""Checks that hold where they place a fault: without one they judge nothing."""
GRAPH_REL_L2 = 1e-3
"""How far a stage may be from the reference, in relative L2, for the stage graph's own rule."""


@dataclass(frozen=True, slots=True)
class PlacedFaults:
    """The faults that a check `places` where they are, that it puts elsewhere (`misfired`), and that it does not see
    (`missed`)."""

    check: CheckCall
    places: tuple[str, ...]
    missed: tuple[str, ...]
    misfired: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FaultRow:
    """What becomes of one falsifier under the faults: those that it `caught`, those that it passes (`missed`), those
    that leave it nothing to judge (`refused`), and those that a check which places faults puts at another stage, or at
    two (`misfired`). `vacuous` says why nothing can fail it; empty where something can. `beside` is what the stage
    graph's own rule makes of the same faults, for a check that places them by another one."""

    document: Document
    falsifier: Falsifier
    check: CheckCall
    honest: Verdict
    caught: tuple[str, ...]
    missed: tuple[str, ...]
    refused: tuple[str, ...]
    misfired: tuple[str, ...]
    vacuous: str
    beside: PlacedFaults | None = None


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _bytes_added(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(4))


def _other_layer(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", 7)
    path.write_bytes(bytes(data))


def _zeroed(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:HEADER_BYTES] + bytes(len(data) - HEADER_BYTES))


def _half_written(path: Path) -> None:
    """Half of the values, in a file that says so: nothing is wrong with it but its size."""
    data = path.read_bytes()
    count = (len(data) - HEADER_BYTES) // 8
    path.write_bytes(data[:8] + struct.pack("<I", count) + data[HEADER_BYTES : HEADER_BYTES + 4 * count])


def _left_over(path: Path) -> None:
    """A file of a layer that was not asked for."""
    other = path.parent.parent / "layer-2" if path.parent.name.startswith("layer-") else path.parent / "layer-2"
    other.mkdir(exist_ok=True)
    shutil.copy(path, other / "ffn_up.bin")


FILE_FAULTS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {
        "file cut off": _cut_off, "bytes added to a file": _bytes_added, "another layer in a header": _other_layer,
        "values zeroed in a file": _zeroed, "half of a file's values": _half_written, "file missing": Path.unlink,
        "file of another layer": _left_over,
    }
)  # fmt: skip


_UNNOTICED = frozenset({_other_layer, _zeroed, _half_written})
"""Faults that the writer did not notice: the manifest lists the file as it is."""


def _list_again(capture: Path, path: Path) -> None:
    manifest = read_manifest(capture)
    assert manifest is not None, "every capture here was written with one"
    data, name = path.read_bytes(), path.relative_to(capture).as_posix()
    listed = replace(manifest.files[name], bytes=len(data), crc32=zlib.crc32(data))
    write_manifest(capture, replace(manifest, files={**manifest.files, name: listed}))


class FaultTable:
    """The honest and the faulty captures of one model, each made once, below `folder`."""

    def __init__(self, model: Model, folder: Path, progress: Progress = no_progress) -> None:
        self.model, self._folder, self._progress = model, folder, progress
        self.tokens = tuple(model.tokenizer.encode(PROMPT, special=True))[:POSITIONS]
        self._captures: dict[str, Capture] = {}

    def rows(self, chosen: Sequence[tuple[Document, Falsifier, CheckCall]]) -> Iterator[FaultRow]:
        """A row for each falsifier that is judged on captures."""
        for done, (document, falsifier, check) in enumerate(chosen):
            self._progress(f"planting faults for {falsifier.id},", done, len(chosen))
            kind = CHECKS.get(check.name)
            if isinstance(kind, PairCheck) or (isinstance(kind, CaptureCheck) and not kind.of_program):
                yield self._row(document, falsifier, check)

    def _row(self, document: Document, falsifier: Falsifier, check: CheckCall) -> FaultRow:
        check = replace(check, parameters={key: value for key, value in check.parameters.items() if key != ABOUT})
        beside = None
        if check.name in LOCALISERS:
            placed = self._placed(document, check)
            caught, missed, misfired = placed.places, placed.missed, placed.misfired
            refused: tuple[str, ...] = ()
            if (own := _by_the_graph(check)) != check:
                beside = self._placed(document, own)
        else:
            caught, missed, refused = self._caught(document, check)
            misfired = ()
        nothing = "" if caught or misfired else "no fault of the matrix fails it"
        honest = self._judged(document, check, self._honest(check)).verdict
        vacuous = why_vacuous(check) or nothing
        return FaultRow(document, falsifier, check, honest, caught, missed, refused, misfired, vacuous, beside)

    def _caught(self, document: Document, check: CheckCall) -> tuple[tuple[str, ...], ...]:
        verdicts = {
            kind: self._judged(document, check, self._planted(kind, node)).verdict
            for kind, node in self.planted().items()
        }
        for name, spoil in FILE_FAULTS.items():
            verdicts[name] = self._judged(document, check, self._spoilt(check, spoil)).verdict
        order = (Verdict.FAIL, Verdict.PASS, Verdict.UNKNOWN)
        return tuple(tuple(name for name, found in verdicts.items() if found is verdict) for verdict in order)

    def _placed(self, document: Document, check: CheckCall) -> PlacedFaults:
        """What a check makes of the faults in its stages."""
        places: tuple[list[str], list[str], list[str]] = ([], [], [])
        # Nothing comes before the first stage of a chain, so a fault there is no fall between two.
        for kind, node in self.planted(wanted_nodes(self.model.graph, check.parameters)[0][1:]).items():
            judged = self._judged(document, check, self._planted(kind, node))
            right = judged.verdict is Verdict.PASS and judged.nodes[-1:] == (node,)
            places[0 if right else 1 if judged.verdict is Verdict.UNKNOWN else 2].append(f"{kind} at {node.stage}")
        return PlacedFaults(check, *map(tuple, places))

    def planted(self, among: Sequence[Node] = ()) -> dict[str, Node]:
        """The kinds of faults that the model can have (of those `among` its nodes, where some are given), each with the
        first stage of a layer that it applies to."""
        found: dict[str, Node] = {}
        for kind in KINDS:
            nodes = [node for node in among or self.model.graph.nodes if applies(kind, self.model, node)]
            inside = [node for node in nodes if self.model.graph[node.stage].scope is Scope.LAYER]
            if nodes:
                found[kind] = (inside or nodes)[0]
        return found

    def _judged(self, document: Document, check: CheckCall, capture: Capture) -> Judgement:
        reference = self._plain("reference") if isinstance(CHECKS[check.name], PairCheck) else None
        sides = _as_claimed(check, capture, reference)
        return evaluate(document, check, CheckSubject(*sides, self.model))

    def _honest(self, check: CheckCall) -> Capture:
        kind = CHECKS[check.name]
        if isinstance(kind, CaptureCheck) and kind.plants:
            return self._capture(f"honest-{kind.plants}", self._fault(kind.plants, self.planted()[kind.plants]), True)
        if check.name == "layer_subset":
            return self._capture("subset", None, nodes=self._subset(check))
        if check.name == "completion_parses":
            return self._capture("generated", None, generate=24)
        return self._plain("honest")

    def _subset(self, check: CheckCall) -> frozenset[Node]:
        named = check.parameters if LAYERS in check.parameters else {**check.parameters, LAYERS: "0..2"}
        wanted, _ = wanted_nodes(self.model.graph, {key: named[key] for key in (STAGES, LAYERS) if key in named})
        return frozenset(wanted)

    def _plain(self, name: str) -> Capture:
        return self._capture(name, None)

    def _planted(self, kind: str, node: Node) -> Capture:
        return self._capture(f"fault-{kind}-{node.layer}-{node.stage}", self._fault(kind, node))

    def _fault(self, kind: str, node: Node) -> Fault:
        limits = {"limit": 0.5} if "limit" in KINDS[kind].parameters else {}
        return Fault(kind, node, limits)

    def _spoilt(self, check: CheckCall, spoil: Callable[[Path], None]) -> Capture:
        """An honest capture, one of whose files is spoilt: the first that the check is about."""
        honest = self._honest(check)
        kind = CHECKS[check.name]
        assert isinstance(kind, CaptureCheck | PairCheck)
        parameters = dict(check.parameters)
        if kind.stages and STAGES not in parameters:
            parameters[STAGES] = list(kind.stages)
        nodes = [node for node in wanted_nodes(honest.graph, parameters)[0] if node in honest.files]
        holding = [node for node in nodes if np.isnan(honest.values(node)).any()] or nodes or list(honest.files)
        copy = self._folder / "spoilt"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(honest.path, copy)
        spoilt = holding[-1] if spoil is Path.unlink else holding[0]
        path = copy / relative_path(spoilt)
        spoil(path)
        if path.exists() and spoil in _UNNOTICED:
            _list_again(copy, path)
        return Capture.open(copy)

    def _capture(
        self, name: str, fault: Fault | None, declared: bool = False, nodes: frozenset[Node] | None = None,
        generate: int = 0,
    ) -> Capture:  # fmt: skip
        if name not in self._captures:
            injector = None if fault is None else FaultInjector(self.model, Mode.EXACT, [fault])
            context = len(self.tokens) + generate
            engine = open_engine(self.model, context=context, intervention=injector)
            wanted = frozenset(self.model.graph.nodes) if nodes is None else nodes
            prefill = None if generate else PREFILL
            request = CaptureRequest(self.tokens, PROMPT, wanted, Logits.ALL, prefill, generate)
            with closing(engine):
                faults = (fault,) if fault is not None and declared else ()
                write_capture(engine, self.model, request, self._folder / name, overwrite=True, faults=faults)
            self._captures[name] = Capture.open(self._folder / name)
        return self._captures[name]


def _by_the_graph(check: CheckCall) -> CheckCall:
    """The stage graph's own rule with the bound and the stages of a check that places faults."""
    bound = check.parameters.get("at_least", check.parameters.get("below", COSINE))
    parameters = {name: value for name, value in check.parameters.items() if name not in ("at_least", "below")}
    return CheckCall("one_origin", {**parameters, "at_least": bound, "at_most": GRAPH_REL_L2}, check.line)


def _as_claimed(check: CheckCall, capture: Capture, reference: Capture | None) -> tuple[Capture, Capture | None]:
    """The captures as if they were of the backends that the claim is about: what is tested is the check."""
    named = check.parameters.get(BACKENDS)
    backends = list(named) if isinstance(named, list) and named else []
    if check.parameters.get(DEVICES_DIFFER):
        backends = ["cpu", "cuda"]
    first = _of_backend(capture, backends[-1]) if backends else capture
    return first, reference if reference is None or not backends else _of_backend(reference, backends[0])


def _of_backend(capture: Capture, backend: str) -> Capture:
    assert capture.manifest is not None, "every capture here was written with one"
    engine = replace(capture.manifest.engine, backend=backend)
    return replace(capture, manifest=replace(capture.manifest, engine=engine))
