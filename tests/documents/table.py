"""What becomes of each block of commands in the documents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.documents import dumps
from tests.documents.shelf import (
    DEEP,
    GOOD,
    HONEST,
    PROMPT,
    WRONG_GATE,
    WRONG_ROPE,
    Maker,
    dumped,
    dumped_at_prompt,
    embedded,
    own_capture,
    program,
    random_model,
    text,
    traced,
)


@dataclass(frozen=True)
class Executed:
    """A block that is executed, where the names that it uses are what `names` makes. It takes more than a second unless
    it is `in_gate`."""

    starts: str
    names: Mapping[str, Maker] = field(default_factory=dict)
    swaps: Mapping[str, str] = field(default_factory=dict)
    """Words that stand for what this machine does not have, by those in their place."""
    codes: Mapping[str, int] = field(default_factory=dict)
    """Exit codes that the page tells in prose, by how the line begins; 0 and those that its comments tell need none."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """What stands on the screen that a line opens, by how the line begins."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Lines that are not executed, and why."""
    groups: tuple[str, ...] = ()
    in_gate: bool = False

    def typed(self, line: str) -> str:
        for word, other in self.swaps.items():
            line = re.sub(rf"(?<![\w/]){re.escape(word)}\b", other, line)
        return line


@dataclass(frozen=True, slots=True)
class NotExecuted:
    """A block that cannot be, and why."""

    starts: str
    reason: str


Row = Executed | NotExecuted
_MINUTES = "tens of minutes; tests/bench and tests/cli/test_bench_verdicts.py run small parts of it"
_INSTALLS = "makes environments from a package index; tests/install does that"
_GPU = "needs a GPU"

ELSEWHERE: Mapping[str, str] = {
    "docs/extending.md": "tests/test_extending.py",
    "docs/case-studies.md": "tests/test_case_studies.py",
    "CONTRIBUTING.md": ".ci/run",
}
"""Pages of which another test executes all blocks, or which are about executing the tests."""

_MODEL: Mapping[str, Maker] = {"model.gguf": embedded}

