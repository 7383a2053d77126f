"""`aprtui scan`: one walk of a long text with statistics only, and a capture of where it goes wrong."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.options import (
    LOCAL_PATH,
    MODEL_ARGUMENT,
    EngineOptions,
    engine_options,
    injected_faults,
    open_engine,
    prompt_options,
    prompt_tokens,
    requested_model,
)
from aprtui.cli.progress import ProgressLine
from aprtui.errors import VERDICT_CODES, UnreadableError, UsageError, printable

if TYPE_CHECKING:
    from aprtui.engine.protocol import Engine
    from aprtui.engine.scanning.against import Against
    from aprtui.engine.scanning.jumps import Jump
    from aprtui.engine.scanning.stored import LogitFile
    from aprtui.engine.scanning.summary import ScanFinding
    from aprtui.engine.scanning.walk import Walked
    from aprtui.model.model import Model
    from aprtui.progress import Progress


@click.command()
@MODEL_ARGUMENT
@prompt_options
@click.option("-n", "--max-tokens", type=click.IntRange(0), default=512, show_default=True, help="Tokens to generate.")
@click.option(
    "--against", metavar="SETTING=VALUE,…|FILE",
    help="A reference: mode, kv, backend, threads or path (prefill, decode) of another engine on the same tokens; or a "
    "file of logits (llama-perplexity --kl-divergence-base, a capture with lm_head of many positions).",
)  # fmt: skip
@click.option("--step", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Chunk of a file.")
@click.option("--out", type=LOCAL_PATH, metavar="DIR", help="Capture the tokens around the first jump there.")
@click.option(
    "--window", type=click.IntRange(1), default=8, show_default=True, metavar="N", help="Tokens to each side."
)
@click.option("--overwrite", is_flag=True, help="Replace the captures in DIR.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a token, then the jumps, the summary last.")
@click.option(
    "--bisect", is_flag=True, expose_value=False,
    help="Exit 125 on anything but pass, divergence and interrupt: git bisect run.",
)  # fmt: skip
@engine_options(default_mode="q8")
def command(
    model: Path | None, prompt: str | None, tokens: str | None, chat: bool, system: str, no_special: bool,
    max_tokens: int, against: str | None, step: int, out: Path | None, window: int, overwrite: bool, as_json: bool,
    engine: EngineOptions,
) -> int:  # fmt: skip
    """Walk a long text once, and say at which token NaN, the error against a reference, or the entropy jumps.

    The prompt is evaluated and -n greedy tokens behind it, with statistics of all stages and a few figures of each
    token's logits. With --against, another engine evaluates the same tokens: an error beyond the noise of the walk
    itself is a jump; another first token within that noise is none. --inject acts in the engine that is scanned only.

    Exit codes: 0 nothing jumps, 1 a jump, 2 usage, 3 unreadable input, 4 engine failed, 70 internal error, 125 the
    noise cannot be told from fewer than 8 tokens, 130 interrupted.
    """
    from aprtui.cli.scan.logits import read_logits
    from aprtui.trace.writer import require_usable

    loaded = requested_model(model)
    stored = None
    if against is not None and Path(against).exists():
        if prompt is not None or tokens is not None:
            raise UsageError(f"--against {against}: a file says which tokens: leave -p and --tokens out")
        stored = read_logits(Path(against), loaded, step)
        ids, max_tokens = list(stored.tokens), 0
    else:
        _, ids = prompt_tokens(loaded, prompt, tokens, special=not no_special, chat=chat, system=system)
    setting = None if against is None or stored is not None else _setting(against)
    if out is not None:
        for folder in _folders(out, setting is not None):
            require_usable(folder, overwrite)
    request = _Request(loaded, ids, max_tokens, engine, setting, stored)
    with ExitStack() as stack:
        progress = stack.enter_context(ProgressLine())
        scanned, reference = request.opened(stack)
        walked, found = request.scan(scanned, reference, chat, progress)
        if out is not None and found.jumps:
            request.capture(walked, found.jumps[0], (scanned, reference), out, window, overwrite)
    if as_json:
        _write_records(found, walked)
    else:
        click.echo("\n".join(_lines(found, walked, loaded, request.title(scanned, reference, against))))
    if found.jumps:
        _say_next(loaded, out, setting is not None)
    return VERDICT_CODES[found.verdict]


def _setting(text: str) -> Against:
    from aprtui.engine.scanning.against import parse_against

    return parse_against(text)


def _folders(out: Path, pair: bool) -> tuple[Path, ...]:
    return (out / "scanned", out / "reference") if pair else (out,)


@dataclass(frozen=True, slots=True)
class _Request:
    """What the command line asks for."""

    model: Model
    tokens: Sequence[int]
    generated: int
    options: EngineOptions
    against: Against | None
    stored: LogitFile | None

    def opened(self, stack: ExitStack) -> tuple[Engine, Engine | None]:
        """The engine that is scanned, and the one that it is held against."""
        needed = len(self.tokens) + max(self.generated - 1, 0)
        scanned = stack.enter_context(closing(open_engine(self.model, self.options, needed)))
        if self.against is None:
            return scanned, None
        wanted, own = self.against, self.options
        other = replace(
            own, mode=wanted.mode or own.mode, kv=wanted.kv or own.kv, threads=wanted.threads or own.threads,
            backend=wanted.backend or scanned.backend, inject=(),
        )  # fmt: skip
        return scanned, stack.enter_context(closing(open_engine(self.model, other, needed)))

    def scan(
        self, scanned: Engine, reference: Engine | None, chat: bool, progress: Progress
    ) -> tuple[Walked, ScanFinding]:
        """Walk the text; what jumps."""
        from aprtui.engine.scanning.summary import judge
        from aprtui.engine.scanning.walk import EngineLogits, LogitSource, walk

        source: LogitSource | None = None
        if reference is not None:
            source = EngineLogits(reference, self.against is not None and self.against.path == "decode")
        elif self.stored is not None:
            source = self.stored.logits
        walked = walk(scanned, self.tokens, self.generated, self._stops(chat), source, progress)
        return walked, judge(self.model, walked, scanned, reference, source is not None, progress)

    def _stops(self, chat: bool) -> frozenset[int]:
        from aprtui.model.prompt import chat_stop_ids

        try:
            return chat_stop_ids(self.model) if chat else self.model.tokenizer.stop_ids
        except UnreadableError:
            return frozenset()

    def capture(
        self, walked: Walked, jump: Jump, engines: tuple[Engine, Engine | None], out: Path, window: int,
        overwrite: bool,
    ) -> None:  # fmt: skip
        """Write the tokens around a jump, by the engine that was scanned and by the one it was held against."""
        from aprtui.engine.capturing import CaptureRequest, write_window

        first, end = max(0, jump.position - window), min(jump.position + window + 1, len(walked.figures))
        decoded = self.against is not None and self.against.path == "decode"
        folders = _folders(out, engines[1] is not None)
        prefills = (min(walked.given, end), 1 if decoded else end)
        for engine, folder, prefill in zip(engines, folders, prefills, strict=False):
            if engine is None:
                continue
            faults = injected_faults(self.model, self.options) if engine is engines[0] else ()
            request = CaptureRequest(walked.tokens[:end], None, frozenset(engine.graph.nodes), prefill=prefill)
            write_window(engine, self.model, request, first, folder, overwrite=overwrite, faults=faults)
            click.echo(f"aprtui: {folder}: tokens {first} to {end - 1}", err=True)

    def title(self, scanned: Engine, reference: Engine | None, against: str | None) -> str:
        """What was run, and against what."""

        def named(engine: Engine) -> str:
            return f"{engine.backend} {engine.mode}, kv {engine.kv}"

        if reference is None:
            return named(scanned) + (f", against {printable(against)}" if against else ", against nothing")
        path = "" if self.against is None else f", {self.against.path}"
        return f"{named(scanned)}, against {named(reference)}{path}"


def _write_records(found: ScanFinding, walked: Walked) -> None:
    for one in walked.figures:
        write_record(
            {"record": "token", "position": one.position, "id": one.token, "entropy": one.entropy, "margin": one.margin,
             "surprise": one.surprise, "error": one.error, "kl": one.kl, "flip": bool(one.lead), "lead": one.lead,
             "not_finite": None if one.origin is None else {"layer": one.origin.layer, "stage": one.origin.stage}}
        )  # fmt: skip
    for jump in found.jumps:
        write_record(
            {"record": "jump", "position": jump.position, "rule": jump.rule, "tokens": jump.tokens, "said": jump.said}
        )
    write_record({"record": "summary", "verdict": found.verdict, "reason": found.reason, **found.figures()})


def _lines(found: ScanFinding, walked: Walked, model: Model, title: str) -> Iterator[str]:
    from aprtui.cli.comparison.render import wrapped
    from aprtui.compare.wording import counted, number_text

    yield f"model  {printable(str(model.path))}"
    yield f"       {title}"
    yield f"       {counted(walked.given, 'token')} given, {len(walked.tokens) - walked.given} generated"
    yield ""
    yield f"entropy   {number_text(found.entropy)} nats in the middle, {number_text(found.entropy_largest)} at most"
    if found.error is not None:
        spreads = f"{number_text(found.spreads_largest)} spreads, {number_text(found.allowed)} allowed"
        middle = f"{number_text(found.error)} a logit in the middle"
        yield f"error     {middle}, {number_text(found.error_largest)} at most ({spreads})"
        yield f"KL        {number_text(found.kl)} nats on average, {number_text(found.kl_largest)} at most"
        flips = f"{found.flips_within} within the noise of the logits, {found.flips_beyond} beyond it"
        yield f"flips     another first token at {found.flips_within + found.flips_beyond}: {flips}"
    yield ""
    for jump in found.jumps:
        more = f" (and so on: {jump.tokens} tokens)" if jump.tokens > 1 else ""
        yield from wrapped(f"token {jump.position}{_piece(model, walked, jump)}", f"{jump.rule}: {jump.said}{more}")
    yield from wrapped(str(found.verdict), found.reason)


def _piece(model: Model, walked: Walked, jump: Jump) -> str:
    """The text of the token at a jump, where the model has one."""
    pieces = model.pieces([walked.tokens[jump.position]])
    return f" {printable(repr(pieces[0]))}" if pieces else ""


def _say_next(model: Model, out: Path | None, pair: bool) -> None:
    path = shlex.quote(str(model.path))
    if out is None:
        click.echo("aprtui: next: the same with --out DIR captures the tokens around the first jump", err=True)
        return
    folders = [shlex.quote(str(folder)) for folder in _folders(out, pair)]
    if pair:
        click.echo(f"aprtui: next: aprtui diff {folders[1]} {folders[0]} --model {path}", err=True)
    click.echo(f"aprtui: next: aprtui replay {folders[0]} --model {path}", err=True)
