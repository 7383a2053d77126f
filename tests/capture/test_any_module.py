"""Captures of a model that is written by hand, with modules of its own names."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.capture import capture
from aprtui.compare.verdict import Verdict
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.errors import UsageError
from aprtui.model.model import Model, load_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import write_model

pytestmark = pytest.mark.group("torch")

TOKENS = tuple(int(token) for token in np.random.default_rng(3).integers(0, 256, 12))
MAP = {
    "table": "embedding",
    "blocks.{layer}.norm1": "attn_norm",
    "blocks.{layer}.q": "qkv_matmul.q",
    "blocks.{layer}.k": "qkv_matmul.k",
    "blocks.{layer}.v": "qkv_matmul.v",
    "blocks.{layer}.turn_q": "q_post_rope",
    "blocks.{layer}.turn_k": "k_post_rope",
    "blocks.{layer}.o": ["in:attention", "attn_out"],
    "blocks.{layer}.norm2": ["in:post_attn_residual", "ffn_norm"],
    "blocks.{layer}.gate": "ffn_gate",
    "blocks.{layer}.up": "ffn_up",
    "blocks.{layer}.down": lambda inputs, output: {"ffn_swigl": inputs[0], "ffn_out": output},
    "blocks.{layer}": "post_ffn_residual",
    "norm": "final_norm",
    "head": "lm_head",
}


def hand_written(model: Model) -> Any:
    """A llama as Meta writes it: channels of a head are turned in pairs, heads come before tokens, and the residual is
    added in place, into the tensor that a norm has taken in."""
    torch = importlib.import_module("torch")
    nn, graph, config = torch.nn, model.config.graph, model.config

    def weight(node: Node, at: int = 0) -> Any:
        return torch.from_numpy(np.array(model.params(node)[at].dequantize()))

    def linear(node: Node, at: int = 0) -> Any:
        values = weight(node, at)
        layer = nn.Linear(*reversed(values.shape), bias=False)
        layer.weight = nn.Parameter(values, requires_grad=False)
        return layer

    def norm(node: Node) -> Any:
        layer = nn.RMSNorm(graph.hidden, config.norm_epsilon)
        layer.weight = nn.Parameter(weight(node).reshape(-1), requires_grad=False)
        return layer

    class Turn(nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, x: Any) -> Any:
            pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
            steps = config.rope.theta ** -(torch.arange(0, graph.head_dim, 2) / graph.head_dim)
            angles = torch.outer(torch.arange(x.shape[2]), steps)
            return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    class Block(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self, layer: int) -> None:
            super().__init__()
            self.q, self.k, self.v = (linear(Node(layer, "qkv_matmul"), at) for at in range(3))
            self.o, self.gate = linear(Node(layer, "attn_out")), linear(Node(layer, "ffn_gate"))
            self.up, self.down = linear(Node(layer, "ffn_up")), linear(Node(layer, "ffn_out"))
            self.norm1, self.norm2 = norm(Node(layer, "attn_norm")), norm(Node(layer, "ffn_norm"))
            self.turn_q, self.turn_k = Turn(), Turn()

        def forward(self, h: Any) -> Any:
            x = self.norm1(h)
            q, k, v = (f(x).unflatten(2, (-1, graph.head_dim)).transpose(1, 2) for f in (self.q, self.k, self.v))
            q, k = self.turn_q(q), self.turn_k(k)
            heads = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            h = h + self.o(heads.transpose(1, 2).flatten(2))
            x = self.norm2(h)
            h += self.down(nn.functional.silu(self.gate(x)) * self.up(x))
            return h

    class Whole(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(graph.vocabulary, graph.hidden)
            self.table.weight = nn.Parameter(weight(Node(0, "embedding")), requires_grad=False)
            self.blocks = nn.ModuleList(Block(layer) for layer in range(graph.layers))
            self.norm, self.head = norm(Node(None, "final_norm")), linear(Node(None, "lm_head"))
            self.unused = nn.Linear(1, 1)

        def forward(self, ids: Any) -> Any:
            h = self.table(ids)
            for block in self.blocks:
                h = block(h)
            return self.head(self.norm(h))

    return Whole()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_model(tmp_path_factory.mktemp("model") / "tiny.gguf", architecture="llama"))


def run(module: Any, folder: Path, entries: Any, **options: Any) -> Capture:
    with capture(module, folder, entries, **options):
        module(importlib.import_module("torch").tensor([TOKENS]))
    return Capture.open(folder)


def test_a_hand_written_model_passes_and_its_wrong_norm_is_named(tmp_path: Path, model: Model) -> None:
    module = hand_written(model)
    found = run(module, tmp_path / "good", MAP)
    assert (found.tokens, found.complete) == (TOKENS, True)
    missing = {node.stage for node in model.graph.nodes} - {node.stage for node in found.files}
    assert missing == {"attn_scores", "attn_softmax", "ffn_silu"}
    module.blocks[1].norm2.eps = 1e-2
    wrong = run(module, tmp_path / "wrong", MAP)
    with Evaluators(model) as evaluators:
        good, bad = (replay_capture(each, model, ReplayOptions(), evaluators) for each in (found, wrong))
    assert good.verdict is Verdict.PASS
    assert bad.verdict is Verdict.FAIL
    assert bad.first_divergence is not None
    assert bad.first_divergence.verdict.node == Node(1, "ffn_norm")


def test_what_was_taken_in_is_copied_before_it_is_added_to(tmp_path: Path, model: Model) -> None:
    found = run(hand_written(model), tmp_path / "out", MAP)
    taken, left = found.values(Node(0, "post_attn_residual")), found.values(Node(0, "post_ffn_residual"))
    np.testing.assert_allclose(taken + found.values(Node(0, "ffn_out")), left, rtol=1e-4, atol=1e-5)
    assert not np.array_equal(taken, left)


def test_modules_that_never_ran_are_named(tmp_path: Path, model: Model) -> None:
    with pytest.warns(UserWarning, match="modules that never ran: unused"):
        run(hand_written(model), tmp_path / "out", {"unused": "final_norm", "blocks.{layer}.up": "ffn_up"})
    assert {node.stage for node in Capture.open(tmp_path / "out").files} == {"ffn_up"}


def test_token_ids_are_those_that_are_said(tmp_path: Path, model: Model) -> None:
    module = hand_written(model)
    assert run(module, tmp_path / "said", {"head": "lm_head"}, tokens=TOKENS[::-1]).tokens == TOKENS[::-1]
    with pytest.raises(UsageError, match="tokens: 3 ids, the model was called with 12 tokens"):
        run(module, tmp_path / "few", {"head": "lm_head"}, tokens=(1, 2, 3))
    assert Capture.open(tmp_path / "few").complete is False


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"blocks.{layer}.w1": "ffn_gate"}, "the model has no such module"),
        ({"head": "logits"}, "no stage is called 'logits'"),
        ({"head": "ffn_up"}, "stage ffn_up is one of a layer: write {layer}"),
        ({"blocks.{layer}.up": "final_norm"}, "stage final_norm is one of the whole model"),
        ({"blocks.{layer}.q": "qkv_matmul.q"}, "qkv_matmul.k is missing"),
        ({"blocks.{layer}.q": "qkv_matmul.x"}, "expected a stage, in:STAGE, or STAGE.q"),
        ({"blocks.{layer}.turn_q": lambda inputs, output: {"q_post_rope": output[0]}}, "a tensor of "),
    ],
)
def test_a_map_that_does_not_fit_is_one_line(tmp_path: Path, model: Model, entries: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(hand_written(model), tmp_path / "out", entries)


def test_one_module_under_two_names_is_refused(tmp_path: Path, model: Model) -> None:
    module = hand_written(model)
    module.blocks[1].up = module.blocks[0].up
    with pytest.raises(UsageError, match=r"blocks.0.up and blocks.1.up are one module"):
        run(module, tmp_path / "out", {"blocks.{layer}.up": "ffn_up"})
