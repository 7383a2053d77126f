"""Harnesses of what people write: contracts, mappings, policies, configuration, states of screens, options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aprtui.cli.options import parse_tokens
from aprtui.compare.align.mapping import read_mapping
from aprtui.compare.policy import read_policy
from aprtui.compare.verdict import parse_tolerance
from aprtui.config import read_config
from aprtui.contracts.documents.reader import read_document
from aprtui.contracts.documents.validation import validate
from aprtui.contracts.evidence.files import read_evidence, write_evidence
from aprtui.contracts.panel import panel
from aprtui.engine.faults.faults import parse_fault
from aprtui.engine.quality.golden import golden_prompts
from aprtui.engine.replay.arithmetic import parse_rounding
from aprtui.engine.scanning.against import parse_against
from aprtui.errors import AprtuiError
from aprtui.importing.mapping import as_document, read_mapping_file
from aprtui.model.model import load_model
from aprtui.trace.graph.stage import Node
from aprtui.trace.select import parse_layers, parse_node, parse_positions, select_stages
from aprtui.tui.frame.state import FIELDS, parse_state
from aprtui.tui.screens.tensor.text import parse_place
from tests.contracts.evidence_samples import PASSED
from tests.contracts.samples import SOUND
from tests.fuzz.harness import Harness, Target, replace_file
from tests.fuzz.model_files import small_model

_YAML = (
    b"\n  ", b"- ", b": ", b"&a ", b"*a", b"!!map ", b"!!python/none ", b"? ", b"| ", b"<<: ", b"\t", b"---\n",
    b"...\n", b"0..2", b"{layer}", b"{token}", b"*", b"[channel, token]", b"cosine: 2", b"rel_l2", b"attn_*",
    b"\xc2\x85",
)  # fmt: skip
_MAPPING = """\
layers: {first: 1}
tokens: [1, 2]
stages:
  attn_norm: "model.layers.{layer}.norm"
  qkv_matmul: {concatenate: ["q.{layer}", "k.{layer}", "v.{layer}"], slice: {channel: [0, 4]}}
  k_post_rope: {from: "k.{layer}", axes: [batch, head, token, channel], batch: 0, pairs: to-halves, head_dim: 4}
"""
_POLICY = """\
allow_missing: [ffn_silu]
rules:
  - {stage: attn_*, layers: 0..4, bounds: {rel_l2: 1.0e-3, cosine: 0.999}}
  - {stage: "*", bounds: {token_rel_l2: 0.05}}
"""
_STAGE_MAPPING = "stages: {attn_norm: norm}\nlayers: {offset: 1}\nlayout: {attn_norm: stated}\n"
_PROMPTS = 'prompts:\n  - {prompt: "a", raw: ["b"], chat: ["c"], tokens: 4}\n'
_CONFIG = """\
theme = "aprtui-light"
ascii = true
[keys]
"diff.swap" = "f9"
[models]
folders = ["~/gguf"]
default = ["coder"]
[aliases]
coder = "x"
"""
_STATES = tuple(f"aprtui:{name}?{'&'.join(f'{field}=1' for field in fields)}" for name, fields in FIELDS.items())
_OPTIONS = (
    "all", "0..2,3", "attn_*,lm_head", "layer=0,stage=ffn_gate,kind=scale", "layer=0,stage=ffn_out",
    "rel_l2=1e-5", "matmul_input=q8_k,kv_cache=f16", "mode=exact,kv=f32,path=decode,threads=2", "1,2,3", "2,5,17",
)  # fmt: skip


def _file(name: str, sample: str, read: Callable[[Path], object], words: tuple[bytes, ...] = _YAML) -> Harness:
    """A reader of a text file."""

    def prepare(folder: Path) -> Target:
        path = folder / name
        replace_file(path, sample.encode())
        read(path)
        return Target(lambda data: read(replace_file(path, data)), (sample.encode(),), words)

    return Harness(name.partition(".")[0], prepare)


def _contract(path: Path) -> None:
    document = read_document(path)
    validate(document)
    tuple(panel(document))


def _policy(path: Path) -> None:
    policy = read_policy(path)
    for node in (Node(0, "attn_norm"), Node(None, "lm_head")):
        policy.tolerances(node)


def _evidence(folder: Path) -> Target:
    path = write_evidence(folder, PASSED)
    sample = path.read_bytes()
    return Target(lambda data: read_evidence(replace_file(path, data)), (sample,), (b'"PASS"', b"NaN", b"null"))


def _state(data: bytes) -> None:
    state = parse_state(data.decode(errors="surrogateescape"))
    assert parse_state(str(state)) == state
    for name in state.fields:
        state.path(name)
    for name in state.fields:
        state.number(name)


def _options(folder: Path) -> Target:
    """All that options take; each text goes to every one of them."""
    model = load_model(small_model().write(folder / "model.gguf"))
    readers: tuple[Callable[[str], object], ...] = (
        lambda text: parse_layers(text, 4), lambda text: parse_positions(text, 9),
        lambda text: select_stages(text, model.graph), lambda text: parse_node(text, model.graph, "--stage"),
        lambda text: parse_fault(text, model), parse_tolerance, parse_rounding, parse_against,
        lambda text: parse_tokens(text, 100), lambda text: parse_place(text, 2),
    )  # fmt: skip

    def run(data: bytes) -> None:
        text, refusals = data.decode(errors="surrogateescape"), []
        for read in readers:
            try:
                read(text)
            except AprtuiError as error:
                refusals.append(error)
        if len(refusals) == len(readers):
            raise refusals[0]

    words = (
        b"..",
        b",",
        b"=",
        b"+",
        b"kind=",
        b"stage=",
        b"layer=",
        b"nan",
        b"inf",
        b"9" * 5000,
        b"\xd9\xa3",
        b"\xc2\xb2",
    )
    return Target(run, tuple(map(str.encode, _OPTIONS)), words)


TEXTS = (
    _file("contract.yaml", SOUND, _contract), _file("policy.yaml", _POLICY, _policy),
    _file("mapping.yaml", _MAPPING, lambda path: as_document(read_mapping_file(path))),
    _file("stage-mapping.yaml", _STAGE_MAPPING, read_mapping),
    _file("prompts.yaml", _PROMPTS, lambda path: golden_prompts(path, path)),
    _file("config.toml", _CONFIG, read_config), Harness("evidence", _evidence),
    Harness("state", lambda folder: Target(_state, tuple(map(str.encode, _STATES)), (b"%00", b"&", b"=", b"%", b"+"))),
    Harness("options", _options),
)  # fmt: skip
