"""Running the command line in this process, and a small model to run it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from aprtui.cli.main import main


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> list[str]:
        """The lines on stderr but those of progress, of which a busy machine sees some."""
        return [line for line in self.err.splitlines() if not line.endswith(" …")]


@pytest.fixture
def aprtui(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call it with arguments; gives exit code, stdout and stderr."""

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid two-layer model with random weights."""
    from tests.model.gguf_files import model_file

    return model_file().write(tmp_path_factory.mktemp("model") / "tiny.gguf")
