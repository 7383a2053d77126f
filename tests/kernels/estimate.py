"""What a token should take on an H200, from launch plans and machine code.

`python -m tests.kernels.estimate` prints it. An estimate, never a measurement. A kernel takes a node of the graph, and
then the longest of three: its bytes at the speed of a copy (less where too few are under way for that), the waits of
its warps one after the other, and its instructions. The numbers of the device are assumptions, in `Assumptions`.
"""

from __future__ import annotations

import struct
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from aprtui.engine.cuda.arguments import ProductOfOne
from aprtui.engine.cuda.driver import Launch
from aprtui.model.weight_types import WeightType
from tests.kernels.launch_plan import MULTIPROCESSORS, token_launches
from tests.kernels.machine_code import Code, machine_code_of

ENOUGH = 3_000_000
"""Bytes that have to be under way to load the memory of an H200: its speed times its latency, 4.3 TB/s · 0.6 µs, and
some more."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Seconds, bytes a second, and cycles a second; none of it measured here."""

    copy: float = 4.3e12
    memory: float = 0.6e-6
    """A load from memory, with others under way."""
    cache: float = 0.25e-6
    """A load from the second-level cache, a fence or an atomic there."""
    node: float = 1.5e-6
    """From the end of one kernel of a graph to the start of the next."""
    early: float = 0.75e-6
    """The same where the next one was allowed to begin early: its blocks are there, and wait."""
    clock: float = 1.755e9
    norm_instructions: tuple[int, int] = 130, 80
    """Of a warp in a norm, and for each 128 columns that it has; counted by hand in its machine code."""
    choice: float = 4e-6
    """The arithmetic of `greedy`."""


ASSUMED = Assumptions()


@dataclass(frozen=True, slots=True)
class Estimate:
    """One kernel: bytes that it must read, bytes under way at most, waves of its blocks, seconds."""

    bytes: int
    under_way: float
    waves: float
    seconds: float


