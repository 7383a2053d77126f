"""Dumps of several ranks by other tools: put together they are the capture that was divided."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome
from tests.importing.dumps import TOKENS, Ours, require_same, write_torch
from tests.importing.rank_folders import SUMMED, RankShare, description
from tests.importing.test_engine_dumps import trt_llm
from tests.importing.test_module_dumps import require_same_rows, sglang_modules

Command = Callable[..., Outcome]
RANKS = 4
WRONG = Node(1, "ffn_norm")


def test_dims_in_a_dump_of_sglang_say_how_its_ranks_share_what_was_named(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    for rank in range(2):
        parts = {
            "attn": ("t (heads*dim)[tp]", np.split(qwen2.values(1, "attention"), 2, 1)[rank]),
            "out": ("1 t h[tp:partial]", qwen2.values(1, "attn_out")[None] * np.float32((0.25, 0.75)[rank])),
            "norm": ("t h # tp:replicated", qwen2.values(1, "ffn_norm")),
        }
        for index, (name, (dims, values)) in enumerate(parts.items(), 1):
            tags = {"step": 0, "rank": rank, "dump_index": index, "name": name, "layer_id": 1}
            info = {"tp_rank": rank, "tp_size": 2, "pp_rank": 0, "pp_size": 1, "attn_tp_rank": rank, "attn_tp_size": 2}
            path = tmp_path / "dump" / "exp" / ("___".join(f"{k}={v}" for k, v in tags.items()) + ".pt")
            write_torch(path, {"value": values, "meta": {**tags, "dims": dims, "sglang_parallel_info": info}})
    stages = {"attention": "attn", "attn_out": "out", "ffn_norm": "norm"}
    lines = "".join(f'  {stage}: "{name}/layer={{layer}}/step=0"\n' for stage, name in stages.items())
    (tmp_path / "map.yaml").write_text(f"stages:\n{lines}")
    words = ("ranks", tmp_path / "dump", "--as", "sglang-dumper", "--map", tmp_path / "map.yaml")
    done = aprtui(*words, "--model", qwen2.model.path, "--out", tmp_path / "whole")
    assert done.code == 0, done
    found = require_same(qwen2, tmp_path / "whole", {Node(1, stage) for stage in stages})
    assert list(found.rank_parts) == [Node(1, "attention")]


def test_folders_of_sglang_say_their_place_and_a_file_how_they_share(
    qwen2: Ours, tmp_path: Path, aprtui: Command
) -> None:
    for rank in range(2):
        block = "model.layers.0"
        modules = {
            f"{block}.mlp.gate_up_proj": np.concatenate(
                [np.split(qwen2.values(0, stage), 2, 1)[rank] for stage in ("ffn_gate", "ffn_up")], 1
            ),
            f"{block}.mlp.down_proj": qwen2.values(0, "ffn_out"),
            "model.forward_batch_info.input_ids": np.array(TOKENS),
            "model.forward_batch_info.positions": np.arange(len(TOKENS)),
            "model.forward_batch_info.seq_lens": np.array([len(TOKENS)]),
        }
        write_torch(tmp_path / "dump" / f"TP{rank}_PP0_Rank{rank}_pid{rank}" / "Pass00000.pt", modules)
    (tmp_path / "dump" / "aprtui-ranks.yaml").write_text(
        'stages: {"ffn_out": "t h # tp:replicated", "ffn_*": "t h[tp]"}'
    )
    done = aprtui("ranks", tmp_path / "dump", "--model", qwen2.model.path, "--out", tmp_path / "whole")
    assert done.code == 0, done
    require_same(qwen2, tmp_path / "whole", {Node(0, stage) for stage in ("ffn_gate", "ffn_up", "ffn_out")})


def msprobe(ours: RankShare, folder: Path, rank: int) -> Path:
    """As msProbe dumps the modules of vLLM on Ascend: what a module gives is numbered, each rank has its folder."""
    classes = {
        "embed_tokens": "VocabParallelEmbedding", "qkv_proj": "QKVParallelLinear", "o_proj": "RowParallelLinear",
        "gate_up_proj": "MergedColumnParallelLinear", "down_proj": "RowParallelLinear", "act_fn": "SiluAndMul",
        "rotary_emb": "RotaryEmbedding", "attn": "Attention", "logits_processor": "LogitsProcessor",
    }  # fmt: skip
    place = folder / "step0" / f"rank{rank}"

    def write(module: str, kind: str, number: int, values: Any) -> None:
        kind_of_module = classes.get(module.rpartition(".")[2], "RMSNorm")
        name = f"Module.{module}.{kind_of_module}.forward.0.{kind}.{number}.pt"
        write_torch(place / "dump_tensor_data" / name, values)

    write("model.embed_tokens", "input", 0, np.array(TOKENS))
    for module, given in sglang_modules(ours, slice(0, len(TOKENS))).items():
        for number, values in enumerate(given if isinstance(given, list) else [given]):
            write(module, "output", number, values)
    write("logits_processor", "output", 0, ours.values(None, "lm_head")[-1:])
    (place / "dump.json").write_text(json.dumps({"task": "tensor", "level": "L0", "data": {}}))
    return folder


def tensorrt_llm(ours: RankShare, folder: Path, rank: int) -> Path:
    return trt_llm(ours, folder, rank)


@pytest.mark.parametrize("dump", [msprobe, tensorrt_llm])
def test_ranks_of_a_dump_of_modules_are_put_together_and_the_one_that_parts_is_named(
    qwen2: Ours, tmp_path: Path, aprtui: Command, dump: Callable[[RankShare, Path, int], Path]
) -> None:
    for name, wrong in (("honest", None), ("wrong", WRONG)):
        for rank in range(RANKS):
            dump(RankShare(qwen2, RANKS, rank, wrong if rank == 2 else None), tmp_path / name, rank)
        (tmp_path / name / "aprtui-ranks.yaml").write_text(description(SUMMED, tp=RANKS))
    model = ("--model", qwen2.model.path)
    done = aprtui("ranks", tmp_path / "honest", *model, "--out", tmp_path / "whole")
    assert done.code == 0 and "4 ranks: tp 4" in done.out, done
    not_of_modules = {"qkv_matmul", "attn_scores", "attn_softmax", "ffn_silu"}
    rotated = {"q_post_rope", "k_post_rope"} if dump is tensorrt_llm else set()
    found = require_same_rows(qwen2, tmp_path / "whole")
    assert set(found.files) == {n for n in qwen2.capture.files if n.stage not in not_of_modules | rotated}
    done = aprtui("ranks", tmp_path / "wrong", *model)
    assert done.code == 1 and "FAIL  rank 2 parts at layer 1 ffn_norm" in done.out, done
