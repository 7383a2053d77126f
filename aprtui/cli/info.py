"""`aprtui info`: what a model file says of itself, and what is unusual about it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.options import MODEL_ARGUMENT, requested_model

if TYPE_CHECKING:
    from aprtui.model.facts import ModelFacts


@click.command()
@MODEL_ARGUMENT
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(model: Path | None, as_json: bool) -> None:
    """Print the facts of MODEL (a GGUF or .apr file; the embedded one by default): what is unusual about it first.

    The live screen shows the same (I). `aprtui stats MODEL` prints a line for each tensor.
    """
    from aprtui.model.facts import described, model_facts

    facts = model_facts(requested_model(model, headers_only=True))
    if as_json:
        write_record(_record(facts))
        return
    for sentence in facts.unusual:
        click.echo(f"unusual: {sentence}")
    for name, words in described(facts):
        click.echo(f"{name:<14} {words}")


def _record(facts: ModelFacts) -> dict[str, object]:
    """All facts, the configuration's in one level with the others; paths as text."""
    fields: dict[str, object] = asdict(facts) | {"path": str(facts.path)}
    del fields["config"]
    config = asdict(facts.config)
    graph: dict[str, object] = config.pop("graph")
    return fields | graph | config
