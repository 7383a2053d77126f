"""The code of the kernels for sm_90: what the comments claim of registers, arguments and loads that overlap.

How long a wait takes is not known here; how many there are, and how much is under way at each, is.
"""

from __future__ import annotations

import ctypes
import re

import pytest

from aprtui.engine.cuda import arguments as args
from aprtui.engine.cuda.images import entry_points, kernel_files
from tests.kernels.machine_code import Code, Instruction, Wait, _instruction, _waits

pytestmark = pytest.mark.group("nvdisasm")

ARGUMENTS: dict[str, type[ctypes.Structure]] = {
    "add_to_residual": args.AddToResidual, "attend_one": args.AttendOne, "attend_prompt": args.AttentionAt,
    "expert_down": args.ExpertDown, "expert_gate_up": args.ExpertGateUp, "route": args.Route,
    "draw": args.Draw, "embed": args.Embed, "scores_before_window": args.AttentionAt, "softcap": args.Softcap,
    "gate_up": args.GateUp, "greedy": args.Greedy, "heads": args.HeadsOfPrompt, "matmul": args.ProductsOfPrompt,
    "matvec_exact_1": args.ProductOfOne, "matvec_q8_1": args.ProductOfOne, "matvec_exact_8": args.Product,
    "matvec_q8_8": args.Product, "qkv": args.Qkv, "quantize": args.Quantize, "rms_norm": args.RmsNorm,
    "softmax_maps": args.SoftmaxMaps, "sort_slots": args.SortSlots,
    "stage_statistics": args.StageStatistics, "activate": args.Activate, "top_candidates": args.TopCandidates,
}  # fmt: skip

# Bytes that a lane has under way in the loop over two rows, and blocks that a multiprocessor must have room for.
PRODUCTS = {
    "q4_k": (176, 3), "q5_k": (240, 2), "q6_k": (120, 3), "q4_0": (160, 3), "q4_1": (168, 2), "q5_0": (88, 3),
    "q5_1": (92, 3), "q8_0": (108, 4), "iq4_xs": (88, 3), "mxfp4": (74, 3),
}  # fmt: skip

SIXTEEN = 16


def test_every_kernel_is_looked_at(machine_code: dict[str, Code]) -> None:
    assert set(machine_code) == {name for file in kernel_files() for name in entry_points(file)}


def test_no_kernel_spills_or_loads_from_an_unknown_space(machine_code: dict[str, Code]) -> None:
    assert {name: code.spills for name, code in machine_code.items() if code.spills} == {}
    assert {name: code.generic_loads for name, code in machine_code.items() if code.generic_loads} == {}


def test_the_host_packs_as_many_bytes_as_a_kernel_takes(machine_code: dict[str, Code]) -> None:
    for name, code in machine_code.items():
        (arguments,) = (kind for prefix, kind in ARGUMENTS.items() if name.startswith(prefix))
        assert len(args.packed(arguments())) == code.argument_bytes, name


def test_a_kernel_waits_for_earlier_launches_before_it_reads_or_writes_anything(machine_code: dict[str, Code]) -> None:
    for name, code in machine_code.items():
        names = [one.name.partition(".")[0] for one in code.instructions]
        assert (names.count("ACQBULK"), names.count("PREEXIT")) == (1, 1), name
        wait = names.index("ACQBULK")
        assert wait < names.index("PREEXIT"), f"{name} lets the next launch begin before it has waited"
        assert not {"LDG", "LD", "STG", "ST", "ATOMG", "ATOM", "RED", "LDGSTS", "EXIT"} & set(names[:wait]), name


def test_products_of_one_format_have_weights_loaded_while_they_wait(machine_code: dict[str, Code]) -> None:
    for name, code in machine_code.items():
        if name.startswith(("matvec_q8_1_", "qkv_q8_", "gate_up_q8_")):
            names = [one.name for one in code.instructions]
            assert "CCTL.E.PF2" in names[: names.index("ACQBULK")], name


@pytest.mark.parametrize("kernel", ["matvec_q8_1", "gate_up_q8"])
@pytest.mark.parametrize("kind", list(PRODUCTS))
def test_all_that_a_turn_of_a_product_takes_is_under_way_together(
    machine_code: dict[str, Code], kind: str, kernel: str
) -> None:
    code, (size, blocks) = machine_code[f"{kernel}_{kind}"], PRODUCTS[kind]
    (loop,) = code.product_loops
    assert [wait.bytes for wait in code.loop_waits(loop)] == [size]
    assert code.resident_blocks(256) >= blocks


