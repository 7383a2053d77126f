"""`aprtui models`: the models on this machine, and whether they can be run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.progress import ProgressLine
from aprtui.errors import AprtuiError, printable

if TYPE_CHECKING:
    from aprtui.config import Config
    from aprtui.model.discovery.catalogue import ListedModel

_WIDEST_NAME = 48


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a model.")
def command(as_json: bool) -> None:
    """List the models on this machine: name, architecture, types of the weights, size, and whether they can be run.

    Looks into the working directory and ./models, the folders of the configuration, ~/.apr/models, and the caches of
    pacha, Hugging Face, Ollama, LM Studio and llama.cpp. What cannot be run says why, in the words that opening it
    gives. MODEL of every command may be a name of this list.

    In config.toml of the user's configuration folder ($APRTUI_CONFIG names another file):

    \b
      [models]
      folders = ["~/gguf"]            # searched as well
      default = ["coder"]             # what MODEL means where it is left out
      [aliases]
      coder = "qwen2.5-coder:0.5b"    # a name of this list, or a path
    """
    from aprtui.config import config_path, read_config
    from aprtui.model.discovery.catalogue import describe
    from aprtui.model.discovery.naming import broken_aliases
    from aprtui.model.discovery.places import found_models

    config = read_config(config_path())
    reports: dict[str, None] = {}
    found = found_models(config, lambda text: reports.update({text: None}))
    with ProgressLine() as progress:
        listed = []
        for number, model in enumerate(found):
            progress("reading headers,", number, len(found))
            listed.append(describe(model))
    listed.sort(key=lambda model: not model.can_run)
    if as_json:
        default = _default(reports)
        for each in listed:
            write_record(_record(each, config, default))
    else:
        for line in _lines(listed, config, _default(reports)):
            click.echo(printable(line))
    for report in (*reports, *broken_aliases(found, config)):
        click.echo(f"aprtui: {printable(report)}", err=True)


def _default(reports: dict[str, None]) -> Path | None:
    """What MODEL means where it is left out; where nothing can be run, that is reported."""
    from aprtui.model.discovery.naming import default_model

    try:
        return default_model()
    except AprtuiError as error:
        reports[str(error)] = None
        return None


def _record(model: ListedModel, config: Config, default: Path | None) -> Mapping[str, object]:
    from aprtui.model.discovery.naming import aliases_of

    return {
        "name": model.found.name, "names": model.found.names, "path": str(model.path.absolute()),
        "place": model.found.place, "files": model.files, "bytes": model.size, "architecture": model.architecture,
        "quantization": model.quantization, "types": model.types, "runs": model.can_run,
        "problem": model.problem or None, "aliases": aliases_of(model.found, config),
        "default": _is_same(model.path, default),
    }  # fmt: skip


def _lines(listed: list[ListedModel], config: Config, default: Path | None) -> Iterator[str]:
    from aprtui.model.discovery.naming import aliases_of
    from aprtui.model.facts import size_words

    width = min(max([len(model.found.name) for model in listed]), _WIDEST_NAME)
    yield f"{'name':<{width}}  {'architecture':<12} {'types':<8} {'size':>9}  path"
    for model in listed:
        types = model.quantization or next(iter(model.types), "")
        size = size_words(model.size) if model.size else "–"
        parts = f" ({model.files} files)" if model.files > 1 else ""
        name = f"{model.found.name:<{width}}  {model.architecture or '–':<12} {types or '–':<8} {size:>9}"
        yield f"{name}  {model.path}{parts}"
        words = [f"alias {alias}" for alias in aliases_of(model.found, config)]
        words += [f"also {', '.join(model.found.names[1:])}"] if model.found.names[1:] else []
        words += ["the default"] if _is_same(model.path, default) else []
        if words:
            yield f"  {', '.join(words)}"
        if not model.can_run:
            yield f"  cannot be run: {model.problem.removeprefix(f'{model.path}: ')}"


def _is_same(path: Path, other: Path | None) -> bool:
    return other is not None and path.absolute() == other.absolute()
