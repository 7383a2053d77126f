"""`aprtui check`: whether a model file says and holds what it should, before anything is run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.options import LOCAL_PATH, MODEL_ARGUMENT, requested_model
from aprtui.cli.progress import ProgressLine
from aprtui.errors import VERDICT_CODES

if TYPE_CHECKING:
    from aprtui.conversion.check import FileCheck


@click.command()
@MODEL_ARGUMENT
@click.option(
    "--against", "folder", type=LOCAL_PATH, metavar="DIR", help="The Hugging Face folder that MODEL was made from."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a finding, the verdict last.")
def command(model: Path | None, folder: Path | None, as_json: bool) -> int:
    """Check a GGUF file without running it: metadata that were never written, weights in another order, tokens.

    With --against, hyperparameters, tokenizer and each tensor are held against config.json, tokenizer.json and the
    safetensors files of the original; each finding names the stage that it breaks, and how the model would misbehave.
    Alone, the file is read for what no converter means: NaN, matrices of zeros, keys that engines have a default for.

    Exit codes: 0 pass, 1 a finding, 2 usage, 3 unreadable input, 125 not all of it could be judged.
    """
    from aprtui.conversion.check import check_model

    loaded = requested_model(model)
    with ProgressLine() as progress:
        found = check_model(loaded, folder, progress)
    if as_json:
        for finding in found.findings:
            write_record({"record": "finding", **asdict(finding)})
        write_record(
            {"record": "summary", "verdict": found.verdict, "model": str(loaded.path),
             "against": None if folder is None else str(folder), "findings": len(found.findings)}
        )  # fmt: skip
    else:
        click.echo("\n".join(_lines(found, loaded.path)))
        if folder is None:
            path = shlex.quote(str(loaded.path))
            click.echo(f"aprtui: next: aprtui check {path} --against DIR, the folder that it was made from", err=True)
    return VERDICT_CODES[found.verdict]


def _lines(check: FileCheck, path: Path) -> Iterator[str]:
    from aprtui.cli.comparison.render import wrapped
    from aprtui.compare.verdict import Verdict
    from aprtui.errors import printable

    yield f"model    {printable(str(path))}"
    yield f"against  {'nothing: give --against DIR' if check.against is None else printable(str(check.against))}"
    for finding in check.findings:
        yield from wrapped(f"{finding.verdict:<8}", f"{printable(finding.subject)}: {printable(finding.said)}")
        if finding.stage:
            yield f"{'breaks':>15}  {finding.stage}"
        if finding.symptom:
            yield from wrapped(f"{'shows':>15} ", finding.symptom)
    count = sum(finding.verdict is Verdict.FAIL for finding in check.findings)
    what = (
        "nothing is wrong that shows here"
        if not check.findings
        else f"{count} wrong, {len(check.findings) - count} open"
    )
    yield f"{check.verdict}: {what}"
