"""`aprtui run`: stream tokens to stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.build import this_build
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
from aprtui.errors import UnreadableError, UsageError
from aprtui.terminal_output import DIM, PLAIN

if TYPE_CHECKING:
    from aprtui.engine.generation import GeneratedToken, Generation
    from aprtui.engine.protocol import Engine
    from aprtui.engine.sampling import Sampling
    from aprtui.model.model import Model
    from aprtui.model.tokenizer import Tokenizer
    from aprtui.trace.agent_trace import AgentTraceWriter


@click.command()
@MODEL_ARGUMENT
@prompt_options
@click.option("-n", "--max-tokens", type=click.IntRange(1), default=128, show_default=True, help="Tokens to generate.")
@click.option("--temp", type=float, help="Temperature; 0 is greedy. What the model recommends by default, else 0.")
@click.option("--top-k", type=int, default=0, show_default=True, help="Keep the K most probable tokens; 0 keeps all.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Keep this much probability.")
@click.option(
    "--min-p", type=float, default=0.0, show_default=True, help="Keep tokens this probable, relative to the top."
)
@click.option(
    "--repeat-penalty", type=float, default=1.0, show_default=True, help="Penalty on recent tokens; 1 is none."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a token, then one with the speeds.")
@click.option(
    "--emit-trace", type=LOCAL_PATH, metavar="FILE",
    help="Write prompt, answer and timings as an agent trace, as `apr code` does.",
)  # fmt: skip
@click.option(
    "--record", type=LOCAL_PATH, metavar="FILE",
    help="Record the session, with the statistics of every stage: `open` plays it, `render` draws it, without a model.",
)  # fmt: skip
@engine_options(default_mode="q8")
def command(
    model: Path | None, prompt: str | None, tokens: str | None, max_tokens: int, chat: bool, system: str,
    no_special: bool, temp: float | None, top_k: int, top_p: float, min_p: float, repeat_penalty: float, seed: int,
    as_json: bool, emit_trace: Path | None, record: Path | None, engine: EngineOptions,
) -> None:  # fmt: skip
    """Stream tokens from MODEL (a GGUF or .apr file; the embedded one by default).

    The completion goes to stdout, speeds to stderr.
    """
    from aprtui.engine.generation import generate
    from aprtui.engine.process.slots import CANDIDATES
    from aprtui.engine.sampling import Sampling
    from aprtui.model.prompt import chat_stop_ids
    from aprtui.trace.agent_trace import AgentTraceWriter

    loaded = requested_model(model)
    text, ids = prompt_tokens(loaded, prompt, tokens, special=not no_special, chat=chat, system=system)
    sampling = Sampling(
        temperature=(loaded.sampling_temperature or 0.0) if temp is None else temp,
        top_k=top_k, top_p=top_p, min_p=min_p, repeat_penalty=repeat_penalty, seed=seed,
    )  # fmt: skip
    tokenizer = _tokenizer(loaded, needed=text is not None)
    own_stops = tokenizer.stop_ids if tokenizer else frozenset()
    if record is not None and tokenizer is None:
        raise UsageError("--record: this model cannot turn ids into text, which a session has: leave it out")
    said = text if text is not None else tokenizer.decode(ids) if tokenizer else " ".join(map(str, ids))
    with ExitStack() as stack:
        opened = stack.enter_context(closing(open_engine(loaded, engine, len(ids) + max_tokens)))
        generation = generate(
            opened, tokenizer, ids,
            max_tokens=max_tokens, sampling=sampling, stop_ids=chat_stop_ids(loaded) if chat else own_stops,
            candidates=CANDIDATES if record else 0,
        )  # fmt: skip
        if text is not None and sys.stderr.isatty() and not as_json:
            for part in (DIM, text, PLAIN):
                click.echo(part, err=True, nl=False)
        made: Iterable[GeneratedToken] = generation
        if record is not None:
            made = _recorded(record, stack, generation, opened, loaded, engine, sampling, said, ids, chat, system)
        if emit_trace is not None:
            trace = stack.enter_context(AgentTraceWriter(emit_trace, loaded.name, said, len(ids), _warn))
            made = _traced(made, generation, trace)
        _stream(made, as_json, as_text=tokenizer is not None)
        _print_end(generation, opened, as_json)


def _warn(problem: str) -> None:
    click.echo(f"aprtui: {problem}", err=True)


def _recorded(
    path: Path, stack: ExitStack, generation: Generation, opened: Engine, model: Model, options: EngineOptions,
    sampling: Sampling, said: str, ids: Sequence[int], chat: bool, system: str,
) -> Iterator[GeneratedToken]:  # fmt: skip
    """The tokens of `generation`, recorded in `path` until `stack` is left."""
    from aprtui.engine.process.loading import description
    from aprtui.engine.sessions.format import SessionStart
    from aprtui.engine.sessions.recording import SessionWriter, recorded

    faults = tuple(map(str, injected_faults(model, options)))
    start = SessionStart(
        description(opened, model, faults), sampling, model.tokenizer.decode(ids), said, tuple(ids), chat, system,
        time.time(), str(this_build()),
    )  # fmt: skip
    return recorded(generation, opened, model, stack.enter_context(SessionWriter(path, start)))


def _traced(
    tokens: Iterable[GeneratedToken], generation: Generation, trace: AgentTraceWriter
) -> Iterator[GeneratedToken]:
    """The `tokens` of `generation`, each noted in `trace`, which ends with them."""
    from aprtui.engine.generation import StopReason
    from aprtui.trace.agent_trace import EndOfTurn

    for token in tokens:
        trace.add(token.text)
        yield token
    stopped = generation.stop_reason is StopReason.STOP_TOKEN
    trace.finish(EndOfTurn.END_TURN if stopped else EndOfTurn.MAX_TOKENS, generation.tail)


def _tokenizer(model: Model, *, needed: bool) -> Tokenizer | None:
    """The tokenizer, or None with a note where the prompt came as ids and the model cannot turn ids into text."""
    try:
        return model.tokenizer
    except UnreadableError as error:
        if needed:
            raise
        click.echo(f"aprtui: token ids instead of text: {error}", err=True)
        return None


def _stream(tokens: Iterable[GeneratedToken], as_json: bool, as_text: bool) -> None:
    for token in tokens:
        if as_json:
            write_record({"id": token.id, "text": token.text, "logprob": token.choice.logprob})
        else:
            sys.stdout.write(token.text if as_text else f"{token.id} ")
            sys.stdout.flush()


def _print_end(generation: Generation, engine: Engine, as_json: bool) -> None:
    timing = generation.timing
    if as_json:
        write_record(
            {
                "tokens_per_second": timing.tokens_per_second,
                "prefill_tokens_per_second": timing.prefill_tokens_per_second,
                "backend": engine.backend,
                "mode": str(engine.mode),
                "stop_reason": str(generation.stop_reason),
                "tail": generation.tail,
            }
        )
        return
    sys.stdout.write(generation.tail + "\n")
    sys.stdout.flush()
    speed = f"{timing.tokens_per_second:.1f}" if timing.decoded_tokens else "–"
    click.echo(
        f"aprtui: {speed} tokens/s, prefill {timing.prefill_tokens_per_second:.1f} tokens/s; "
        f"--backend {engine.backend} --mode {engine.mode} --kv {engine.kv}; ended by: {generation.stop_reason}",
        err=True,
    )
