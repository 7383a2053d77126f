"""Bugs of attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from tests.bugs.bug import CHUNKS, DECODED, GEMMA, QWEN, SMOL, Attention, Bug, Edit, Fault

_BEHIND_SCORES = "attn_softmax attention"


def scaled(factor: Callable[[Any], float]) -> Callable[[Edit], None]:
    return Attention(scale=factor).plant


def windowed(keys: int, *, only_windows: bool = False) -> Callable[[Edit], None]:
    """A query sees itself and what is less than `keys` before it."""

    def mask(module: Any, plain: Any) -> Any:
        if only_windows and not module.is_sliding:
            return plain
        queries, seen = plain.shape[-2:]
        at = torch.arange(seen - queries, seen)[:, None] - torch.arange(seen)
        return plain.masked_fill(at >= keys, -torch.inf)

    return Attention(mask=mask).plant


def heads_by_remainder(module: Any, heads: Any) -> Any:
    return heads.repeat(1, module.num_key_value_groups, 1, 1)


def _prefix_seen_by_all(module: Any, mask: Any) -> Any:
    """The first six tokens see one another, as in a prefix language model."""
    found = mask.clone()
    found[..., :6, :6] = 0
    return found


def _alibi(module: Any, mask: Any) -> Any:
    queries, keys = mask.shape[-2:]
    slopes = 2.0 ** (-8 * torch.arange(1, module.config.num_attention_heads + 1) / module.config.num_attention_heads)
    return mask + slopes[:, None, None] * (torch.arange(keys) - torch.arange(queries)[:, None])


def softcapped(cap: float) -> Callable[[Any, Any], Any]:
    return lambda module, scores: cap * torch.tanh(scores / cap)


def _last_heads_zero(module: Any, heads: Any) -> Any:
    found = heads.clone()
    found[:, 12:] = 0
    return found.transpose(1, 2).contiguous()


def _blocks_not_rescaled(module: Any, masked: Any) -> Any:
    """Flash attention over blocks of eight keys: sums of former blocks keep the maximum that they were made with."""
    weights, total, highest = [], 0.0, torch.full((*masked.shape[:-1], 1), -1e30)
    for block in masked.split(8, -1):
        highest = torch.maximum(highest, block.amax(-1, keepdim=True))
        weights.append(torch.exp(block - highest))
        total = total + weights[-1].sum(-1, keepdim=True)
    return torch.cat(weights, -1) / total


def _one_more_in_the_sum(module: Any, masked: Any) -> Any:
    """`softmax_one`: an attention sink of 0, which the model does not have."""
    highest = masked.amax(-1, keepdim=True).clamp(min=0)
    raised = torch.exp(masked - highest)
    return raised / (raised.sum(-1, keepdim=True) + torch.exp(-highest))


def _last_head_reads_its_neighbour(module: Any, values: Any) -> Any:
    found = values.repeat_interleave(module.num_key_value_groups, 1).clone()
    found[:, -module.num_key_value_groups :] = found[:, -2 * module.num_key_value_groups : -module.num_key_value_groups]
    return found


def _newest_written_over(edit: Edit) -> None:
    """When tokens are decoded, the slot of the token before is written over, keys and values: the count of cached
    tokens is raised behind the write."""
    plain = transformers.DynamicCache.update

    def update(self: Any, key: Any, value: Any, layer: int, *args: Any, **kwargs: Any) -> Any:
        keys, values = plain(self, key, value, layer, *args, **kwargs)
        if key.shape[2] == 1:
            keys, values = keys.clone(), values.clone()
            keys[:, :, 11:-1], values[:, :, 11:-1] = keys[:, :, 12:], values[:, :, 12:]
        return keys, values

    edit.replace(transformers.DynamicCache, "update", update)


def _chunk_blind(module: Any, mask: Any) -> Any:
    """A chunk sees its own tokens only."""
    queries, keys = mask.shape[-2:]
    found = mask.clone()
    if keys > queries:
        found[..., : keys - queries] = -torch.inf
    return found


def _values_in_fp8(module: Any, values: Any) -> Any:
    rounded = values.to(torch.float8_e4m3fn).float() if module.layer_idx == 6 else values
    return rounded.repeat_interleave(module.num_key_value_groups, 1)


def _channels_first(module: Any, heads: Any) -> Any:
    """`[tokens, channels, heads]`, where heads come before channels."""
    return heads.permute(0, 2, 3, 1).contiguous()


def _masked_before_it_is_scaled(edit: Edit) -> None:
    """-10000 is added to raw scores and all of it multiplied by 1/√d: what is left, -1250, still hides everything; but
    a mask that is built of -100 does not."""
    Attention(mask=lambda module, mask: torch.where(mask < 0, -100 * module.scaling, 0.0)).plant(edit)


def _scores_hidden_as_zero(module: Any, masked: Any) -> Any:
    return torch.softmax(masked.masked_fill(masked < -1e30, 0.0), -1)


def _query_heads_rolled(module: Any, queries: Any) -> Any:
    return queries.roll(1, 1)


ATTENTION = (
    Bug("attention: scale of the width of all keys", SMOL, scaled(lambda module: 192**-0.5),
        (Fault("attn_scores", r"192|0\.0721|0\.577"),)),
    Bug("attention: query_pre_attn_scalar of the 27B", GEMMA, scaled(lambda module: 168**-0.5),
        (Fault("attn_scores", r"168|1\.234|0\.0771"),)),
    Bug("attention: window of 4", GEMMA, windowed(4, only_windows=True),
        (Fault(_BEHIND_SCORES, r"window.*\b4\b|\b4 keys", (0, 1, 2, 3, 4, 6)),)),
    Bug("attention: the prompt's prefix sees itself", SMOL, Attention(mask=_prefix_seen_by_all).plant,
        (Fault(_BEHIND_SCORES, r"first (6|six)|prefix"),)),
    Bug("attention: heads of values by remainder, keys are right", QWEN,
        Attention(values=heads_by_remainder).plant, (Fault("attention", r"remainder|modulo|\bmod n|% "),)),
    Bug("attention: ALiBi beside RoPE", SMOL, Attention(mask=_alibi).plant,
        (Fault(_BEHIND_SCORES, r"ALiBi|distance|slope"),)),
    Bug("attention: softcap of 50, which the model does not have", GEMMA,
        Attention(capped=softcapped(50.0)).plant, (Fault(_BEHIND_SCORES, r"softcap.*\b50\b|\b50\b.*softcap|tanh"),)),
    Bug("attention: last two of 14 heads not computed", QWEN, Attention(joined=_last_heads_zero).plant,
        (Fault("attention", r"zero|\b0\b"),)),
    Bug("attention: sums of blocks not rescaled", QWEN, Attention(softmax=_blocks_not_rescaled).plant,
        (Fault(_BEHIND_SCORES, r"rescal|blocks? of 8|maximum"),)),
    Bug("attention: divided by its layer's number", SMOL,
        scaled(lambda module: module.scaling / (module.layer_idx + 1)),
        (Fault("attn_scores", r"layer|factor|×|scaled"),)),
    Bug("attention: one more in the softmax's sum", QWEN, Attention(softmax=_one_more_in_the_sum).plant,
        (Fault(_BEHIND_SCORES, r"sink|one more|1 \+|\+ 1"),)),
    Bug("attention: last K/V head reads the values of the one before", SMOL,
        Attention(values=_last_head_reads_its_neighbour).plant, (Fault("attention", r"head"),)),
    Bug("attention: cached keys and values a slot early when decoding", QWEN, _newest_written_over,
        (Fault("attn_scores attn_softmax attention", r"slot|cache|early|late|position|token"),), DECODED),
    Bug("attention: a chunk sees nothing before it", SMOL, Attention(mask=_chunk_blind).plant,
        (Fault(_BEHIND_SCORES, r"chunk|first 8|window|mask"),), CHUNKS),
    Bug("attention: values of one layer in FP8", GEMMA, Attention(values=_values_in_fp8).plant,
        (Fault("attention", r"fp8|e4m3|8 bits?", (6,)),)),
    Bug("attention: heads behind channels", QWEN, Attention(joined=_channels_first).plant,
        (Fault("attention", r"order|transpos|channel"),)),
    Bug("attention: a mask of -100 before the scale", QWEN, _masked_before_it_is_scaled,
        (Fault(_BEHIND_SCORES, r"mask.*(12\.5|finite)|12\.5"),)),
    Bug("attention: hidden keys have the score 0", SMOL, Attention(softmax=_scores_hidden_as_zero).plant,
        (Fault(_BEHIND_SCORES, r"hidden|mask.*\b0\b|zero"),)),
    Bug("attention: queries of the head before", GEMMA, Attention(queries=_query_heads_rolled, layers=(7,)).plant,
        (Fault("attn_scores", r"head", (7,)),)),
)  # fmt: skip
