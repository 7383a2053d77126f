"""The paths of our own engine: run, and reported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.progress import ProgressLine
from aprtui.errors import VERDICT_CODES, UsageError

if TYPE_CHECKING:
    from aprtui.engine.faults.faults import Fault
    from aprtui.engine.paths.parity import PathFinding, PathParity
    from aprtui.model.model import Model


def run_paths(
    model: Model, tokens: Sequence[int], backend: str, mode: str, threads: int | None, inject: Sequence[str],
    as_json: bool,
) -> int:  # fmt: skip
    """Run every path on `tokens` and print how they came out; returns the exit code of the verdict."""
    from aprtui.engine.paths.parity import PathRequest, measure_parity
    from aprtui.engine.protocol import Mode

    faults = [_fault(text, model) for text in inject]
    for pattern, fault in faults:
        click.echo(f"aprtui: injected fault: path={pattern},{fault}", err=True)
    with ProgressLine() as progress:
        found = measure_parity(model, PathRequest(tokens, backend, Mode(mode), threads, faults), progress)
    if as_json:
        for one in found.findings:
            write_record({"record": "path", **_record(one)})
        first = None if found.first is None else found.first.name
        write_record(
            {"record": "summary", "verdict": found.verdict, "reference": found.reference, "first": first,
             "paths": len(found.findings) + 1, "tokens": len(tokens), "mode": mode}
        )  # fmt: skip
    else:
        click.echo("\n".join(_lines(found, model, len(tokens), mode)))
    return VERDICT_CODES[found.verdict]


def _fault(text: str, model: Model) -> tuple[str, Fault]:
    """The pattern of paths and the fault of one --inject."""
    from aprtui.engine.faults.faults import parse_fault

    pieces = text.split(",")
    named = [piece for piece in pieces if piece.strip().startswith("path=")]
    if len(named) != 1:
        raise UsageError(f"--inject {text!r}: says no path: expected path=PATH,layer=N,stage=NAME,kind=KIND")
    return named[0].strip().removeprefix("path="), parse_fault(
        ",".join(piece for piece in pieces if piece is not named[0]), model
    )


def _record(finding: PathFinding) -> dict[str, Any]:
    parting, logits = finding.parting, finding.logits
    where = None
    if parting is not None:
        where = {
            "layer": parting.node.layer, "stage": parting.node.stage, "token": parting.token,
            "channel": parting.channel, "rel_l2": parting.error, "expected": parting.expected, "found": parting.found,
        }  # fmt: skip
    return {
        "path": finding.name, "says": finding.says, "held_to": finding.held_to, "verdict": finding.verdict,
        "reason": finding.reason, "stages": finding.stages, "tokens": finding.tokens, "parting": where,
        "kl": None if logits is None else logits.kl, "flips": None if logits is None else logits.flips,
    }  # fmt: skip


def _lines(parity: PathParity, model: Model, tokens: int, mode: str) -> Iterator[str]:
    from aprtui.cli.comparison.render import wrapped
    from aprtui.compare.verdict import Verdict
    from aprtui.compare.wording import number_text
    from aprtui.errors import printable

    yield f"model  {printable(str(model.path))}"
    yield f"       {tokens} tokens, mode {mode}; all paths are held against {parity.reference}"
    yield ""
    width = max(len(finding.name) for finding in parity.findings)
    yield f"{'path':<{width}}  {'verdict':<8}{'held to':<19}{'KL':>9}  what differs about it"
    for finding in parity.findings:
        logits = finding.logits
        divergence = "–" if logits is None else number_text(logits.kl)
        top = ", another first token" if logits is not None and logits.flips else ""
        yield f"{finding.name:<{width}}  {finding.verdict:<8}{finding.held_to:<19}{divergence:>9}  {finding.says}{top}"
    yield ""
    for finding in parity.findings:
        if finding.verdict is not Verdict.PASS and finding is not parity.first:
            yield from wrapped(finding.name, finding.reason)
    yield from wrapped(str(parity.verdict), verdict_text(parity))


def verdict_text(parity: PathParity) -> str:
    """The verdict in a sentence."""
    from aprtui.compare.verdict import Verdict
    from aprtui.compare.wording import counted

    total = len(parity.findings) + 1
    if parity.verdict is Verdict.PASS:
        bits = 1 + sum(finding.held_to == "the bit" for finding in parity.findings)
        exactly = f", {bits} of them to the bit" if bits > 1 else ""
        return f"{counted(total, 'path')} give the same numbers{exactly}"
    failed = [finding for finding in parity.findings if finding.verdict is Verdict.FAIL]
    if not failed:
        return f"{sum(f.verdict is Verdict.UNKNOWN for f in parity.findings)} of {total} paths cannot be judged"
    first = parity.first or failed[0]
    others = f"; {len(failed)} of {total} paths do" if len(failed) > 1 else f"; the other {total - 1} agree"
    said = first.reason.removeprefix("parts ")
    return f"{first.name} parts first, {said}{others}" if said != first.reason else f"{first.name}: {said}{others}"
