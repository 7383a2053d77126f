"""Options and output that the commands with a comparison share: what is compared, how it is judged and reported, and
warnings about what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.options import PATH
from aprtui.compare.wording import counted
from aprtui.errors import VERDICT_CODES, UsageError

if TYPE_CHECKING:
    from aprtui.compare.align.coverage import Selection
    from aprtui.compare.comparison import Comparison
    from aprtui.compare.manifests import ManifestDifferences
    from aprtui.compare.policy import Policy
    from aprtui.compare.verdict import Tolerance
    from aprtui.trace.aprt import AprtFile
    from aprtui.trace.capture import Capture

Command = TypeVar("Command", bound=Callable[..., Any])

_ANY_VOCABULARY = 1 << 32

AS_CAPTURE, AS_CAPTURES = "--as-capture", "--as-captures"
"""The options of replay and diff that take recordings of ops for captures."""


@dataclass(frozen=True, slots=True)
class ComparisonOptions:
    """The options of a comparison, as written on the command line; None for those that are not given."""

    stages: str | None
    layers: str | None
    tolerances: tuple[str, ...]
    policy_file: Path | None
    allow_missing: tuple[str, ...]
    tokens: str | None
    limit: int
    as_json: bool
    html: Path | None
    svg: Path | None
    alternatives: bool
    bisect: bool

    @property
    def selection(self) -> Selection:
        """`--stage` and `--layers`."""
        from aprtui.compare.align.coverage import Selection

        return Selection(self.stages, self.layers)

    @property
    def parsed_tolerances(self) -> tuple[Tolerance, ...]:
        """`--tolerance`. Raises `UsageError`."""
        from aprtui.compare.verdict import parse_tolerance

        return tuple(parse_tolerance(text) for text in self.tolerances)

    @property
    def policy(self) -> Policy | None:
        """`--policy`. Raises `UsageError`."""
        if self.policy_file is None:
            return None
        if self.tolerances:
            raise UsageError("--policy and --tolerance: choose one of them")
        from aprtui.compare.policy import read_policy

        return read_policy(self.policy_file)

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        """`--tokens`. Raises `UsageError`."""
        from aprtui.cli.options import parse_tokens

        return None if self.tokens is None else tuple(parse_tokens(self.tokens, _ANY_VOCABULARY))

    @property
    def plain(self) -> bool:
        """Whether no option is given that needs captures: stages, layers, tokens, a policy."""
        selects = self.stages is not None or self.layers is not None or self.tokens is not None
        return not (selects or self.allow_missing or self.policy_file)

    def words(self) -> list[str]:
        """The options as they would be typed again, but for where the report goes."""
        words: list[str] = []
        for name, value in (("--stage", self.stages), ("--layers", self.layers), ("--tokens", self.tokens)):
            words += [] if value is None else [name, value]
        words += [word for text in self.tolerances for word in ("--tolerance", text)]
        words += [] if self.policy_file is None else ["--policy", str(self.policy_file)]
        return words + (["--allow-missing", ",".join(self.allow_missing)] if self.allow_missing else [])


def comparison_options(function: Command) -> Command:
    """Add the shared options; the command receives them as `options: ComparisonOptions`."""

    @click.option("--stage", "stages", metavar="STAGES", help="Comma list of stage names or globs; all by default.")
    @click.option("--layers", metavar="LAYERS", help="0..2 (END excluded), a list 0,3 or all; all by default.")
    @click.option(
        "--tolerance",
        "tolerances",
        metavar="METRIC=X",
        multiple=True,
        help="The most that a metric as rel_l2 or max_abs may be, or the least for cosine. Repeatable.",
    )
    @click.option("--policy", "policy_file", type=PATH, metavar="FILE", help="Bounds for each stage, from a YAML file.")
    @click.option(
        "--allow-missing",
        metavar="STAGES",
        multiple=True,
        help="Stages that need not be there: a comma list of names or globs, as ffn_silu,layer-3/*. Repeatable.",
    )
    @click.option(
        "--tokens",
        metavar="1,2,3",
        help="Token ids, for captures without a manifest or _PROVENANCE.txt to record them.",
    )
    @click.option(
        "--limit",
        type=click.IntRange(1),
        default=10,
        show_default=True,
        metavar="K",
        help="Elements shown of the stage to look at first.",
    )
    @click.option("--json", "as_json", is_flag=True, help="One JSON object a stage, the summary last.")
    @click.option("--html", type=PATH, metavar="FILE", help="Write the report as one HTML page as well.")
    @click.option("--svg", type=PATH, metavar="FILE", help="Write the grid of stages as a picture as well.")
    @click.option("--alternatives", is_flag=True, help="List all that was tried as the cause, and why it is refuted.")
    @click.option(
        "--bisect", is_flag=True, help="Exit 125 on anything but pass, divergence and interrupt: git bisect run."
    )
    @wraps(function)
    def command(**arguments: Any) -> Any:
        shared = {field.name: arguments.pop(field.name) for field in fields(ComparisonOptions)}
        shared["allow_missing"] = tuple(stage for text in shared["allow_missing"] for stage in _listed(text))
        return function(**arguments, options=ComparisonOptions(**shared))

    return command  # type: ignore[return-value]  # click's decorators keep the call signature, mypy cannot see it


def _listed(text: str) -> list[str]:
    """The entries of a comma list of stages. Raises `UsageError` for an empty one."""
    entries = [entry.strip() for entry in text.split(",")]
    if "" in entries:
        raise UsageError(f"--allow-missing {text!r}: an entry is empty: separate names by single commas")
    return entries


def report(
    sides: tuple[str, str],
    manifests: ManifestDifferences | None,
    comparison: Comparison,
    options: ComparisonOptions,
    steps: Iterable[str],
) -> int:
    """Print the comparison of two `sides` and write the files asked for; returns the exit code of the verdict.

    Raises `EngineError` for a file that cannot be written.
    """
    if options.as_json or options.html or options.svg:
        from aprtui.compare.report.records import comparison_records
        from aprtui.trace.export.output import write_text

        steps = list(steps)
        commands = [line for line in steps if line.startswith("aprtui ")]
        records = list(comparison_records(*sides, manifests, comparison, commands))
        if options.html:
            from aprtui.compare.report.html import render_html

            write_text(options.html, render_html(records))
        if options.svg:
            from aprtui.compare.report.svg import render_svg

            write_text(options.svg, render_svg(records))
        if options.as_json:
            for record in records:
                write_record(record)
    if not options.as_json:
        from aprtui.cli.comparison import render

        print_sections(
            render.header_lines(*sides, manifests, comparison),
            render.table_lines(comparison),
            render.note_lines(comparison),
            render.verdict_lines(comparison, steps),
            render.alternative_lines(comparison) if options.alternatives else (),
        )
    return VERDICT_CODES[comparison.verdict]


def print_sections(*sections: Iterable[str]) -> None:
    """Print sections of lines with an empty line between them; those without lines are left out."""
    blocks = ["\n".join(lines) for lines in sections]
    click.echo("\n\n".join(block for block in blocks if block))


def announce(text: str) -> None:
    """Print a remark on stderr."""
    click.echo(f"aprtui: {text}", err=True)


def warn_about(capture: Capture) -> None:
    """Print the warnings of a capture on stderr, and the files in its folder that are not its own."""
    for warning in capture.warnings:
        click.echo(f"aprtui: {warning}", err=True)
    for path in capture.stale:
        click.echo(f"aprtui: {path}: stale: not this capture's own file, not read", err=True)


def warn_about_trailing(file: AprtFile) -> None:
    """Say on stderr that a stage file holds more than it declares."""
    if file.trailing:
        extra = counted(file.trailing, "byte")
        click.echo(f"aprtui: {file.path}: {extra} after the declared values ignored", err=True)