@pytest.mark.parametrize("kernel", ["expert_gate_up_q8", "expert_down_q8"])
@pytest.mark.parametrize("kind", ["q4_k", "q5_k", "q6_k", "q4_0", "q8_0", "iq4_xs", "mxfp4"])
def test_so_is_all_that_a_turn_of_an_expert_takes(machine_code: dict[str, Code], kind: str, kernel: str) -> None:
    code, (size, blocks) = machine_code[f"{kernel}_{kind}"], PRODUCTS[kind]
    (loop,) = code.product_loops
    assert [wait.bytes for wait in code.loop_waits(loop)] == [size]
    assert code.resident_blocks(256) >= blocks


def test_what_a_block_gives_is_loaded_at_once_with_all_that_joins_it(machine_code: dict[str, Code]) -> None:
    code = machine_code["add_to_residual"]
    waits = [wait.loads for wait in code.waits()]
    assert (SIXTEEN,) * 5 in waits, "x, bias, weight, residual and the next norm's weight"


def test_tensor_cores_get_weights_from_the_registers_into_which_they_are_loaded(machine_code: dict[str, Code]) -> None:
    code = machine_code["matmul_q8"]
    assert code.resident_blocks(256) == 2
    loops = [names for names in map(code.names, code.loops) if any(name.startswith("IMMA") for name in names)]
    assert len(loops) == 10, "one a format"
    for names in loops:
        assert names.count("LDS.128") == 8, "the weights of a lane: 16 rows of four blocks, twice"
        products = sum(name.startswith("IMMA") for name in names)
        assert sum(name.startswith(("MOV", "IMAD.MOV")) for name in names) < 1.25 * products
        assert len(names) < 34 * 32 if products == 32 else len(names) < 40 * 32, "docs/gpu-estimate.md says so"


def test_all_that_a_turn_of_q_k_and_v_takes_is_under_way_together(machine_code: dict[str, Code]) -> None:
    variants = {name: code for name, code in machine_code.items() if name.startswith("qkv_q8_")}
    assert len(variants) == 12
    for name, code in variants.items():
        kinds = re.findall("|".join(PRODUCTS), name.removeprefix("qkv_q8_"))
        sizes = sorted(PRODUCTS[kind][0] for kind in (kinds[0], kinds[0], kinds[-1]))
        found = [[wait.bytes for wait in code.loop_waits(loop)] for loop in code.product_loops]
        assert sorted(found) == [[size] for size in sizes], name
        assert code.resident_blocks(128) >= 5, name


def test_a_norm_loads_everything_before_its_barrier(machine_code: dict[str, Code]) -> None:
    code = machine_code["rms_norm"]
    barriers = [at for at, one in enumerate(code.instructions) if one.name.startswith("BAR")]
    loads = [at for at, one in enumerate(code.instructions) if one.loads]
    assert [code.instructions[at].loads for at in loads] == [
        SIXTEEN
    ] * 10  # of rows up to 4096 two, of wider ones eight
    begins = [0, barriers[0]]
    of_path = [sum(begin < at < end for at in loads) for begin, end in zip(begins, barriers, strict=True)]
    assert sorted(of_path) == [2, 8]


def test_the_norm_of_a_sum_loads_it_at_once_and_behind_the_count_of_blocks(machine_code: dict[str, Code]) -> None:
    for name, code in machine_code.items():
        if ARGUMENTS.get(name.rsplit("_q", 1)[0] if "_q8_1" in name else name) is not args.ProductOfOne:
            continue
        counts = [at for at, one in enumerate(code.instructions) if one.name.startswith("ATOMG")]
        assert len(counts) == 1, name
        behind = code.instructions[counts[0] :]
        assert [one.loads for one in behind if one.loads] == [SIXTEEN] * 8, name
        assert code.waits(counts[0])[0].loads[:4] == (SIXTEEN,) * 4, name


