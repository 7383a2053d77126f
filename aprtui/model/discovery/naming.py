"""What MODEL means on a command line: a path, an alias of the configuration, or a name that `aprtui models` lists."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from aprtui.config import Config, config_path, expanded, read_config
from aprtui.errors import UnreadableError, UsageError
from aprtui.model.discovery.catalogue import describe
from aprtui.model.discovery.places import FoundModel, found_models
from aprtui.model.open_file import SUFFIXES
from aprtui.resources import embedded_model

_MOST_NAMED = 5


def model_path(text: str) -> Path:
    """The file that `text` names: one that exists, else by its alias, else by its name.

    What can only be a path comes back as it is, for whoever opens it to say what is wrong. Raises `UnreadableError` for
    a name that no model has, `UsageError` for one that several have which can be run.
    """
    path = Path(text)
    if os.path.lexists(path):
        return path
    found = named_model(text)
    if found is not None:
        return found
    if os.sep in text or path.suffix in SUFFIXES:
        return path
    near = _near(text, read_config(config_path()))
    raise UnreadableError(f"{text}: no such file, and no model of that name{near}: see aprtui models")


def named_model(text: str) -> Path | None:
    """The model of that alias or name; None where there is no such. Raises `UsageError` for one that is not clear."""
    return _by_name(text, read_config(config_path()))


def default_model() -> Path:
    """What MODEL means where it is left out: of the configured models the first that can be run, else the embedded one.

    Raises `UsageError` where models are configured and none of them can be run.
    """
    config = read_config(config_path())
    problems = []
    for text in config.default:
        path = _by_name(text, config) or config.path.parent / expanded(text)
        if not os.path.lexists(path):
            problems.append(f"{text}: not found")
            continue
        listed = describe(FoundModel(path, (text,), "configured"))
        if listed.can_run:
            return path
        problems.append(listed.problem)
    if problems:
        raise UsageError(f"{config.path}: [models] default: none can be run: {'; '.join(problems)}: name a MODEL")
    return embedded_model()


def has_default() -> bool:
    """Whether the configuration says what MODEL means where it is left out."""
    return bool(read_config(config_path()).default)


def aliases_of(model: FoundModel, config: Config) -> tuple[str, ...]:
    """The aliases that stand for `model`."""
    return tuple(alias for alias, target in config.aliases.items() if _stands_for(target, model, config))


def broken_aliases(models: Iterable[FoundModel], config: Config) -> tuple[str, ...]:
    """A line for each alias that leads nowhere."""
    names = {name.lower() for model in models for name in model.names}
    return tuple(
        _leads_nowhere(alias, target, config)
        for alias, target in config.aliases.items()
        if target.lower() not in names and not os.path.lexists(config.path.parent / expanded(target))
    )


def _leads_nowhere(alias: str, target: str, config: Config) -> str:
    return f"{alias}: alias of {target}, which is neither a file nor the name of a model: correct it in {config.path}"


def _stands_for(target: str, model: FoundModel, config: Config) -> bool:
    path = config.path.parent / expanded(target)
    if path.is_file():
        return path.samefile(model.path)
    return target.lower() in map(str.lower, model.names)


def _by_name(text: str, config: Config) -> Path | None:
    target = config.aliases.get(text)
    if target is None:
        return _chosen(text, found_models(config))
    path = config.path.parent / expanded(target)
    if os.path.lexists(path):
        return path
    found = _chosen(target, found_models(config))
    if found is None:
        raise UsageError(_leads_nowhere(text, target, config))
    return found


def _chosen(name: str, models: Iterable[FoundModel]) -> Path | None:
    """The one model of that name, else of that name in another case; of several the one that can be run."""
    models = tuple(models)
    called = [model for model in models if name in model.names]
    called = called or [model for model in models if name.lower() in map(str.lower, model.names)]
    if len(called) > 1:
        called = [model for model in called if describe(model).can_run] or called
    if len(called) > 1:
        paths = ", ".join(str(model.path) for model in called[:_MOST_NAMED])
        more = f" and {len(called) - _MOST_NAMED} more" if len(called) > _MOST_NAMED else ""
        raise UsageError(f"{name}: {len(called)} models have this name: {paths}{more}: give the path of one")
    return called[0].path if called else None


def _near(text: str, config: Config) -> str:
    """Names that hold `text`, else such that look like it, as the end of a sentence."""
    names = {name.lower(): name for model in found_models(config) for name in model.names}
    names |= {alias.lower(): alias for alias in config.aliases}
    near = [name for lower, name in names.items() if text.lower() in lower]
    near = near or [names[lower] for lower in difflib.get_close_matches(text.lower(), names)]
    return f" (there is {', '.join(near[:_MOST_NAMED])})" if near else ""
