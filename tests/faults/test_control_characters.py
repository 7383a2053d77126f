"""Nothing that a file, a name or a prompt holds reaches a terminal as a control character."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.color import Color

from aprtui.cli.main import main
from aprtui.terminal_output import DIM, ERASE_LINE, PLAIN, shown
from aprtui.trace.manifest import FILE_NAME
from aprtui.tui.app import AprtuiApp
from aprtui.tui.frame.control_filter import ControlFilter, without_controls
from aprtui.tui.frame.session import Session
from tests.contracts.samples import SOUND
from tests.fuzz.model_files import small_model
from tests.model.gguf_files import ModelFile
from tests.tui.screens.live.recorded import RecordedSource
from tests.tui.test_hostile_terminal import PseudoTerminal
from tests.tui.test_terminal import LOADING_SECONDS

EVIL = "\x1b]0;owned\x07\x9b31m\x1b[2J\r\x08"
"""A title, a colour in eight bits, a cleared screen, the cursor moved."""
_ALLOWED = re.compile("|".join(map(re.escape, (ERASE_LINE, DIM, PLAIN, "\r\n", "\n", "\t"))))


def hostile_model() -> ModelFile:
    file = small_model()
    file.metadata["general.name"] = f"name{EVIL}"
    file.metadata["tokenizer.chat_template"] = f"{{{{ messages }}}}{EVIL}"
    file.metadata[f"odd.key{EVIL}"] = f"value{EVIL}"
    file.metadata["tokenizer.ggml.tokens"][:40] = [f"{EVIL}{number}" for number in range(40)]
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name is hostile, with a model, two captures of it that say so too, and a contract."""
    folder = tmp_path_factory.mktemp("evil") / f"dir{EVIL.replace('/', '')}"
    folder.mkdir()
    file = hostile_model()
    model = file.write(folder / f"m{EVIL}.gguf")
    extra = hostile_model()
    extra.tensors[f"blk.0.odd{EVIL}"] = extra.tensors["output_norm.weight"]
    extra.write(folder / "extra.gguf")
    for name in ("A", "B"):
        words = [
            "trace",
            str(model),
            "--tokens",
            "1,2,3",
            "--backend",
            "numpy",
            "--save-tensor-dir",
            str(folder / name),
        ]
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    manifest = folder / "B" / FILE_NAME
    evil = EVIL.encode("unicode_escape").decode().replace("\\x", "\\u00")
    text = manifest.read_text().replace('"name": "', f'"name": "{evil}').replace('"mode": "', f'"mode": "{evil}')
    manifest.write_text(text)
    (folder / "A" / "layer-0" / f"x{EVIL}.bin").write_bytes(b"APRT")
    quoted = EVIL.encode("unicode_escape").decode()
    contract = SOUND.replace("description: A sample", f'description: "{quoted}"').replace("run it", f'"{quoted}"')
    (folder / "evil.yaml").write_text(contract.replace("id: FALSIFY-1", f'id: "FALSIFY-1{quoted}"'))
    return folder


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Runs a command whose streams are a terminal; gives what came out there."""
    controller, terminal = pty.openpty()
    found: list[bytes] = []

    def read() -> None:
        while True:
            ended = done.is_set()
            if select.select([controller], [], [], 0.05)[0]:
                try:
                    found.append(os.read(controller, 65536))
                except OSError:
                    return
            elif ended:
                return

    done = threading.Event()
    reader = threading.Thread(target=read)
    reader.start()

    def run(*words: object) -> str:
        with open(terminal, "w", encoding="utf-8", closefd=False) as out:
            monkeypatch.setattr(sys, "stdout", out)
            monkeypatch.setattr(sys, "stderr", out)
            with pytest.raises(SystemExit):
                main([str(word) for word in words])
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        done.set()
        reader.join()
        monkeypatch.undo()
        return b"".join(found).decode(errors="surrogateescape")

    yield run
    done.set()
    reader.join()
    for descriptor in (controller, terminal):
        os.close(descriptor)


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("info", "MODEL"), ("info", "extra.gguf"), ("check", "MODEL"), ("stats", "A"), ("stats", "MODEL"),
    ("diff", "A", "B"),
    ("diff", "A", "B", "--json"), ("replay", "B", "--model", "MODEL", "--backend", "numpy", "--stage", "attn_norm"),
    ("run", "MODEL", "--backend", "numpy", "-n", "4", "--temp", "0", "-p", f"x{EVIL}"),
    ("run", "MODEL", "--backend", "numpy", "-n", "4", "--temp", "5", "--tokens", "1,2,3"),
    ("run", f"none{EVIL}"), ("open", f"aprtui:{EVIL}"), ("trace", "MODEL", "--tokens", EVIL),
    ("contracts", "validate", "evil.yaml"), ("contracts", "status", "evil.yaml"),
    ("import", "A", "--out", f"A{EVIL}"), (EVIL,), ("diff", f"--{EVIL}"), ("models",),
)  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words).replace(EVIL, "EVIL"))
def test_no_command_passes_a_control_character_on(
    words: tuple[str, ...], folder: Path, on_terminal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = next(folder.glob("m*.gguf"))
    names = {"MODEL": model} | {path.name: path for path in folder.iterdir()}
    printed = on_terminal(*(names.get(word, word) for word in words))
    assert printed.strip() and "internal error" not in printed
    rest = _ALLOWED.sub("", printed)
    assert shown(rest) == rest and "\ufffd" not in rest


def test_what_is_shown_in_place_of_control_characters_keeps_lines_and_json() -> None:
    assert shown("a\tb\nc é 東 👩\u200d💻") == "a\tb\nc é 東 👩\u200d💻"
    assert shown("\x1b[31m\x9b\x7f\r") == "\\u001b[31m\\u009b\\u007f\\u000d"
    assert shown("safe\u202egpj.exe") == "safe\\u202egpj.exe"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "keys", "drawn"),
    [((".",), "jjjjl", b"extra"), (("A", "B"), "jjm?", b"layer 0 embedding"), (("evil.yaml",), "jjl", b"FALSIFY")],
    ids=["browse", "diff", "contracts"],
)
def test_no_screen_passes_a_control_character_on(folder: Path, words: tuple[str, ...], keys: str, drawn: bytes) -> None:
    terminal = PseudoTerminal(folder, "open", *words)
    try:
        terminal.until(drawn, LOADING_SECONDS)
        written = terminal.output
        for key in keys:
            terminal.send(key.encode())
            with contextlib.suppress(AssertionError):
                terminal.until(b"never written", 3)
            written += terminal.output
    finally:
        terminal.close()
    assert b"owned" in written or words == ("A", "B"), "what is hostile was not drawn"
    for sequence in (b"\x1b]0;owned", b"owned\x07", "\x9b31m".encode(), b"\x1b[2J\r"):
        assert sequence not in written


def test_every_screen_is_drawn_through_the_filter_of_control_characters() -> None:
    filters = AprtuiApp(Session(RecordedSource())).get_line_filters()
    (control,) = [each for each in filters if isinstance(each, ControlFilter)]
    style = Style(bold=True)
    drawn = control.apply([Segment("plain"), Segment(f"x{EVIL}\udcff\n", style)], Color(0, 0, 0))
    assert drawn[0] == Segment("plain") and drawn[1].style == style
    assert drawn[1].text.startswith("x]0;owned31m[2J") and without_controls(drawn[1].text) == drawn[1].text
    for text in (EVIL, "a\tb", "naïve 東京 👩\u200d💻", "\udcff", "safe\u202egpj"):
        assert cell_len(without_controls(text)) == cell_len(text)