@pytest.mark.parametrize(("widest", "products", "most"), [(64, 128, 1200), (128, 128, 1000), (256, 96, 850)])
def test_attention_of_a_prompt_gives_tensor_cores_what_it_loads_and_divides_nothing_in_its_loop(
    machine_code: dict[str, Code], widest: int, products: int, most: int
) -> None:
    code = machine_code[f"attend_prompt_half_{widest}"]
    assert code.resident_blocks(128) >= 2
    loop = next(loop for loop in code.loops if code.names(loop).count("HMMA.16816.F32") == products)
    # A run of 32 channels takes four words of queries, and one of every 8 keys; and two of the values of every 16 keys.
    runs, keys, names = widest // 32, 4096 // widest, code.names(loop)
    assert names.count("LDS.128") == runs * (4 + keys // 8) + min(runs, 4) * 2 * keys // 16
    assert code.shortest_turn(loop, "HMMA") < most, "docs/gpu-estimate.md says so"
    assert [wait.loads[:8] for wait in code.loop_waits(loop)][:1] == [(SIXTEEN,) * 8], "the next tile"


def test_attention_over_float32_loads_words_and_fuses_all_products(machine_code: dict[str, Code]) -> None:
    code = machine_code["attend_prompt"]
    inner = [code.names(loop) for loop in code.inner_loops(loading=0)]
    of_keys, *of_values = [names for names in inner if names.count("FFMA") == 128]
    assert len(of_values) == 2, "of each 128 channels"
    assert of_keys.count("LDS.128") == 40, "a run of 32 channels: the lane's key, and four queries"
    for names in of_values:
        assert names.count("LDS.128") == 8, "8 keys, of which each lane has four channels"
    for names in (of_keys, *of_values):
        assert len(names) < 250
        assert not any(name.startswith("MUFU") for name in names)


@pytest.mark.parametrize(
    ("kernel", "size"),
    [("64_4", 4), ("64_8", 4), ("128_4", 8), ("128_8", 8), ("256_8", 16), ("128_4_capped", 8), ("256_4_capped", 16)],
)
def test_a_tile_of_keys_and_values_is_under_way_while_the_one_before_is_used(
    machine_code: dict[str, Code], kernel: str, size: int
) -> None:
    code = machine_code[f"attend_one_{kernel}"]
    turns = [wait for loop in code.loops for wait in code.loop_waits(loop) if wait.loads == (SIXTEEN,) * size]
    assert turns, "a turn waits once, for all loads of its tile"
    assert code.resident_blocks(128) >= 2


def test_statistics_load_32_values_a_lane_together(machine_code: dict[str, Code]) -> None:
    code = machine_code["stage_statistics"]
    waits = [wait.loads for loop in code.loops for wait in code.loop_waits(loop)]
    assert (SIXTEEN,) * 8 in waits
    assert code.resident_blocks(256) >= 3


def test_a_turn_is_counted_without_what_it_can_leave_out() -> None:
    names = ["MOV", "BRA", "FADD", "FADD", "HMMA", "BRA", "HMMA", "BRA"]
    branches = {1: (4, True), 5: (7, True), 7: (0, True)}
    code = Code("k", 1, 0, 0, tuple(_instruction(name, "") for name in names), ((0, 8),), branches)
    assert code.shortest_turn((0, 8), "HMMA") == 6
    branches[1] = 2, True
    assert code.shortest_turn((0, 8), "HMMA") == 8


def test_waits_are_counted_as_a_warp_meets_them() -> None:
    def load(register: int) -> Instruction:
        return _instruction("LDG.E.128", f"R{register}, desc[UR4][R2.64]")

    use = _instruction("FFMA", "R30, R5, R6, R30")
    assert load(4).written == {4, 5, 6, 7}
    assert load(4).read == {2, 3}
    assert _waits([load(4), load(8), use, use]) == [Wait((16, 16))]
    other = _instruction("FADD", "R31, R9, R31")
    assert _waits([load(4), use, load(8), other]) == [Wait((16,)), Wait((16,))]
    assert _waits([load(4), other]) == []
    store = _instruction("STG.E.128", "desc[UR4][R2.64], R4")
    assert _waits([load(4), store]) == [Wait((16,))]
    assert _instruction("IADD3", "R6, P0, R4, R8, RZ").written == {6}
    assert _instruction("ISETP.GE.AND", "P4, PT, R4, R3, PT").written == set()
