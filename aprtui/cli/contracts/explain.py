"""`aprtui contracts explain`: what a code of a finding means."""

from __future__ import annotations

from difflib import get_close_matches

import click

from aprtui.cli.json_lines import write_record
from aprtui.errors import ExitCode, UsageError


@click.command()
@click.argument("codes", nargs=-1, metavar="[CODE…]")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a code.")
def command(codes: tuple[str, ...], as_json: bool) -> int:
    """Say what the CODEs of findings demand, and what to do where it is not so; all of them without CODE.

    Exit code 0; 2: there is no such code.
    """
    from aprtui.contracts.codes import CODES

    for code in codes:
        if code.upper() not in CODES:
            near = get_close_matches(code.upper(), CODES, 1)
            raise UsageError(f"no code is called {code!r:.40}" + (f": did you mean {near[0]}?" if near else ""))
    for known in [CODES[code.upper()] for code in codes] or CODES.values():
        if as_json:
            write_record(
                {
                    "record": "code", "code": known.code, "severity": str(known.severity), "command": known.command,
                    "states": known.states, "fix": known.fix,
                }
            )  # fmt: skip
        else:
            click.echo(
                f"{known.code}  {known.severity}  ({known.command})\n  sound: {known.states}\n  fix:   {known.fix}"
            )
    return ExitCode.PASS
