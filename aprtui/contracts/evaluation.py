"""Judging a falsifier by its check: find the cells that it is about, and say why it cannot be judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.arguments import (
    BACKENDS,
    DEVICES_DIFFER,
    LAYERS,
    STAGES,
    CaptureArguments,
    CheckArguments,
    CheckSubject,
    PairArguments,
    layers_text,
    named_stages,
    wanted_nodes,
)
from aprtui.contracts.checks.judgement import Judgement, no_device, not_testable, unknown
from aprtui.contracts.checks.registry import CHECKS, CaptureCheck, ContractCheck, ModelCheck, PairCheck
from aprtui.contracts.checks.vacuous import why_vacuous
from aprtui.contracts.documents.document import CheckCall, Document
from aprtui.contracts.evidence.about import ABOUT, about_of, on_subject
from aprtui.contracts.evidence.recording import judged_on
from aprtui.engine.backends.registry import device_backends, is_host
from aprtui.errors import AprtuiError
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node

_COMMON: Mapping[type, frozenset[str]] = {
    ContractCheck: frozenset(),
    ModelCheck: frozenset({ABOUT}),
    CaptureCheck: frozenset({STAGES, LAYERS, BACKENDS, ABOUT}),
    PairCheck: frozenset({STAGES, LAYERS, BACKENDS, DEVICES_DIFFER, ABOUT}),
}
"""Parameters that every check of a kind takes beside its own."""


def evaluate(document: Document, call: CheckCall, subject: CheckSubject) -> Judgement:
    """The judgement on the falsifier of `document` that is bound to the check `call`.

    Nothing that a contract or a capture holds makes this raise: an error there is the reason of a verdict UNKNOWN.
    """
    check = CHECKS.get(call.name)
    if check is None:
        return unknown(f"no check is called {call.name!r}: there are {', '.join(CHECKS)}")
    takes = check.parameters | _COMMON[type(check)]
    odd = sorted(set(call.parameters) - takes)
    if odd:
        return unknown(f"check {call.name} takes no {odd[0]!r}: it takes {', '.join(sorted(takes)) or 'nothing'}")
    if isinstance(check, ContractCheck):
        return check.judge(document)
    try:
        about = about_of(call)
        if isinstance(check, ModelCheck):
            judgement = check.judge(CheckArguments(call.parameters, subject.model))
        else:
            judgement = _on_captures(check, call, subject)
        if about.names:
            judgement = on_subject(judgement, about, judged_on(call, subject))
        return _unless_vacuous(judgement, call)
    except AprtuiError as error:
        return unknown(str(error))


def _unless_vacuous(judgement: Judgement, call: CheckCall) -> Judgement:
    """`judgement`, but UNKNOWN for a PASS that nothing could have failed."""
    vacuous = why_vacuous(call) if judgement.verdict is Verdict.PASS else ""
    if not vacuous:
        return judgement
    return replace(judgement, verdict=Verdict.UNKNOWN, reason=f"vacuous, {vacuous}: {judgement.reason}")


def _on_captures(check: CaptureCheck | PairCheck, call: CheckCall, subject: CheckSubject) -> Judgement:
    parameters: Mapping[str, Any] = call.parameters
    no_cuda = _missing_device(CheckArguments(parameters, None).texts(BACKENDS), subject)
    if no_cuda is not None:
        return no_cuda
    capture = subject.capture
    if capture is None:
        return unknown("no capture is at hand: make one as the test says, and give it as --capture")
    if check.stages and STAGES not in parameters:
        parameters = {**parameters, STAGES: list(check.stages)}
    nodes, missing = wanted_nodes(capture.graph, parameters)
    sides = [capture]
    if isinstance(check, PairCheck):
        if subject.reference is None:
            return unknown("needs a second capture to compare with: give it as --reference")
        sides.append(subject.reference)
    problem = _of_other_backends(sides, parameters)
    for side in sides:
        problem = problem or _not_captured(side, nodes, missing, parameters)
    if problem is not None:
        return problem
    held = tuple(node for node in nodes if all(node in side.files for side in sides))
    names_stages = bool(named_stages(parameters))
    if isinstance(check, PairCheck):
        assert subject.reference is not None
        judged = check.judge(PairArguments(parameters, subject.model, capture, held, names_stages, subject.reference))
    else:
        judged = check.judge(CaptureArguments(parameters, subject.model, capture, held, names_stages))
    return _of_a_part(judged, nodes, held, parameters)


def _of_other_backends(sides: list[Capture], parameters: Mapping[str, Any]) -> Judgement | None:
    """UNKNOWN for captures of other backends than the claim is about; None where they fit."""
    backends = [side.manifest.engine.backend if side.manifest else None for side in sides]
    devices = {"the processor" if is_host(backend) else backend for backend in backends}
    if parameters.get(DEVICES_DIFFER) and len(devices) == 1 and None not in devices:
        named = " and ".join(map(str, backends))
        return unknown(f"the captures are of {named}, one device: the claim is about two")
    if BACKENDS not in parameters or sorted(map(str, backends)) == sorted(parameters[BACKENDS]):
        return None
    named = " and ".join(backend or "an unknown one" for backend in backends)
    about = " and ".join(parameters[BACKENDS])
    return unknown(
        f"{'the captures are' if len(sides) > 1 else 'the capture is'} of {named}: the claim is about {about}"
    )


def _missing_device(backends: tuple[str, ...], subject: CheckSubject) -> Judgement | None:
    """UNKNOWN for a claim about a device that this machine lacks and no capture comes from; None otherwise."""
    sides = [side.manifest.engine.backend for side in (subject.capture, subject.reference) if side and side.manifest]
    for device in device_backends():
        if device.name in backends and device.name not in sides and (obstacle := device.obstacle()) is not None:
            return no_device(obstacle.problem)
    return None


def _not_captured(
    capture: Capture, nodes: tuple[Node, ...], missing: tuple[str, ...], parameters: Mapping[str, Any]
) -> Judgement | None:
    """UNKNOWN where `capture` lacks a stage that the falsifier names, in all of its layers; None otherwise."""
    if missing:
        return not_testable(missing[0])
    if any(node in capture.files for node in nodes):
        stages = {node.stage for node in nodes if node in capture.files}
        absent = [node.stage for node in nodes if node.stage not in stages]
        return not_testable(absent[0]) if absent and named_stages(parameters) else None
    where = f" in layers {layers_text(parameters)}" if LAYERS in parameters else ""
    return not_testable(f"{', '.join(named_stages(parameters)) or 'nothing'}{where}")


def _of_a_part(
    judged: Judgement, nodes: tuple[Node, ...], held: tuple[Node, ...], parameters: Mapping[str, Any]
) -> Judgement:
    """`judged`, but UNKNOWN for a PASS on only some cells of a claim that names layers, by number or as `all`."""
    if judged.verdict is not Verdict.PASS or LAYERS not in parameters or len(held) == len(nodes):
        return judged
    return replace(
        judged, verdict=Verdict.UNKNOWN, testable=False,
        reason=f"{judged.reason}; only {len(held)} of {len(nodes)} stages that the claim is about were captured",
    )  # fmt: skip
