"""The writers of docs/writers.md, as they are pasted from there: compiled, run, and what they wrote is opened."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model, load_model
from aprtui.resources import embedded_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.conftest import CHECKOUT

_BLOCK = re.compile(r"^```(c|rust|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WRITERS = dict(_BLOCK.findall((CHECKOUT / "docs" / "writers.md").read_text()))
LONGEST = 40
"""Lines that a writer may have."""

MAINS = {
    "c": """
#include <math.h>
int main(int count, char **words) {
    if (count != 2) return 1;
    float first[] = {0, -0.0f, 1.5f, INFINITY}, second[] = {3, 4}, bits;
    uint32_t nan = 0x7fc12345;
    memcpy(&bits, &nan, 4);
    second[1] = bits;
    int ids[] = {7, 8, 9};
    return aprt_add(words[1], 0, "attn_norm", first, 4) || aprt_add(words[1], 0, "attn_norm", second, 2)
        || aprt_add(words[1], -1, "final_norm", second, 1) || aprt_tokens(words[1], ids, 3);
}
""",
    "rust": """
fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap();
    let folder = Path::new(&folder);
    aprt_add(folder, Some(0), "attn_norm", &[0.0, -0.0, 1.5, f32::INFINITY])?;
    aprt_add(folder, Some(0), "attn_norm", &[3.0, f32::from_bits(0x7fc12345)])?;
    aprt_add(folder, None, "final_norm", &[3.0])?;
    aprt_tokens(folder, &[7, 8, 9])
}
""",
    "python": """
import sys
from array import array

folder = sys.argv[1]
nan = array("f", bytes.fromhex("4523c17f"))
aprt_add(folder, 0, "attn_norm", array("f", [0.0, -0.0, 1.5, float("inf")]))
aprt_add(folder, 0, "attn_norm", array("f", [3.0]) + nan)
aprt_add(folder, None, "final_norm", array("f", [3.0]))
aprt_tokens(folder, [7, 8, 9])
""",
}


def program(language: str, writer: str, rest: str, folder: Path, flags: str = "") -> list[str]:
    """The words that run a program made of a writer and what calls it."""
    if language == "python":
        (folder / "writer.py").write_text(writer + rest)
        return [sys.executable, str(folder / "writer.py")]
    compiler = {"c": "cc", "rust": "rustc"}[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source, done = folder / f"writer.{'c' if language == 'c' else 'rs'}", folder / "writer"
    source.write_text(("#include <string.h>\n" if language == "c" else "") + writer + rest)
    words = {
        "c": f"cc -std=c11 -O2 -Wall -Wextra -Werror -D_POSIX_C_SOURCE=200809L {flags} {source} -lm",
        "rust": f"rustc --edition 2021 -D warnings {source}",
    }[language].split()
    finished = subprocess.run([*words, "-o", str(done)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return [str(done)]


@pytest.mark.parametrize("language", MAINS)
def test_a_pasted_writer_writes_a_capture(tmp_path: Path, language: str) -> None:
    words = program(language, WRITERS[language], MAINS[language], tmp_path)
    subprocess.run([*words, str(tmp_path / "out")], check=True)
    found = Capture.open(tmp_path / "out")
    assert (found.tokens, found.warnings) == ((7, 8, 9), ())
    rows = found.values(Node(0, "attn_norm"))
    assert rows.shape == (3, 2)
    expected = [0, 0x80000000, 0x3FC00000, 0x7F800000, 0x40400000, 0x7FC12345]
    assert rows.reshape(-1).view(np.uint32).tolist() == expected
    assert found.values(Node(None, "final_norm")).tolist() == [3.0]


@pytest.mark.parametrize("language", MAINS)
def test_a_writer_is_short_and_needs_nothing_else(language: str) -> None:
    assert len(WRITERS[language].splitlines()) <= LONGEST
    allowed = {
        "c": r"#include <(stdint|stdio|sys/stat)\.h>",
        "rust": r"use std::.*",
        "python": r"import struct|from pathlib.*",
    }
    imports = [line for line in WRITERS[language].splitlines() if re.match(r"#include|use |import |from ", line)]
    assert all(re.fullmatch(allowed[language], line) for line in imports)


def in_file_order(model: Model) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The weights as the engine in C reads them."""
    nodes = [Node(0, "embedding")]
    stages = ("attn_norm", "qkv_matmul", "qkv_bias", "attn_out", "ffn_norm", "ffn_gate", "ffn_up", "ffn_out")
    for layer in range(model.config.graph.layers):
        nodes += [Node(layer, stage) for stage in stages]
    nodes.append(Node(None, "final_norm"))
    return np.concatenate([weight.dequantize().reshape(-1) for node in nodes for weight in model.params(node)])


def test_an_engine_in_c_passes_and_its_wrong_rope_is_named(tmp_path: Path) -> None:
    model = load_model(embedded_model())
    in_file_order(model).tofile(tmp_path / "weights.bin")
    engine = (CHECKOUT / "tests" / "writers" / "engine.c").read_text()
    ids = model.tokenizer.encode("def fib(n):\n    return")

    def replayed(name: str, flags: str = "") -> Comparison:
        words = program("c", WRITERS["c"], engine, tmp_path, flags)
        subprocess.run([*words, tmp_path / "weights.bin", tmp_path / name, *map(str, ids)], check=True)
        with Evaluators(model) as evaluators:
            return replay_capture(Capture.open(tmp_path / name), model, ReplayOptions(), evaluators)

    assert replayed("right").verdict is Verdict.PASS
    wrong = replayed("wrong", "-DWRONG")
    assert wrong.verdict is Verdict.FAIL and wrong.first_divergence is not None
    assert wrong.first_divergence.verdict.node == Node(0, "q_post_rope")
