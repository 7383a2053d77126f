"""What the names on the pages stand for: models, captures, dumps of other tools, recordings, and other programs."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path

from click.testing import CliRunner

from aprtui.cli.main import cli
from aprtui.model.model import load_model
from aprtui.resources import embedded_model
from tests.importing.dumps import Ours, ours
from tests.model.gguf_files import write_model


class Shelf:
    """What makers have made, once in a session."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[Maker, Path] = {}

    def get(self, maker: Maker) -> Path:
        if maker not in self._made:
            path = self._folder / str(len(self._made)) / "it"
            path.parent.mkdir()
            self._made[maker] = path
            maker(path, self)
        return self._made[maker]

    def put(self, maker: Maker, path: Path) -> None:
        """A copy of what the maker makes, at `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        made = self.get(maker)
        if made.is_dir():
            shutil.copytree(made, path, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy(made, path)

    @cached_property
    def qwen2(self) -> Ours:
        """A model of two layers with random weights, and our capture of it, from which dumps are made."""
        (folder := self._folder / "qwen2").mkdir()
        return ours(folder)

    @cached_property
    def prompted(self) -> Ours:
        """The same model at the tokens of the prompt of the pages."""
        (folder := self._folder / "prompted").mkdir()
        model = load_model(write_model(folder / "qwen2.gguf", architecture="qwen2", layers=2))
        return ours(folder, tokens=tuple(model.tokenizer.encode(PROMPT)))


Maker = Callable[[Path, Shelf], object]
PROMPT = "def fib(n):"


def invoked(words: str) -> None:
    """Run a command that must end well."""
    result = CliRunner().invoke(cli, shlex.split(words), standalone_mode=False)
    assert result.exception is None, result.output


def embedded(path: Path, _: Shelf) -> None:
    shutil.copyfile(embedded_model(), path)


@cache
def traced(options: str = "", model: Maker | None = None, prompt: str = f'-p "{PROMPT}"') -> Maker:
    """A capture by our engine, of the embedded model or of one that is made."""

    def make(path: Path, shelf: Shelf) -> None:
        file = "" if model is None else shlex.quote(str(shelf.get(model)))
        invoked(f"trace {file} {prompt} {options} --save-tensor-dir {shlex.quote(str(path))}")

    return make


@cache
def random_model(architecture: str = "qwen2", layers: int = 2) -> Maker:
    return lambda path, _: write_model(path, architecture=architecture, layers=layers)


GOOD = traced()
WRONG_ROPE = traced("--inject layer=2,stage=q_post_rope,kind=rope-theta")
WRONG_GATE = traced("--inject layer=2,stage=ffn_gate,kind=scale")
HONEST = traced("--backend numpy")
DEEP = random_model(layers=14)


def dumped(path: Path, shelf: Shelf) -> None:
    """The model that dumps are of."""
    shutil.copyfile(shelf.qwen2.model.path, path)


def dumped_at_prompt(path: Path, shelf: Shelf) -> None:
    shutil.copyfile(shelf.prompted.model.path, path)


def own_capture(path: Path, shelf: Shelf) -> None:
    shutil.copytree(shelf.qwen2.capture.path, path)


def text(content: str) -> Maker:
    return lambda path, _: path.write_text(content)


def program(script: str) -> Maker:
    """A program that stands in for one that is not ours, and leaves what its like would: what lies in `.data`."""

    def make(path: Path, _: Shelf) -> None:
        path.write_text(f'#!/bin/sh\ndata=$(dirname "$0")/../.data\n{script}\n')
        path.chmod(0o755)

    return make