def estimated(launch: Launch, codes: Mapping[str, Code], position: int, a: Assumptions = ASSUMED) -> Estimate:
    """The estimate of `launch` behind `position` tokens."""
    code = codes[launch.name]
    start = _start(launch, a)
    if code.product_loops:
        return _product(launch, code, a)
    if launch.moved_a_position:
        return _attention(launch, code, position, a)
    waves = _waves(launch, code)
    if launch.name == "rms_norm":
        return Estimate(0, 0, waves, start + a.memory + _norm(launch.block[0] // 32, 1, a))
    if launch.name == "greedy":
        return Estimate(0, 0, waves, start + a.memory + 3 * a.cache + a.choice)
    return Estimate(0, 0, waves, start + 2 * a.memory)  # embed: a row whose number stands in memory


def _start(launch: Launch, a: Assumptions) -> float:
    """From the end of what is in front of a launch; in front of the first one, `embed`, is a copy."""
    return a.early if launch.waits_itself and launch.name != "embed" else a.node


def _norm(warps: int, pieces: int, a: Assumptions) -> float:
    """A block of so many warps, each of which has so many times 128 columns."""
    of_warp, of_piece = a.norm_instructions
    return warps / 4 * (of_warp + pieces * of_piece) / a.clock


def _norm_behind(launch: Launch, a: Assumptions) -> float:
    """The norm that the last block of a product makes: a fence, a counter, the sum and the weights, then its work."""
    if not launch.name.startswith("matvec") or not ProductOfOne.from_buffer_copy(launch.arguments).norm.weight:
        return 0.0
    return 4 * a.cache + _norm(8, 4, a)


def _waves(launch: Launch, code: Code) -> float:
    blocks = launch.grid[0] * launch.grid[1] * launch.grid[2]
    return blocks / (code.resident_blocks(launch.block[0]) * MULTIPROCESSORS)


def _product(launch: Launch, code: Code, a: Assumptions) -> Estimate:
    number, columns = struct.unpack_from("<8xi4xi", launch.arguments)
    kind = WeightType.numbered(number)
    assert kind is not None
    # Q and K have the same type, and most of the rows.
    alike = Counter(code.integer_products(loop) for loop in code.product_loops)
    loop = next(loop for loop in code.product_loops if code.integer_products(loop) == alike.most_common(1)[0][0])
    waits, of_lane = len(code.loop_waits(loop)), 4 * code.integer_products(loop)
    turns = ceil(columns / (of_lane / 2 * 32))  # a lane's weights belong to two rows
    pairs = 4 if launch.name.startswith("gate_up") else 1
    waves, threads = _waves(launch, code), launch.block[0]
    blocks = launch.grid[0] * launch.grid[1] * launch.grid[2]
    at_once = min(blocks, code.resident_blocks(threads) * MULTIPROCESSORS)
    under_way = at_once * threads * of_lane * kind.format.block_bytes / kind.format.block_values / waits
    # While its blocks wait, each warp has 4 KB of its rows loaded, as far as there is time.
    ahead = min(at_once * threads / 32 * 4096, launch.moved, a.copy * a.early) if launch.waits_itself else 0
    stream = (launch.moved - ahead) / min(a.copy, under_way / a.memory)
    serial = ceil(waves) * pairs * turns * waits * a.memory
    issued = blocks * threads / 32 * pairs * turns * (loop[1] - loop[0])
    busy = issued / (MULTIPROCESSORS * 4) / a.clock
    # Of a head its last block adds the bias and turns it: a fence, a counter, products, then bias and angles.
    finish = 3 * a.cache + 2 * a.memory if launch.name.startswith("qkv") else _norm_behind(launch, a)
    return Estimate(launch.moved, under_way, waves, _start(launch, a) + max(stream + a.memory, serial, busy) + finish)


def _attention(launch: Launch, code: Code, position: int, a: Assumptions) -> Estimate:
    splits, kv_heads, passes = launch.grid
    total = position + 1
    length = ceil(ceil(total / splits) / 32) * 32
    runs, tiles = ceil(total / length), length / 32
    turn = _turn(code)
    tile = max(wait.bytes for wait in code.loop_waits(turn))
    # Its inner loops, over channels and over keys, go round four times.
    instructions = turn[1] - turn[0] + 3 * sum(end - begin for begin, end in _inner(code, turn))
    blocks = runs * kv_heads * passes
    resident = code.resident_blocks(128) * MULTIPROCESSORS
    size = launch.moved_a_position * total
    under_way = min(blocks, resident) * 128 * tile
    a_multiprocessor = max(1, ceil(min(blocks, resident) / MULTIPROCESSORS))
    # One warp a scheduler issues an instruction in two cycles, two warps or more one in each.
    busy = tiles * instructions * max(2, a_multiprocessor) / a.clock
    stream = size / min(a.copy, under_way / a.memory)
    heads_of_warp = ceil(int(launch.name.rsplit("_", 1)[1]) / 4)
    join = 3 * a.cache + heads_of_warp * (1 + ceil(runs / 16)) * a.cache
    first = a.cache + a.memory  # the position; then queries beside the first tile
    return Estimate(
        size, under_way, _waves(launch, code), _start(launch, a) + first + max(stream, busy, tiles * a.cache) + join
    )


def _turn(code: Code) -> tuple[int, int]:
    """The loop of an attention kernel over tiles of a half cache: the first that loads a tile and holds other loops."""
    return next(
        loop
        for loop in sorted(code.loops)
        if _inner(code, loop) and any(wait.loads.count(16) >= 4 for wait in code.loop_waits(loop))
    )


def _inner(code: Code, loop: tuple[int, int]) -> list[tuple[int, int]]:
    return [one for one in code.loops if one != loop and loop[0] <= one[0] and one[1] <= loop[1]]


def grouped(launches: Sequence[Launch]) -> Iterator[tuple[int, Launch]]:
    """Launches that are alike, as one with their number."""
    groups: dict[tuple[object, ...], list[Launch]] = {}
    for launch in launches:
        groups.setdefault((launch.name, launch.grid, launch.moved), []).append(launch)
    for same in groups.values():
        yield len(same), same[0]


def table(codes: Mapping[str, Code], shape: str, context: int, position: int) -> tuple[list[str], float]:
    """Rows of the table, in Markdown, and the seconds of a token."""
    rows = [
        "| kernel | launches | MB | registers | blocks | waves | MB under way | estimate µs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    total = 0.0
    for count, launch in grouped(token_launches(shape, context=context)):
        found, code = estimated(launch, codes, position), codes[launch.name]
        total += count * found.seconds
        blocks = launch.grid[0] * launch.grid[1] * launch.grid[2]
        rows.append(
            f"| `{launch.name}` | {count} | {found.bytes / 1e6:.1f} | {code.registers} | {blocks} | {found.waves:.2f} "
            f"| {found.under_way / 1e6:.1f} | {found.seconds * 1e6:.1f} |"
        )
    return rows, total


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        codes = machine_code_of(Path(folder))
    for position, context in ((513, 641), (4096, 4224), (32640, 32768)):
        rows, seconds = table(codes, "7b", context, position)
        if position == 513:
            print("\n".join(rows))
        print(f"\n{position} positions: {seconds * 1e6:.0f} µs a token, {1 / seconds:.0f} tokens/s")


if __name__ == "__main__":
    main()
