"""What is done with an installed aprtui: the commands that documents tell a stranger to type, and three use cases."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.conftest import CHECKOUT
from tests.documents.blocks import commands
from tests.install.environment import Done, Place
from tests.model.gguf_files import write_model
from tests.test_case_studies import CASES, MODELS, says, verdict_of

_EMBEDDED = "demo-qwen2-q4km"
_FILES = ("MODEL", "model.gguf", "OLD.gguf", "NEW.gguf")
"""What stands for a model of the reader's."""
_CODES = {"replay C": 1, "contracts check --capture A": 125}
"""Exit codes other than 0. Claims about a GPU and about other captures cannot be judged by one capture."""
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

_OWN_ENGINE = """
import sys
from array import array

for path in sorted(Path("good").rglob("*.bin")):
    layer = None if path.parent.name == "good" else int(path.parent.name.partition("-")[2])
    values = array("f", path.read_bytes()[12:])
    if (layer, path.stem) == (1, "ffn_norm"):
        values = array("f", (1.5 * value for value in values))
    if path.stem not in ("attn_scores", "attn_softmax"):
        aprt_add("mine", layer, path.stem, values)
aprt_tokens("mine", TOKENS)
"""
"""An engine of somebody's own, with a wrong norm: what it writes comes from the writer that the documents offer."""
_DUMP = """
import numpy as np
from pathlib import Path

names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "ffn_out": "mlp.down_proj"}
found = {}
for path in Path("good").glob("layer-*/*.bin"):
    if path.stem in names:
        values = np.frombuffer(path.read_bytes()[12:], np.float32).reshape(TOKENS, -1)
        found[f"model.layers.{path.parent.name[6:]}.{names[path.stem]}"] = values
np.savez("states.npz", **found)
"""
"""A tool that dumps tensors by the names of their modules."""


def printed(place: Place, folder: Path, command: str, code: int = 0) -> Done:
    """Run a line as it stands in a document, and require its exit code."""
    done = place.run(shlex.split(command, comments=True), folder)
    assert done.code == code, (command, done.code, done.out[-2000:], done.err[-2000:])
    assert "Traceback" not in done.err and "NETWORK" not in done.err, (command, done.err)
    return done


def first_page(place: Place, folder: Path) -> None:
    """The two commands that a stranger sees first: a bug is planted, and found."""
    for words in commands("docs/index.md", "# aprtui"):
        done = printed(place, folder, shlex.join(["aprtui", *words]), _CODES.get(" ".join(words), 0))
    assert "layer 2 ffn_gate" in done.out


def readme(place: Place, folder: Path) -> None:
    """Every command of README's list, and those of the page on installation."""
    for document, heading in (("README.md", "## Use"), ("docs/installation.md", "# Installation")):
        for words in commands(document, heading):
            named = [_EMBEDDED if word in _FILES else word for word in words]
            printed(place, folder, shlex.join(["aprtui", *named]), _CODES.get(" ".join(words), 0))


def tour(place: Place, folder: Path) -> None:
    """The tour without a terminal, and each command that it tells."""
    said = printed(place, folder, "aprtui tour --text").out
    for words in commands("docs/tour.md", "## Without a terminal"):
        command = shlex.join(["aprtui", *words])
        assert command in said.replace('"', "'"), command
        printed(place, folder, command, 1 if words[0] in ("diff", "replay") else 0)


def case_studies(place: Place, folder: Path) -> None:
    """Every planted bug of the case studies is named in the words that stand there."""
    for name, (architecture, options) in MODELS.items():
        write_model(folder / name, architecture=architecture, **options)
    for case in CASES:
        if case.needs_transformers:
            continue
        *before, last = case.commands
        for command in before:
            printed(place, folder, f"{command} --overwrite" if " trace " in command else command)
        says(case, verdict_of(printed(place, folder, last, 1).out))


def own_engine(place: Place, folder: Path) -> None:
    """An engine's captures by the writer of the documents: the stage that is wrong is named, also in CI's one file."""
    _good(place, folder)
    (writer,) = [
        block for block in _BLOCK.findall((CHECKOUT / "docs" / "writers.md").read_text()) if "aprt_add" in block
    ]
    (folder / "engine.py").write_text(writer + _OWN_ENGINE.replace("TOKENS", "[1, 2, 3, 4]"))
    printed(place, folder, "python engine.py")
    assert "layer 1 ffn_norm" in printed(place, folder, "aprtui replay mine", 1).out
    printed(place, folder, "aprtui export mine --out mine.zip")
    printed(place, folder, "aprtui replay mine.zip --html numbers.html", 1)
    assert "ffn_norm" in (folder / "numbers.html").read_text()


def dump_of_another_tool(place: Place, folder: Path) -> None:
    """A file of tensors becomes a capture by a mapping that is guessed, and is what it was made from."""
    _good(place, folder)
    (folder / "dump.py").write_text(_DUMP.replace("TOKENS", "4"))
    printed(place, folder, "python dump.py")
    printed(place, folder, f"aprtui import states.npz --guess --model {_EMBEDDED} --write-map map.yaml")
    printed(place, folder, "aprtui import states.npz --map map.yaml --out theirs")
    diff = "aprtui diff good theirs --tokens 1,2,3,4 --stage attn_norm,ffn_norm,ffn_out --tolerance max_abs=0"
    assert "PASS" in printed(place, folder, diff).out


def model_file(place: Place, folder: Path) -> None:
    """A file is looked at, checked, and held against another one; one that is cut off is refused in one line."""
    path = write_model(folder / "new.gguf")
    for command in ("info new.gguf", "check new.gguf", "diff new.gguf new.gguf --weights", "models"):
        printed(place, folder, f"aprtui {command}")
    (folder / "cut.gguf").write_bytes(path.read_bytes()[:-999])
    assert printed(place, folder, "aprtui run cut.gguf", 3).err.count("\n") == 1


def _good(place: Place, folder: Path) -> None:
    printed(place, folder, "aprtui trace --tokens 1,2,3,4 --save-tensor-dir good")


JOBS: Mapping[str, Callable[[Place, Path], None]] = {
    "first page": first_page, "README": readme, "tour": tour, "case studies": case_studies,
    "own engine": own_engine, "dump of another tool": dump_of_another_tool, "model file": model_file,
}  # fmt: skip


def figures(place: Place, folder: Path) -> Iterator[tuple[str, Done]]:
    """Starts of a run, to its first token: on an empty cache, then the next one, then more."""
    for name in ("first start", "second start", *["warm"] * 5):
        yield name, printed(place, folder, "aprtui run -p 'def fib(n):' -n 1")
