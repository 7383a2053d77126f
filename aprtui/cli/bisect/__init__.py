"""`aprtui bisect`: the first commit whose numbers are wrong, and the first stage that is wrong there."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.options import MODEL, PATH
from aprtui.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from aprtui.cli.bisect.history import Bisection

OUT = "{out}"


@click.command()
@click.option("--good", required=True, metavar="REF", help="A commit whose numbers are right.")
@click.option("--bad", default="HEAD", show_default=True, metavar="REF", help="A later one whose numbers are wrong.")
@click.option("--build", metavar="CMD", help="Builds the engine of a commit, in a shell, at the top of the repository.")
@click.option("--capture", required=True, metavar="CMD", help=f"Makes the engine write a capture to {OUT}.")
@click.option("--reference", type=PATH, metavar="CAPTURE", help="Compare with this capture, as aprtui diff does.")
@click.option("--model", type=MODEL, metavar="MODEL", help="The model of the captures; without --reference, they are "
              "replayed with it.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as a JSON object.")
@click.argument("judging", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS OF diff OR replay]")
def command(
    good: str, bad: str, build: str | None, capture: str, reference: Path | None, model: Path | None, as_json: bool,
    judging: tuple[str, ...],
) -> int:  # fmt: skip
    """Find the first commit between --good and --bad whose numbers are wrong, by git bisect run, and its first wrong
    stage.

    Both ends are tried first. A commit that does not build, writes no capture, or cannot be judged is skipped, never
    called good or bad. Your branch is checked out again at the end.

    Exit codes: 1 a commit is named, 125 none can be (too many were skipped), 2 usage, 3 unreadable input, 4 git or an
    end of the range failed, 130 interrupted.
    """
    from aprtui.cli.bisect.history import Range, Trial, bisect
    from aprtui.cli.progress import ProgressLine

    if reference is None and model is None:
        raise UsageError("give --model to replay each capture with, or --reference to compare it with, or both")
    if OUT not in capture:
        raise UsageError(f"--capture: expected {OUT} where the capture goes")
    named = [] if model is None else ["--model", str(model.absolute())]
    words = ["replay", OUT] if reference is None else ["diff", str(reference.absolute()), OUT]
    trial = Trial(build, capture, (*words, *named, *judging), OUT)
    with ProgressLine() as progress:
        found = bisect(Path.cwd(), Range(good, bad), trial, progress)
    _print(found, as_json)
    return ExitCode.DIVERGENCE if found.commit else ExitCode.UNKNOWN


def _print(found: Bisection, as_json: bool) -> None:
    if as_json:
        write_record({"record": "bisection", **asdict(found)})
        return
    tried = f"{found.tried} commits tried, {len(found.skipped)} of them skipped"
    if found.commit is None:
        click.echo(f"UNKNOWN: the first bad commit is one of {len(found.candidates)}: skips leave it open; {tried}")
        for line in found.candidates:
            click.echo(f"  {line}")
        return
    click.echo(f"first bad commit: {found.commit} {found.subject}")
    click.echo(f"  {found.headline}")
    if found.headline_at_bad != found.headline:
        click.echo(f"at the bad end: {found.headline_at_bad}")
    click.echo(tried)
    click.echo(f"aprtui: next: git show {shlex.quote(found.commit)}", err=True)
