"""What other tools and engines leave, where a page brings it along."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import tokenizers

from aprtui.model.model import load_model
from aprtui.model.weight_types import WeightType
from aprtui.oracle.transformers_model import libraries
from aprtui.resources import embedded_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.cli.test_bisect import git
from tests.conftest import CHECKOUT, conformance_folder
from tests.conversion.folders import folder_of
from tests.documents.shelf import GOOD, PROMPT, WRONG_GATE, Shelf, invoked, traced
from tests.engine.sessions.recorded_session import write_session
from tests.importing.dumps import Ours, ours
from tests.importing.rank_folders import Array, write_ranks
from tests.importing.test_engine_dumps import apr_positions, edge_llm, llama_debug, trt_llm
from tests.importing.test_module_dumps import (
    PREFILL_AND_DECODE,
    debugged,
    msprobe_dump,
    sglang_dumper,
    sglang_passes,
    transformers_values,
)
from tests.importing.test_samples import eval_text, imatrix, kld
from tests.model.gguf_files import write_model
from tests.oracle.test_hugging_face import folder_of as folder_of_transformers
from tests.recordings.made import attention_recording
from tests.tui.screens.contracts.example import CONTRACT
from tests.tui.screens.sweep.example import write_results


def passes_of_sglang(path: Path, shelf: Shelf) -> None:
    """Behind four by which a server warms up."""
    sglang_passes(shelf.qwen2, path, (*[slice(0, 3)] * 4, *PREFILL_AND_DECODE))


def one_pass_of_sglang(path: Path, shelf: Shelf) -> None:
    sglang_passes(shelf.qwen2, path, (slice(0, 12),))


def dumper_of_sglang(path: Path, shelf: Shelf) -> None:
    sglang_dumper(shelf.qwen2, path)


def of_msprobe(path: Path, shelf: Shelf) -> None:
    msprobe_dump(shelf.qwen2, path / "step0" / "rank0")


def of_the_debugger(path: Path, shelf: Shelf) -> None:
    debugged(shelf.qwen2.model, path)


def of_tensorrt_llm(path: Path, shelf: Shelf) -> None:
    trt_llm(shelf.qwen2, path)


def of_edge_llm(path: Path, shelf: Shelf) -> None:
    edge_llm(shelf.qwen2, path, (6, 8, 10, 12))


def of_llama_debug(path: Path, shelf: Shelf) -> None:
    llama_debug(shelf.qwen2, path, "llamacpp-model")


def of_apr(path: Path, shelf: Shelf) -> None:
    for device in ("cpu", "gpu"):
        apr_positions(shelf.qwen2, path / device)


def arrays(path: Path, shelf: Shelf) -> None:
    """A file for what each module gives."""
    path.mkdir()
    for module, kind, values in transformers_values(shelf.qwen2):
        if kind == "output":
            np.save(path / f"{module}.npy", values)


def hidden_states(path: Path, shelf: Shelf) -> None:
    """As transformers gives them: the last one is normalised."""
    of = shelf.qwen2.values
    states = (of(0, "embedding"), of(0, "post_ffn_residual"), of(None, "final_norm"))
    with path.open("wb") as file:
        np.savez(file, **{f"hidden_states_{number}": values for number, values in enumerate(states)})  # type: ignore[arg-type]


def printed_values(path: Path, shelf: Shelf) -> None:
    eval_text(shelf.prompted, path)


def log_probabilities(path: Path, shelf: Shelf) -> None:
    kld(shelf.prompted, path)


def log_probabilities_of_embedded(path: Path, shelf: Shelf) -> None:
    """Of so many tokens that a walk over them can be judged."""
    capture = shelf.get(traced("--logits all", prompt=f"--tokens {','.join(map(str, range(300, 332)))}"))
    kld(Ours(load_model(embedded_model()), Capture.open(capture)), path)


def mean_squares(path: Path, shelf: Shelf) -> None:
    imatrix(shelf.prompted, path)


def four_layers(path: Path, _: Shelf) -> None:
    write_model(path, architecture="qwen2", layers=4)


def eight_ranks(path: Path, shelf: Shelf) -> None:
    """Of which the seventh has a norm of its own in layer 2; the others agree to rounding."""

    def fault(rank: int, node: Node, values: Array) -> Array:
        if (rank, node.stage) == (1, "attn_norm"):
            return np.nextafter(values, np.float32(np.inf))
        return values * np.float32(1.05) if (rank, node) == (6, Node(2, "ffn_norm")) else values

    (folder := path.with_name("model")).mkdir()
    write_ranks(ours(folder, layers=4), path, 4, 2, fault)


def original_folder(path: Path, shelf: Shelf) -> None:
    """The folder that `converted_file` was made from."""
    folder_of(load_model(shelf.get(converted_file))).write(path)


def converted_file(path: Path, _: Shelf) -> None:
    write_model(path, layers=1, weight_type=WeightType.Q8_0)


def in_bfloat16(path: Path, _: Shelf) -> None:
    write_model(path, architecture="qwen2", weight_type=WeightType.BF16)


def saved_by_transformers(path: Path, shelf: Shelf) -> None:
    """The folder of that model, with a tokenizer whose tokens are bytes."""
    folder_of_transformers(load_model(shelf.get(in_bfloat16)), path)
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    plain = tokenizers.Tokenizer(tokenizers.models.BPE({letter: token for token, letter in enumerate(letters)}, []))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    libraries()[1].PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(path)


def recording(path: Path, _: Shelf) -> None:
    attention_recording(path)


def session(path: Path, _: Shelf) -> None:
    write_session(path)


def sweep_results(path: Path, _: Shelf) -> None:
    write_results(path)


def repository(path: Path, shelf: Shelf) -> None:
    """An engine of somebody's, of which the fourth revision computes something else."""
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    (path / ".gitignore").write_text("mine\nmodel.gguf\ntheirs\n.*\n")
    copies = 'rm -rf "$2"; cp -r "$(dirname "$0")/$(cat which)" "$2"\n'
    for name, words in (("my-engine", '--dump "$2"'), ("run.sh", '--dump "$1"')):
        (path / name).write_text(f"#!/bin/sh\nset -- {words}\n{copies}")
        (path / name).chmod(0o755)
    (path / "Makefile").write_text("all:\n")
    for name, maker in (("good", GOOD), ("bad", WRONG_GATE)):
        shelf.put(maker, path / name)
    for number, which in enumerate(("good", "good", "good", "bad", "bad")):
        (path / "which").write_text(which)
        git(path, "add", "-A")
        git(path, "commit", "-q", "--allow-empty", "-m", f"revision {number}")
    git(path, "tag", "v1.2", "HEAD~4")


