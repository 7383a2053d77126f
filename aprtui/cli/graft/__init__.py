"""`aprtui graft`: captured tensors put into our own forward pass, and what the logits become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aprtui.cli.comparison.options import warn_about
from aprtui.cli.json_lines import write_record
from aprtui.cli.options import MODEL, PATH, parse_tokens, requested_model
from aprtui.cli.progress import ProgressLine
from aprtui.engine.backends.registry import AUTO, backend_choices, evaluating_backends
from aprtui.errors import UsageError, printable

_CARRIES = 0.1
"""A smaller share of the error is not said to carry it."""

if TYPE_CHECKING:
    from aprtui.engine.grafting import GraftedLogits, Grafting, GraftReport, Worth
    from aprtui.trace.graph.stage import Node


@click.command()
@click.argument("capture", type=PATH)
@click.option("--model", type=MODEL, metavar="MODEL", help="The capture's model file; the embedded one by default.")
@click.option("--at", metavar="layer=N,stage=NAME", help="Graft this stage alone.")
@click.option("--until", metavar="layer=N,stage=NAME", help="With --at: graft all stages from there to this one.")
@click.option("--stage", "stages", metavar="STAGES", help="Graft these in turn: a comma list of stage names or globs.")
@click.option("--layers", metavar="LAYERS", help="With --stage: 0..2 (END excluded), a list 0,3 or all.")
@click.option(
    "--rounding", metavar="WHERE=WHAT,…", default="",
    help="What our pass rounds, as matmul_input=none; as the capture's engine does by default.",
)  # fmt: skip
@click.option("--tokens", metavar="1,2,3", help="Token ids, for a capture that records none.")
@click.option("--backend", type=click.Choice(backend_choices(evaluating_backends())), default=AUTO, show_default=True)
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads; all available cores by default.")
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True, metavar="K", help="Rows shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a graft, the summary last.")
def command(
    capture: Path, model: Path | None, at: str | None, until: str | None, stages: str | None, layers: str | None,
    rounding: str, tokens: str | None, backend: str, threads: int | None, limit: int, as_json: bool,
) -> None:  # fmt: skip
    """Put captured stage tensors into our own forward pass, and say what the logits become.

    Without --at or --stage, each layer in turn, and each stage of the layers that add most: how much of the error at
    the logits each of them is worth, the one that carries it first. Everything up to a stage is then as captured, and
    the rest is computed by us, once with that stage as captured and once with ours.

    --at puts one captured tensor into a pass that is otherwise ours as well; so does --stage, one after the other. The
    rest of a pass is always ours: what another engine would have made of a tensor cannot be asked of its files.

    Exit codes: 0 done, 2 usage, 3 unreadable input, 4 engine failed, 70 internal error, 130 interrupted.
    """
    if at is not None and (stages or layers):
        raise UsageError("--at and --stage: choose one of them")
    if until is not None and at is None:
        raise UsageError("--until: ends what --at begins: give --at as well")
    if layers is not None and stages is None:
        raise UsageError("--layers: says where the stages of --stage are: give --stage as well")
    from aprtui.cli.comparison.recordings import readable
    from aprtui.engine.grafting import Grafting
    from aprtui.engine.replay.arithmetic import parse_rounding
    from aprtui.engine.replay.evaluators import Evaluators
    from aprtui.engine.replay.form import in_form_of
    from aprtui.trace.capture import Capture

    loaded = requested_model(model)
    ids = None if tokens is None else tuple(parse_tokens(tokens, loaded.config.graph.vocabulary))
    with ProgressLine() as progress, readable(capture, lambda: loaded.graph, progress) as folder:
        opened = Capture.open(folder)
        warn_about(opened)
        fitting = in_form_of(opened, loaded, progress)
        with Evaluators(fitting, backend, threads, progress) as evaluators:
            stated = parse_rounding(rounding) if rounding else {}
            grafting = Grafting.of(opened, fitting, evaluators, progress, ids, stated)
            if at is not None:
                report = grafting.stretch(*_ends(grafting, at, until))
            else:
                report = grafting.report(() if stages is None else _chosen(grafting, stages, layers or "all"))
    if as_json:
        for worth in report.worths:
            write_record({"record": "graft", **_record(worth)})
        write_record(
            {"record": "summary", "capture": str(capture), "model": str(loaded.path), "tokens": report.total.rows,
             "kl": report.total.kl, "flips": report.total.flips, "noise": report.noise,
             "share_noise": report.share_noise, "explains": report.explains}
        )  # fmt: skip
        return
    click.echo("\n".join(_lines(report, capture, loaded.path, limit)))


def _ends(grafting: Grafting, at: str, until: str | None) -> tuple[Node, Node]:
    from aprtui.trace.select import parse_node

    graph = grafting.model.graph
    first = parse_node(at, graph, "--at")
    last = first if until is None else parse_node(until, graph, "--until")
    if graph.order[last] < graph.order[first]:
        raise UsageError(f"--until: {last} comes before {first}: name a stage behind it")
    return first, last


def _chosen(grafting: Grafting, stages: str, layers: str) -> Sequence[Node]:
    """The captured ones among the stages that are asked for. Raises `UsageError` where there is none."""
    from aprtui.trace.select import parse_layers, select_nodes, select_stages

    graph = grafting.model.graph
    wanted = select_nodes(graph, select_stages(stages, graph), parse_layers(layers, graph.layers))
    found = [node for node in grafting.nodes if node in wanted]
    if not found:
        raise UsageError(f"--stage {stages!r}: the capture holds none of them that fits the model")
    return found


def _record(worth: Worth) -> dict[str, Any]:
    def figures(logits: GraftedLogits | None) -> dict[str, Any] | None:
        return None if logits is None else {"kl": logits.kl, "kl_largest": logits.kl_largest, "flips": logits.flips}

    return {
        "layer": worth.first.layer, "stage": worth.first.stage,
        "until": None if worth.first == worth.last else {"layer": worth.last.layer, "stage": worth.last.stage},
        "share": worth.share, "ours_into_capture": figures(worth.before), "captured": figures(worth.after),
        "captured_into_ours": figures(worth.alone),
    }  # fmt: skip


def _name(worth: Worth) -> str:
    if worth.first == worth.last:
        return str(worth.first)
    if worth.whole_layer:
        return f"layer {worth.first.layer}"
    return f"{worth.first} … {worth.last}"


def _lines(report: GraftReport, capture: Path, model: Path, limit: int) -> Iterator[str]:
    from aprtui.cli.comparison.render import wrapped

    yield f"capture  {printable(str(capture))}"
    yield f"model    {printable(str(model))}"
    for statement in report.statements:
        yield from wrapped("       ", statement)
    yield from wrapped("error  ", _total(report))
    if report.explains or any(worth.alone is not None for worth in report.worths):
        yield ""
        yield from _table(report.worths, limit)
    yield ""
    yield from wrapped("answer ", carrier_text(report))


def _table(worths: Sequence[Worth], limit: int) -> Iterator[str]:
    shown = worths[:limit]
    width = max(len(_name(worth)) for worth in shown)
    alone = any(worth.alone is not None for worth in shown)
    own = f"{'alone in ours':>15}" if alone else ""
    yield "KL from our logits (tokens with another first one): all before a stage as captured, all behind it ours"
    yield f"{'worth':>9}  {'stage':<{width}}{'ours there':>13}{'as captured':>13}{own}"
    for worth in shown:
        share = "–" if worth.share is None else f"{worth.share:+.1%}".replace("%", " %")
        third = f"{_cell(worth.alone):>15}" if alone else ""
        yield f"{share:>9}  {_name(worth):<{width}}{_cell(worth.before):>13}{_cell(worth.after):>13}{third}"
    if len(worths) > limit:
        yield f"{'':>9}  {len(worths) - limit} more that are worth less (--limit)"


def _cell(logits: GraftedLogits | None) -> str:
    """Mean divergence, and in how many tokens another one comes first."""
    if logits is None:
        return ""
    if logits.kl is None:
        return "not finite"
    return f"{logits.kl:.3g}" + (f" ({logits.flips})" if logits.flips else "")


def _total(report: GraftReport) -> str:
    from aprtui.compare.wording import counted

    total = report.total
    if total.kl is None:
        return f"the logits of {counted(total.rows, 'token')} are not finite"
    largest = f", {total.kl_largest:.3g} at most" if total.rows > 1 else ""
    flips = f"; another first token at {total.flips}" if total.flips else "; the same first token"
    known = f", so shares are known to ±{report.share_noise:.0%}".replace("%", " %") if report.explains else ""
    return (
        f"KL {total.kl:.3g} nats at {counted(total.rows, 'token')}{largest}{flips}. Honest runs of this arithmetic are "
        f"up to {report.noise:.3g} apart{known}"
    )


def carrier_text(report: GraftReport) -> str:
    """What carries the error, in a sentence."""
    if not report.explains:
        return "the logits are no farther apart than honest runs: there is no error to be divided"
    first = report.worths[0]
    left, name = first.before, _name(first)
    if first.share is None:
        if first.before.kl is not None and first.after.kl is None:
            return f"{name}: with what was captured there the logits are not finite, with ours they are"
        return "the error cannot be divided: logits are not finite before any of it"
    if abs(first.share) < _CARRIES:
        return f"none of these carries the error: {name} is worth most of them, {first.share:.1%}".replace("%", " %")
    remaining = "not finite" if left.kl is None else f"KL {left.kl:.3g}"
    said = f"{name} is worth {first.share:.0%} of the error; with ours there and behind it, {remaining} is left"
    return said.replace("%", " %")