PAGES: Mapping[str, tuple[Row, ...]] = {
    "README.md": (
        NotExecuted("make run", "installs, and runs these tests"),
        Executed(
            "aprtui run -p",
            dict.fromkeys(("model.gguf", "MODEL", "OLD.gguf", "NEW.gguf"), embedded),
            left_out={"aprtui contracts check": "takes minutes; tests/cli/test_contracts_check.py has fewer claims"},
        ),
    ),
    "docs/app.md": (
        Executed(
            "aprtui open model.gguf ",
            {
                **_MODEL, "captures/good": GOOD, "captures/model.gguf": embedded, "good": GOOD, "bad": WRONG_GATE,
                "layer-3/ffn_gate.bin": lambda path, shelf: path.write_bytes(
                    (shelf.get(GOOD) / "layer-3" / "ffn_gate.bin").read_bytes()
                ),
                "theirs": dumps.recording, "night-sweep": dumps.sweep_results, "run.jsonl": dumps.session,
                "contract.yaml": dumps.contract,
            },
            groups=("pty",),
            shown={
                "aprtui open model.gguf": "■ ready", "aprtui open captures/": "captures(.|\n)*good",
                "aprtui open good bad": "FAIL(.|\n)*ffn_gate", "aprtui open layer-3": "ffn_gate",
                "aprtui open theirs": "ops", "aprtui open night-sweep": "exact × mine",
                "aprtui open run.jsonl": "recording",
                "aprtui open 'aprtui:diff": "ffn_gate",
            },
        ),
        Executed("aprtui open model.gguf -p", {"model.gguf": random_model()}, groups=("pty",)),
    ),
    "docs/automation.md": (
        Executed(
            "aprtui bisect", {".": dumps.repository, "model.gguf": embedded, "theirs": GOOD},
            codes={"aprtui bisect": 1},
        ),
        NotExecuted("git bisect start", "tests/test_automation.py does, and reads what git answers"),
    ),
    "docs/benchmarks.md": (
        NotExecuted("pip install", _MINUTES),
        NotExecuted("python -m tests.install", _INSTALLS),
        NotExecuted("aprtui bench verdicts", _MINUTES),
        NotExecuted("aprtui bench verdicts --part oracles", _MINUTES),
        NotExecuted("aprtui bench verdicts --part causes", _MINUTES),
        NotExecuted("aprtui bench tui", "writes 17 GB"),
        NotExecuted("python -m aprtui.engine.cuda.images", _GPU),
    ),
    "docs/contracts.md": (
        Executed("aprtui trace", {"apr-cli-trace-save-tensor-v1.yaml": dumps.contract_of_aprender},
                 groups=("conformance",)),
        Executed("aprtui contracts faults", {"my-v1.yaml": text(dumps.VACUOUS)}, codes={"aprtui contracts": 1}),
        Executed("aprtui contracts verify-evidence", {"contracts": dumps.contracts}),
        NotExecuted("aprtui contracts promote", "its answer changes with each change of what the evidence is about"),
        NotExecuted("aprtui contracts audit", "of contracts that are not brought along; tests/contracts/test_audit.py"),
    ),
    "docs/embedded-model.md": (NotExecuted("python -m aprtui.demo.train", "hours of training"),),
    "docs/export.md": (
        Executed(
            "aprtui export mine",
            {"mine": traced(prompt="--tokens 1,2,3,4,5,6"), "A": GOOD, "B": HONEST},
        ),
    ),
    "docs/gpu-run.md": (NotExecuted("LLAMA_BENCH=", _GPU), NotExecuted("python3 -m pip list", _INSTALLS)),
    "docs/importing.md": (
        Executed(
            "aprtui import dump/ --out",
            {"model.gguf": dumped, "dump": dumps.one_pass_of_sglang, "arrays": dumps.arrays},
        ),
        Executed(
            "aprtui import states.npz",
            {"model.gguf": dumped, "states.npz": dumps.hidden_states, "mine": own_capture},
        ),
        Executed(
            "sglang serve",
            {
                "model.gguf": dumped, ".data/dump": dumps.passes_of_sglang,
                ".programs/sglang": program('cp -r "$data/dump" "$5"'),
            },
        ),
        Executed(
            "DUMPER_ENABLE=1",
            {
                "model.gguf": dumped, ".data/dump": dumps.dumper_of_sglang,
                ".programs/sglang": program('cp -r "$data/dump" "$DUMPER_DIR"'),
                "map.yaml": text('stages: {attention: "my_attn/layer={layer}/step=0"}'),
            },
        ),
        Executed("aprtui import msprobe_dump", {"model.gguf": dumped, "msprobe_dump": dumps.of_msprobe}, in_gate=True),
        Executed(
            "aprtui replay debug", {"model.gguf": dumped, "debug": dumps.of_the_debugger}, groups=("transformers",)
        ),
        Executed("aprtui import tensor_dump", {"model.gguf": dumped, "tensor_dump": dumps.of_tensorrt_llm},
                 in_gate=True),
        Executed(
            "llama-debug -m",
            {
                "model.gguf": dumped, "mine": own_capture, ".data/data": dumps.of_llama_debug,
                ".programs/llama-debug": program('cp -r "$data/data" data'),
            },
        ),
        Executed("aprtui import dump.safetensors", {"dump.safetensors": dumps.of_edge_llm}, in_gate=True),
        Executed(
            "apr parity",
            {
                "model.gguf": dumped, ".data/out": dumps.of_apr,
                ".programs/apr": program('cp -r "$data/out" "$5"'),
            },
        ),
        Executed(
            "llama-eval-callback",
            {
                "model.gguf": dumped_at_prompt, ".data/printed.txt": dumps.printed_values,
                ".programs/llama-eval-callback": program('cat "$data/printed.txt"'),
                "base.kld": dumps.log_probabilities, "imatrix.gguf": dumps.mean_squares,
            },
            groups=("jq",),
        ),
    ),
    "docs/index.md": (Executed("aprtui trace", in_gate=True),),
    "docs/installation.md": (
        NotExecuted("uv tool install", _INSTALLS),
        Executed("aprtui doctor", in_gate=True),
        Executed(
            'eval "$(_APRTUI_COMPLETE=bash',
            left_out={
                'eval "$(_APRTUI_COMPLETE=zsh': "needs zsh; tests/cli/test_completion.py",
                "_APRTUI_COMPLETE=fish": "needs fish; tests/cli/test_completion.py",
            },
        ),
    ),
    "docs/models.md": (
        Executed("aprtui models", {"models/small.gguf": random_model()}, groups=("jq",)),
        Executed(
            "aprtui check",
            {
                "model.gguf": dumps.converted_file,
                "../models/Qwen2.5-Coder-0.5B-Instruct": dumps.original_folder,
            },
        ),
    ),
    "docs/oracle.md": (
        Executed(
            "pip install", {**_MODEL, "mine": GOOD}, groups=("transformers", "llama_cpp"),
        ),
        Executed(
            "aprtui oracle hf ./Qwen2.5-0.5B",
            {"Qwen2.5-0.5B": dumps.saved_by_transformers, "qwen2.5-0.5b-f16.gguf": dumps.in_bfloat16},
            groups=("transformers",),
        ),
    ),
    "docs/paths.md": (
        Executed("aprtui parity model.gguf ", _MODEL, codes={"aprtui parity model.gguf --inject": 1}),
        Executed(
            "aprtui parity prefill-capture",
            {
                **_MODEL, "prefill-capture": GOOD, "chunked-capture": GOOD,
                "decode-capture": traced("--decode-from 3"), "per-op": dumps.of_apr,
            },
        ),
        Executed(
            "aprtui scan", {**_MODEL, "base.kld": dumps.log_probabilities_of_embedded},
            left_out={'aprtui scan model.gguf -p "def quicksort" --backend cuda': _GPU},
        ),
        Executed("aprtui graft", {"model.gguf": DEEP, "capture": traced(model=DEEP)}),
    ),
    "docs/pytorch.md": (Executed("aprtui replay theirs", {**_MODEL, "theirs": GOOD, "mine": HONEST}),),
    "docs/ranks.md": (Executed("aprtui ranks", {"model.gguf": dumps.four_layers, "dump": dumps.eight_ranks},
                             codes={"aprtui ranks dump/ --dims": 1, "aprtui replay": 125}),),
    "docs/recordings.md": (
        Executed("pip install", _MODEL, groups=("transformers", "llama_cpp")),
        Executed(
            "aprtui stats theirs",
            {**_MODEL, "theirs": dumps.by_llamacpp, "mine": dumps.by_llamacpp, "capture": GOOD},
            groups=("llama_cpp", "pty"),
        ),
        Executed("aprtui record names", {**_MODEL, "theirs": dumps.recording}, groups=("llama_cpp",)),
    ),
    "docs/remote.md": (
        Executed(
            "pip install", {**_MODEL, "before": GOOD},
            swaps={"s3://bucket/runs/16": "before", "s3://bucket": "memory://bucket"}, groups=("fsspec",),
        ),
    ),
    "docs/sessions.md": (Executed("aprtui run", _MODEL, groups=("pty",)),),
    "docs/sweep.md": (
        Executed("pip install", in_gate=True),
        Executed(
            "aprtui sweep",
            {
                "night.yaml": dumps.plan, "small.gguf": random_model(), "prompts.txt": text("def f(x):\nimport os\n"),
                "my-engine": program('exec aprtui trace "$2" --tokens "$4" --save-tensor-dir "$6"'),
            },
            codes={"aprtui sweep night.yaml ": 0}, groups=("dask", "transformers", "pty"),
        ),
        NotExecuted("aprtui sweep", "needs a cluster; tests/sweep/test_running.py has one of processes"),
    ),
    "docs/tour.md": (
        Executed("aprtui tour", in_gate=True),
        Executed("aprtui run", in_gate=True),
        Executed("aprtui diff good mine", {"good": GOOD, "mine": WRONG_ROPE},
                 codes={"aprtui": 1}, in_gate=True),
    ),
    "docs/verdicts.md": (
        Executed(f'aprtui trace -p "{PROMPT}"', {"MODEL": embedded}, codes={"aprtui diff good bad": 1}),
    ),
    "docs/writers.md": (
        Executed(
            "rm -rf mine",
            {
                **_MODEL, "reference": HONEST, ".data/mine": GOOD, "mine": WRONG_GATE,
                "my-engine": program('cp -r .data/mine "$4"'),
            },
        ),
        Executed("zip -0 -r", {**_MODEL, "mine": GOOD}),
    ),
}  # fmt: skip