def contract(path: Path, _: Shelf) -> None:
    path.write_text(CONTRACT)


def contract_of_aprender(path: Path, _: Shelf) -> None:
    shutil.copy(conformance_folder() / "contracts" / "aprender" / "apr-cli-trace-save-tensor-v1.yaml", path)


def contracts(path: Path, _: Shelf) -> None:
    """Ours, with their evidence."""
    shutil.copytree(CHECKOUT / "contracts", path)


VACUOUS = """
metadata: {version: 1.0.0, status: PROPOSED, description: What a capture is.}
equations:
  alive: {formula: "x = x"}
falsification_tests:
  - id: MY-003
    rule: Files are of the format.
    prediction: headers are right
    test: a capture
    if_fails: a writer is wrong
    check: {name: byte_format}
  - id: MY-004
    rule: Stages point the same way.
    prediction: a cosine is at least -1
    test: a capture and a reference
    if_fails: an engine is wrong
    check: {name: cosine_floor, at_least: -1}
"""
"""A contract with a falsifier that no fault can fail."""


def by_llamacpp(path: Path, shelf: Shelf) -> None:
    """What llama.cpp computed of the embedded model."""
    invoked(f"record llamacpp {embedded_model()} -p '{PROMPT}' --out {path}")


def plan(path: Path, _: Shelf) -> None:
    """The plan of the page on sweeps."""
    (found,) = re.findall(r"```yaml\n(# night.yaml\n.*?)```", (CHECKOUT / "docs" / "sweep.md").read_text(), re.DOTALL)
    path.write_text(found)
