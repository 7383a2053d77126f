"""The bugs that were written by hand, and how many of them a replay names."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.group("transformers")

LEAST_NAMED = 0.9


def test_every_bug_has_a_name_of_its_own_and_eight_are_of_two_faults() -> None:
    from tests.bugs.table import BUGS

    names = Counter(bug.name for bug in BUGS)
    assert max(names.values()) == 1
    assert len(BUGS) >= 48 and sum(len(bug.faults) > 1 for bug in BUGS) >= 8


def test_an_edit_is_taken_back() -> None:
    import torch
    import transformers

    from tests.bugs.bug import Edit

    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        plain = model(ids).logits
        with Edit(model) as edit:
            edit.fill(edit.layers[0].mlp.up_proj.weight, torch.zeros(64, 32))
            edit.method(edit.model.lm_head, lambda module, x: x @ module.weight.T + 1)
            assert not torch.equal(model(ids).logits, plain)
        assert torch.equal(model(ids).logits, plain)


@pytest.mark.slow
@pytest.mark.group("real_models")
def test_nine_of_ten_are_named_and_nothing_wrong_is_proved() -> None:
    from tests.bugs.judge import Outcome, judged_bugs
    from tests.bugs.table import BUGS

    judged = list(judged_bugs(Path(os.environ["APRTUI_REAL_MODELS"]), BUGS))
    assert [(one.bug.name, one.wrong) for one in judged if one.outcome is Outcome.WRONG] == []
    named = sum(one.outcome in (Outcome.NAMED, Outcome.ALIKE) for one in judged)
    assert named >= LEAST_NAMED * len(judged), [one.bug.name for one in judged if one.outcome is not Outcome.NAMED]
