"""How the ranks of a model share a tensor, in the notation that SGLang's dumper has for it.

`b s[cp:zigzag,sp] (heads*dim)[tp] # ep:replicated` names the axes of a rank's tensor, from the outermost. Behind an
axis stand the groups of ranks that share it, the outermost first: each has a part of it, in the order of its number in
the group (`zigzag`: two parts, from both ends), or a term of a sum (`partial`). Behind `#` stand the groups whose ranks
all have the same, and `dp:=GROUP`, the group of which one rank alone has tokens. `1` is an axis of size 1.
(`python/sglang/srt/debug_utils/comparator/dims_spec` of sgl-project/sglang.)

Of our own is `(q+k+v)[tp]`: several matrices side by side, of each of which a rank has a part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from aprtui.errors import UsageError

AXES = frozenset(
    {
        "tp", "pp", "cp", "ep", "sp", "dp", "etp", "edp", "attn_tp", "attn_dp", "attn_cp", "moe_ep", "moe_tp",
        "moe_dp", "recompute_pseudo",
    }
)  # fmt: skip
"""The groups that SGLang and Megatron have; a description may have others."""

ONE = "1"
_MOST = 400
_NAME = re.compile(r"[A-Za-z_]\w*")
_DIM = re.compile(r"(?P<name>1|[A-Za-z_]\w*|\([^()\[\]]+\))(?:\[(?P<groups>[^\[\]]+)\])?")
_DATA_GROUP = re.compile(r"dp:=(\w+)")
_REPLICATED = re.compile(r"(\w+):replicated")


class Sharing(StrEnum):
    """What a rank of a group has of an axis: a part, two parts from both ends, or a term of a sum."""

    PART = "part"
    ZIGZAG = "zigzag"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class RankGroup:
    """A group of ranks, and how they share an axis; a sum may be one of parts that lie zigzag."""

    name: str
    sharing: Sharing = Sharing.PART


@dataclass(frozen=True, slots=True)
class Dim:
    """An axis of a rank's tensor. `names` are several where axes are fused, or where matrices lie side by side."""

    names: tuple[str, ...]
    groups: tuple[RankGroup, ...] = ()
    side_by_side: bool = False

    @property
    def parts(self) -> tuple[RankGroup, ...]:
        """The groups of which a rank has a part of the axis, the outermost first."""
        return tuple(group for group in self.groups if group.sharing is not Sharing.PARTIAL)


@dataclass(frozen=True, slots=True)
class Dims:
    """The axes of a rank's tensor, the groups that hold copies, and the one of which one rank alone has tokens."""

    text: str
    dims: tuple[Dim, ...]
    replicated: frozenset[str] = frozenset()
    data_group: str = "dp"

    @property
    def shared(self) -> frozenset[str]:
        """The groups that have parts or terms of it."""
        return frozenset(group.name for dim in self.dims for group in dim.groups)

    @property
    def partial(self) -> frozenset[str]:
        """The groups that have terms of a sum."""
        found = (group for dim in self.dims for group in dim.groups if group.sharing is Sharing.PARTIAL)
        return frozenset(group.name for group in found)


def parse_dims(text: str, where: str) -> Dims:
    """The dims that `text` states. Raises `UsageError`, which begins with `where`."""
    if len(text) > _MOST:
        raise UsageError(f"{where}: dims of {len(text)} characters: at most {_MOST} are read")
    shape, _, comment = text.partition("#")
    dims = tuple(_dim(token, text, where) for token in shape.split())
    if not dims:
        raise _wrong(text, where, "names no axis")
    names = [name for dim in dims for name in dim.names if name != ONE]
    if len(set(names)) != len(names):
        raise _wrong(text, where, f"has the axis {next(name for name in names if names.count(name) > 1)} twice")
    groups = [group.name for dim in dims for group in dim.groups]
    if len(set(groups)) != len(groups):
        raise _wrong(text, where, f"has the group {next(name for name in groups if groups.count(name) > 1)} twice")
    replicated, data_group = _comment(comment, text, where)
    both = replicated.intersection(groups)
    if both:
        raise _wrong(text, where, f"says of {min(both)} that its ranks share it, and that they all have the same")
    return Dims(text.strip(), dims, replicated, data_group)


def _dim(token: str, text: str, where: str) -> Dim:
    match = _DIM.fullmatch(token)
    if match is None or (match["name"] == ONE and match["groups"]):
        raise _wrong(text, where, f"has {token!r:.60}, expected an axis as h, h[tp], (h*d)[tp] or 1")
    name = match["name"]
    side_by_side = "+" in name
    names = tuple(part.strip() for part in name.strip("()").split("+" if side_by_side else "*"))
    if name.startswith("(") and (len(names) < 2 or not all(_NAME.fullmatch(part) for part in names)):
        raise _wrong(text, where, f"has {token!r:.60}, expected axes as (heads*dim), or parts as (q+k+v)")
    groups = tuple(_group(part.strip(), text, where) for part in (match["groups"] or "").split(",") if part.strip())
    return Dim(names, groups, side_by_side)


def _group(token: str, text: str, where: str) -> RankGroup:
    name, _, rest = token.partition(":")
    words = [word.strip() for word in rest.split("+") if word.strip()]
    known = {"sharded": Sharing.PART, "natural": Sharing.PART, "zigzag": Sharing.ZIGZAG, "partial": Sharing.PARTIAL}
    if not _NAME.fullmatch(name.strip()) or not set(words) <= known.keys():
        raise _wrong(text, where, f"has {token!r:.60}, expected a group as tp, cp:zigzag, cp:natural or tp:partial")
    if {"zigzag", "natural"} <= set(words) or len(set(words)) < len(words):
        raise _wrong(text, where, f"has {token!r:.60}: one order and one sum at most")
    if "partial" in words:  # all ranks have the whole axis, so its order says nothing
        return RankGroup(name.strip(), Sharing.PARTIAL)
    return RankGroup(name.strip(), Sharing.ZIGZAG if "zigzag" in words else Sharing.PART)


def _comment(comment: str, text: str, where: str) -> tuple[frozenset[str], str]:
    replicated: set[str] = set()
    data_group = "dp"
    for token in comment.split():
        if match := _REPLICATED.fullmatch(token):
            replicated.add(match[1])
        elif match := _DATA_GROUP.fullmatch(token):
            data_group = match[1]
        else:
            raise _wrong(text, where, f"has {token!r:.60} behind #, expected GROUP:replicated or dp:=GROUP")
    return frozenset(replicated), data_group


def _wrong(text: str, where: str, problem: str) -> UsageError:
    return UsageError(f"{where}: dims {text.strip()!r:.80} {problem}")
