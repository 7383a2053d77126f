"""Launches of our kernels, with the geometry that the header comment of each kernel file gives."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aprtui.engine.cuda import arguments as args
from aprtui.engine.cuda.driver import Driver, Launch
from aprtui.engine.cuda.images import KernelImages, entry_points, kernel_files
from aprtui.engine.cuda.sizes import expert_tiles
from aprtui.engine.protocol import Mode
from aprtui.model.weight_types import WeightType

AT_ONCE = 8
"""Columns that share a walk over a matrix."""

WIDEST_NORM_BEHIND = 4096
"""Columns of a row that the launch which makes it can norm; wider ones take a launch of their own."""

_SHORTEST_RUN, _MOST_SPLITS = 32, 128
"""Keys that a block of `attend_one` takes at least, and runs of keys that it can join."""


def load_kernels(driver: Driver, images: KernelImages) -> dict[str, int]:
    return {
        name: kernel
        for path in kernel_files()
        for name, kernel in driver.kernels(images.code[path.stem], entry_points(path)).items()
    }


class Launches:
    """Makes launches in one mode; every argument list is packed when it is made."""

    def __init__(self, kernels: Mapping[str, int], mode: Mode) -> None:
        self._kernels, self._mode = kernels, mode

    def _launch(
        self, name: str, grid: tuple[int, ...], block: int, arguments: ctypes.Structure, shared: int = 0,
        reads: Sequence[args.Matrix] = (), rows: int = 0,
    ) -> Launch:  # fmt: skip
        """`reads` are the matrices that are read, each in full, or `rows` of it."""
        x, y, z = (*grid, 1, 1)[:3]
        packed = args.packed(arguments)
        moved = sum(matrix_bytes(matrix) * (rows or matrix.rows) // matrix.rows for matrix in reads)
        return Launch(self._kernels[name], (x, y, z), (block, 1, 1), packed, shared, name, moved, waits_itself=True)

    def _own(self, kernel: str, *matrices: args.Matrix) -> str:
        """The variant of `kernel` for the formats of `matrices`, or `kernel` itself, which takes all formats."""
        own = variant(kernel, *map(_kind, matrices))
        return own if own in self._kernels else kernel

    def embed(self, arguments: args.Embed, tokens: int) -> Launch:
        return self._launch("embed", (tokens,), 128, arguments)

    def rms_norm(self, arguments: args.RmsNorm, tokens: int) -> Launch:
        return self._launch("rms_norm", (tokens,), norm_threads(arguments.columns), arguments)

    def add_to_residual(self, arguments: args.AddToResidual, tokens: int) -> Launch:
        """What a block gives: its bias, its norm, the sum with the residual, and the norm of that."""
        return self._launch("add_to_residual", (tokens,), norm_threads(arguments.given.columns), arguments)

    def softcap(self, arguments: args.Softcap) -> Launch:
        return self._launch("softcap", (_groups(arguments.count, 256),), 256, arguments)

    def quantize(self, arguments: args.Quantize) -> Launch:
        """Activations to Q8_1."""
        return self._launch("quantize", (_groups(arguments.blocks, 8),), 256, arguments)

    def product(self, arguments: args.Product) -> Launch:
        """A matrix times the activations of several tokens."""
        matrix = arguments.w
        grid = _groups(matrix.rows, 8), _groups(arguments.tokens, AT_ONCE)
        return self._launch(f"matvec_{self._mode}_{AT_ONCE}", grid, 256, arguments, reads=[matrix])

    def product_of_one(self, arguments: args.ProductOfOne) -> Launch:
        """A matrix times the activations of one token, and the norm of the sum where there is one."""
        matrix, kind = arguments.w, _kind(arguments.w)
        # Float formats meet float32 in either mode.
        name, rows = f"matvec_{Mode.EXACT}_1", 8
        if self._mode is Mode.Q8 and kind.format.is_quantised:
            name, rows = variant(f"matvec_{Mode.Q8}_1", kind), 16
        return self._launch(name, (_groups(matrix.rows, rows),), 256, arguments, reads=[matrix])

    def matmul_q8(self, arguments: args.ProductsOfPrompt) -> Launch:
        """Up to three quantised matrices times the same activations of several tokens in Q8_1, on tensor cores."""
        matrices = [one.w for one in (arguments.first, arguments.second, arguments.third) if one.w.rows]
        parts = _groups(_groups(matrices[0].columns, 128), arguments.split.turns)
        grid = sum(_groups(matrix.rows, 128) for matrix in matrices), _groups(arguments.tokens, 64), parts
        return self._launch("matmul_q8", grid, 256, arguments, reads=matrices)

    def expert_matmul_q8(self, arguments: args.ProductsOfPrompt, experts: int) -> Launch:
        """The same of experts: the slots of a prompt, sorted, each times the matrices of its expert."""
        matrices = [one.w for one in (arguments.first, arguments.second) if one.w.rows]
        grid = len(matrices) * _groups(arguments.sorted.rows, 128), expert_tiles(arguments.tokens, experts)
        return self._launch("matmul_q8", grid, 256, arguments, reads=matrices)

    def sort_slots(self, arguments: args.SortSlots) -> Launch:
        """The slots of a prompt in the order of their experts."""
        return self._launch("sort_slots", (1,), 512, arguments)

    def qkv(self, arguments: args.Qkv) -> Launch:
        """Q, K and V of one token, up to attention."""
        heads = arguments.heads
        grid = _groups(heads.head_dim, 8), heads.heads + 2 * heads.kv_heads
        q, k, v = arguments.q, arguments.k, arguments.v
        general = f"qkv_{self._mode}"
        kernel = self._own(general, q, v) if q.format == k.format else general
        return self._launch(kernel, grid, 128, arguments, reads=[q, k, v])

    def heads(self, arguments: args.HeadsOfPrompt, tokens: int) -> Launch:
        """Biases, norms, RoPE and cache of a prompt, after its Q, K and V products."""
        heads = arguments.heads
        return self._launch("heads", (heads.heads + 2 * heads.kv_heads, tokens), 128, arguments)

    def gate_up(self, arguments: args.GateUp) -> Launch:
        """Gate and up of one token, and the activation of gate times up."""
        grid = (arguments.gate.rows // 32,)
        matrices = [arguments.gate, arguments.up]
        return self._launch(self._own(f"gate_up_{self._mode}", *matrices), grid, 256, arguments, reads=matrices)

    def activate(self, arguments: args.Activate) -> Launch:
        """The activation of gate, times up, of a prompt, after its two products."""
        return self._launch("activate", (_groups(arguments.blocks, 8),), 256, arguments)

    def route(self, arguments: args.Route, tokens: int) -> Launch:
        """The experts of each token and their weights, from the logits of the router."""
        return self._launch("route", (tokens,), 32, arguments)

    def expert_gate_up(self, arguments: args.ExpertGateUp, tokens: int) -> Launch:
        """Gate and up of the experts of each token, and the activation of gate times up."""
        chosen, matrices = arguments.chosen, [arguments.gate, arguments.up]
        kernel, rows = self._own(f"expert_gate_up_{self._mode}", *matrices), chosen.rows * chosen.used * tokens
        return self._launch(
            kernel, (chosen.rows // 32, chosen.used, tokens), 256, arguments, reads=matrices, rows=rows
        )  # fmt: skip

    def expert_down(self, arguments: args.ExpertDown, tokens: int) -> Launch:
        """Down of the experts of each token."""
        chosen, of_block = arguments.chosen, 8 if self._mode is Mode.EXACT else 16
        kernel, rows = self._own(f"expert_down_{self._mode}", arguments.w), chosen.rows * chosen.used * tokens
        grid = _groups(chosen.rows, of_block), chosen.used, tokens
        return self._launch(kernel, grid, 256, arguments, reads=[arguments.w], rows=rows)

    def attend_one(self, arguments: args.AttendOne, splits: int) -> Launch:
        attention = arguments.attention
        group = attention.heads // attention.kv_heads
        kernel, at_once = attention_kernel(group, attention.head_dim, capped=attention.softcap > 0)
        grid = splits, attention.kv_heads, _groups(group, at_once)
        keys = (2 if attention.half_cache else 4) * attention.kv_heads * attention.head_dim
        return replace(self._launch(kernel, grid, 128, arguments), moved_a_position=2 * keys)

    def scores_before_window(self, arguments: args.AttentionAt) -> Launch:
        """Scores of one token and the keys that the window leaves out, for taps."""
        grid = _groups(arguments.attention.map_stride, 128), arguments.attention.heads
        return self._launch("scores_before_window", grid, 128, arguments)

    def softmax_maps(self, arguments: args.SoftmaxMaps, layers: int) -> Launch:
        """The maps of exponentials of one token, of neighbouring layers."""
        grid = _groups(arguments.map_stride, 1024), arguments.heads, layers
        return self._launch("softmax_maps", grid, 256, arguments)

    def attend_prompt(self, arguments: args.AttentionAt, tokens: int) -> Launch:
        attention = arguments.attention
        capped = attention.softcap > 0
        of = prompt_attention(attention.head_dim, half=bool(attention.half_cache), capped=capped)
        return self._launch(of.kernel, (_groups(tokens, of.queries), attention.heads), 128, arguments, of.shared)

    def stage_statistics(self, arguments: args.StageStatistics, records: int, parts: int) -> Launch:
        return self._launch("stage_statistics", (records, parts), 256, arguments)

    def top_candidates(self, arguments: args.TopCandidates) -> Launch:
        return self._launch("top_candidates", (blocks_of_choice(arguments.vocabulary)[1],), 256, arguments)

    def greedy(self, arguments: args.Greedy) -> Launch:
        return self._launch("greedy", (blocks_of_choice(arguments.vocabulary)[0],), 256, arguments)

    def draw(self, arguments: args.Draw) -> Launch:
        return self._launch("draw", (blocks_of_choice(arguments.vocabulary)[0],), 256, arguments)


def norm_threads(columns: int) -> int:
    """Threads of a block of `rms_norm`: one for each four columns, in whole warps, no more than a block can have."""
    return min(1024, 32 * _groups(columns, 128))


def variant(kernel: str, *kinds: WeightType) -> str:
    """What `kernel` is called for matrices of these types alone.

    `qkv_q8_q4_k_q6_k` takes Q and K in Q4_K, and V in Q6_K.
    """
    names = [kind.name.lower() for kind in kinds]
    return "_".join([kernel, *(names[:1] if len(set(names)) == 1 else names)])


def matrix_bytes(matrix: args.Matrix) -> int:
    """Bytes of a matrix on the device, as many as in the file."""
    kind = _kind(matrix)
    return int(matrix.rows) * int(matrix.columns) // kind.format.block_values * kind.format.block_bytes


def _kind(matrix: args.Matrix) -> WeightType:
    kind = WeightType.numbered(matrix.format)
    assert kind is not None, "matrices have the types of our weights"
    return kind


def blocks_of_choice(vocabulary: int) -> tuple[int, int]:
    """Blocks of `greedy` (and of `draw`), and of `top_candidates`."""
    return _groups(vocabulary, 1024), _groups(vocabulary, 2048)


def splits_for(multiprocessors: int, heads: int, kv_heads: int, context: int, *, capped: bool = False) -> int:
    """Runs of keys into which `attend_one` splits the context: two blocks a multiprocessor, but no run too short."""
    group = heads // kv_heads
    blocks_a_run = kv_heads * _groups(group, _heads_at_once(group, capped=capped))
    return max(1, min(2 * multiprocessors // blocks_a_run, _groups(context, _SHORTEST_RUN), _MOST_SPLITS))


def attention_kernel(group: int, head_dim: int, *, capped: bool = False) -> tuple[str, int]:
    """The kernel for `group` query heads a K/V head, and how many of them share a walk over their keys."""
    at_once = _heads_at_once(group, capped=capped)
    return f"attend_one_{_widest(head_dim)}_{at_once}{'_capped' if capped else ''}", at_once


@dataclass(frozen=True, slots=True)
class PromptAttention:
    """A kernel for the attention of a prompt, queries of a block, and bytes of its dynamic shared memory."""

    kernel: str
    queries: int
    shared: int


def prompt_attention(head_dim: int, *, half: bool, capped: bool = False) -> PromptAttention:
    """The kernel for heads of `head_dim` channels: on tensor cores, where the cache is in half."""
    if not half:
        return PromptAttention(f"attend_prompt{'_capped' if capped else ''}", 16, 64 * head_dim + 18944)
    widest = _widest(head_dim)
    queries, keys = (32 if widest == 256 else 64), 4096 // widest
    # Of a query two rows in half, and one of a key and of a value.
    return PromptAttention(f"attend_prompt_half_{widest}", queries, 4 * widest * (queries + keys))


def _widest(head_dim: int) -> int:
    return next(widest for widest in (64, 128, 256) if head_dim <= widest)


def _heads_at_once(group: int, *, capped: bool) -> int:
    return 4 if group <= 4 or capped else 8


def _groups(count: int, size: int) -> int:
    return -(-count // size)
