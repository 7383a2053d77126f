"""A comparison as one HTML page that needs nothing else: no network, no script to be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprtui.compare.report.svg import draw_grid, verdict_text
from aprtui.compare.wording import number_text

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATES = Path(__file__).parent / "templates"


def page_template(folder: Path, name: str) -> Template:
    """The template `name` of a page in `folder`, which has our `page.css` to include. What is put in is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["number"] = number_text
    return environment.get_template(name)


def render_html(records: Iterable[Mapping[str, Any]]) -> str:
    """The page, from all the records of a comparison, its header and summary among them.

    All text of the records is escaped; records of unknown kinds are left out.
    """
    from markupsafe import Markup

    listed = list(records)
    header, summary = (next(r for r in listed if r["record"] == kind) for kind in ("header", "summary"))
    return page_template(TEMPLATES, "report.html").render(
        header=header,
        summary=summary,
        verdict=verdict_text(summary),
        grid=Markup(draw_grid(listed)),  # noqa: S704 - a picture whose texts are escaped where it is drawn
        comparisons=[record for record in listed if record["record"] == "comparison"],
        skips=[record for record in listed if record["record"] == "skip"],
        hypotheses=[record for record in listed if record["record"] == "hypothesis"],
        causes=[record for record in listed if record["record"] == "cause"],
        alternatives=[record for record in listed if record["record"] == "alternative"],
        top=next((record for record in listed if record.get("top")), None),
    )
