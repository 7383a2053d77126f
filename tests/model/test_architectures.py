"""The list of architectures, and the steps that add one: a file, an import, an entry."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import pytest

from aprtui.model.architectures.base import Architecture
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.model import load_model
from tests.conftest import CHECKOUT
from tests.model.gguf_files import write_model
from tests.worked_example import Step, copy_with, run_in

TOY = """\
from aprtui.model.architectures.base import DENSE_KEYS, DENSE_MODULES, TIED_HEAD, Architecture
from aprtui.trace.graph import RopeLayout

TOY = Architecture(
    name="toy",
    keys=DENSE_KEYS,
    rope_layout=RopeLayout.INTERLEAVED,
    qk_norm=True,
    tied=TIED_HEAD,
    transformers_class="ToyForCausalLM",
    transformers_modules=DENSE_MODULES,
)
"""

REGISTRY = "aprtui/model/architectures/registry.py"
IMPORT = "from aprtui.model.architectures.toy import TOY\n"
STEPS = (
    Step("aprtui/model/architectures/toy.py", "", TOY),
    Step(REGISTRY, "from aprtui.model.gguf_file import", f"{IMPORT}from aprtui.model.gguf_file import"),
    Step(REGISTRY, "            QWEN3,\n", "            QWEN3,\n            TOY,\n"),
)

ENGINES = """
import sys
import numpy as np
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Mode
from aprtui.model.model import load_model
from aprtui.trace.graph import RopeLayout
from tests.model.gguf_files import write_model
model = load_model(write_model(sys.argv[1], architecture="toy"))
assert model.architecture == "toy" and "q_norm" in model.graph and "qkv_bias" not in model.graph
assert model.config.graph.rope_layout is RopeLayout.INTERLEAVED
logits = []
for backend in sys.argv[2:]:
    engine = open_engine(model, backend=backend, mode=Mode.EXACT, context=64)
    logits.append([engine.forward(range(1, 12)), engine.forward([7])])
    engine.close()
for expected, found in zip(logits[0], logits[-1]):
    assert np.isfinite(expected).all()
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
"""


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda architecture: architecture.name)
def test_the_modules_of_transformers_are_those_that_converters_read(tmp_path: Path, architecture: Architecture) -> None:
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(numbers[architecture.name], 2)
    graph = load_model(write_model(tmp_path / "model.gguf", architecture=architecture.name)).graph
    for stage in graph.stages:
        for parameter in stage.params:
            module = architecture.transformers_modules[parameter].format(layer=1)
            assert names.get_name(module) == (f"blk.1.{parameter}" if ".layers." in module else parameter)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda architecture: architecture.name)
def test_no_key_is_under_two_rules(architecture: Architecture) -> None:
    rules = architecture.keys
    assert not rules.read & rules.ignored
    assert not (rules.read | rules.ignored) & rules.required.keys()


def test_nothing_else_asks_for_an_architecture_by_name() -> None:
    quoted = re.compile("|".join(f'"{name}"' for name in ARCHITECTURES))
    elsewhere = {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / "aprtui").rglob("*.py")
        if quoted.search(path.read_text()) and path.parent.name not in ("architectures", "demo", "bench")
    }
    # Names of tokenizers, which happen to be spelled alike.
    assert elsewhere == {"aprtui/model/byte_pair.py", "aprtui/model/vocabulary.py"}


def test_an_architecture_whose_ops_exist_is_a_file_and_an_entry(tmp_path: Path) -> None:
    run_in(copy_with(STEPS, tmp_path), ENGINES, str(tmp_path / "model.gguf"), "numpy")


@pytest.mark.slow
def test_it_runs_on_the_compiled_engine_as_in_numpy(tmp_path: Path) -> None:
    run_in(copy_with(STEPS, tmp_path), ENGINES, str(tmp_path / "model.gguf"), "numpy", "cpu")
