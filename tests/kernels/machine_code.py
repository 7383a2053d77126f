"""What a compiled kernel does on its device, read from its code: registers, spills, arguments, loads that overlap.

Registers and arguments are in the image (ELF, the CUDA binary utilities' names for its notes); instructions are
nvdisasm's text. A warp waits where an instruction reads what a load has not brought yet. So a loop is a number of
*waits*, and what counts is how many bytes are under way at each.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from aprtui.engine.cuda.images import kernel_files
from tests.kernels.compiled import compiled

_ARGUMENT_BYTES, _REGISTERS = 0x19, 0x2F  # EIATTR_CBANK_PARAM_SIZE, EIATTR_REGCOUNT
_REGISTER_FILE, _THREADS, _SHARED = 1 << 16, 2048, 228 << 10  # of a multiprocessor of sm_90
_NO_BITS = 8  # type of a section that has a size and no content
_LONG = 4  # format of a note that is followed by as many bytes as its value says
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][\w.]*)\s*([^;]*);")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_KERNEL = re.compile(r"^\.text\.(\w+):")
_REGISTER = re.compile(r"\bR(\d+)(\.64)?")
_WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


def find_nvdisasm() -> str | None:
    """NVIDIA's disassembler on PATH, or from PyPI (nvidia-cuda-nvdisasm)."""
    packages = [str(path) for folder in sys.path for path in Path(folder).glob("nvidia/cu[0-9]*/bin")]
    return shutil.which("nvdisasm") or next(filter(None, (shutil.which("nvdisasm", path=p) for p in packages)), None)


def machine_code_of(cache: Path) -> dict[str, Code]:
    """All kernels as NVRTC compiles them for sm_90, by name; images are kept in `cache`."""
    images = [compiled(source, "sm_90", cache) for source in kernel_files()]
    return {name: code for image in images for name, code in read_image(image).items()}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; `written` and `read` are numbers of registers."""

    name: str
    operands: str
    written: frozenset[int]
    read: frozenset[int]

    @property
    def loads(self) -> int:
        """Bytes that it loads from global memory into a lane's registers; 0 for other instructions."""
        parts = self.name.split(".")
        return next((_WIDTHS[part] for part in parts if part in _WIDTHS), 4) if parts[0] in {"LDG", "LD"} else 0


@dataclass(frozen=True, slots=True)
class Wait:
    """A place where a warp waits for memory, and the widths of a lane's loads that are under way there."""

    loads: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return sum(self.loads)


@dataclass(frozen=True, slots=True)
class Code:
    """The instructions of a kernel."""

    name: str
    registers: int
    argument_bytes: int
    shared_bytes: int
    """Of shared memory of a fixed size."""
    instructions: tuple[Instruction, ...]
    loops: tuple[tuple[int, int], ...]
    """First instruction of each loop and the one behind its last, in the order of their ends."""
    branches: Mapping[int, tuple[int, bool]]
    """By each branch its target, and whether it may be passed by."""

    @property
    def spills(self) -> int:
        """Loads from and stores to memory that stands in for registers."""
        return sum(one.name.split(".")[0] in {"LDL", "STL"} for one in self.instructions)

    @property
    def generic_loads(self) -> int:
        """Loads of which the compiler does not know that they are from global memory."""
        return sum(one.name.split(".")[0] == "LD" for one in self.instructions)

    def loop_waits(self, loop: tuple[int, int]) -> tuple[Wait, ...]:
        """The waits of one turn of `loop`, once it is under way."""
        body = self.instructions[slice(*loop)]
        return tuple(_waits([*body, *body])[len(_waits(body)) :]) or tuple(_waits(body))

    def resident_blocks(self, threads: int) -> int:
        """Blocks of so many threads that a multiprocessor of sm_90 holds at once."""
        registers = -(-self.registers // 8) * 8 * -(-threads // 32) * 32
        limits = (_REGISTER_FILE // registers, _THREADS // threads, _SHARED // max(self.shared_bytes, 1024), 32)
        return min(limits)

    def names(self, loop: tuple[int, int]) -> list[str]:
        """The instructions of `loop`, by name."""
        return [one.name for one in self.instructions[slice(*loop)]]

    def shortest_turn(self, loop: tuple[int, int], needed: str) -> int:
        """The fewest instructions of a turn of `loop` that goes through all instructions called `needed`, in order.

        What a turn can leave out, and loops within it, is not counted.
        """
        begin, end = loop
        stops = [at for at in range(begin, end) if self.instructions[at].name.startswith(needed)]
        return sum(self._steps(a, b, loop) for a, b in pairwise([begin, *stops, end]))

    def _steps(self, start: int, stop: int, loop: tuple[int, int]) -> int:
        """The fewest instructions from one of a loop to another, or to the loop's end, which is its beginning."""
        begin, end = loop
        found, front = {start: 0}, [start]
        while front and stop not in found:
            after = []
            for at in front:
                target, may_pass = self.branches.get(at, (at + 1, True))
                for way in (target, at + 1) if may_pass else (target,):
                    place = end if way == begin else way
                    if begin < place <= end and place not in found:
                        found[place] = found[at] + 1
                        after.append(place)
            front = after
        return found[stop]

    def integer_products(self, loop: tuple[int, int]) -> int:
        """Products of four pairs of levels in a turn of `loop`, for each lane."""
        return sum(one.name.startswith("IDP") for one in self.instructions[slice(*loop)])

    @property
    def product_loops(self) -> list[tuple[int, int]]:
        """The loops over the columns of a quantised matrix."""
        return [loop for loop in self.inner_loops() if self.integer_products(loop)]

    def waits(self, begin: int = 0, end: int | None = None) -> tuple[Wait, ...]:
        """The waits of the instructions from `begin` to `end`, each executed once."""
        return tuple(_waits(self.instructions[begin:end]))

    def inner_loops(self, *, loading: int = 4) -> list[tuple[int, int]]:
        """Loops that hold no other and load at least `loading` bytes a turn."""
        inner = [a for a in self.loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in self.loops)]
        return [loop for loop in inner if sum(one.loads for one in self.instructions[slice(*loop)]) >= loading]


def _waits(instructions: Sequence[Instruction]) -> list[Wait]:
    """Waits in order. Loads that were issued together come together: who has waited for one has all under way."""
    found: list[Wait] = []
    sizes, targets = list[int](), set[int]()
    for one in instructions:
        if targets & one.read:
            found.append(Wait(tuple(sizes)))
            sizes, targets = [], set()
        if one.loads:
            sizes.append(one.loads)
            targets |= one.written
    return found


def read_image(image: bytes) -> dict[str, Code]:
    """The kernels of a cubin, by name. Needs nvdisasm."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.cubin"
        path.write_bytes(image)
        tool = find_nvdisasm()
        assert tool is not None
        text = subprocess.run([tool, "-c", str(path)], capture_output=True, text=True, check=True).stdout
    sections = dict(_sections(image))
    registers = _registers(sections)
    found = {}
    for name, lines in _kernels(text):
        instructions, loops, branches = _parsed(lines)
        (size,) = (
            value for attribute, value, _ in _notes(sections[f".nv.info.{name}"]) if attribute == _ARGUMENT_BYTES
        )
        shared = len(sections.get(f".nv.shared.{name}", b""))
        found[name] = Code(name, registers[name], size, shared, tuple(instructions), tuple(loops), branches)
    return found


def _sections(image: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of each section of an ELF image; zeros for one that has a size alone."""
    (start,) = struct.unpack_from("<Q", image, 0x28)
    size, count, of_names = struct.unpack_from("<HHH", image, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", image, start + size * i) for i in range(count)]
    for name, kind, _, _, offset, length in headers:
        content = bytes(length) if kind == _NO_BITS else image[offset : offset + length]
        yield _text(image, headers[of_names][4] + name), content


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def _notes(section: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Attribute, value and content of each note on a kernel, or on all."""
    at = 0
    while at < len(section):
        kind, attribute, value = struct.unpack_from("<BBH", section, at)
        content = section[at + 4 : at + 4 + value] if kind == _LONG else b""
        yield attribute, value, content
        at += 4 + len(content)


def _registers(sections: dict[str, bytes]) -> dict[str, int]:
    """Registers of a thread, by the name of the kernel."""
    found = {}
    for attribute, _, content in _notes(sections[".nv.info"]):
        if attribute == _REGISTERS:
            symbol, count = struct.unpack("<II", content)
            (name,) = struct.unpack_from("<I", sections[".symtab"], 24 * symbol)
            found[_text(sections[".strtab"], name)] = count
    return found


def _kernels(text: str) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of each kernel; functions that it calls stand in its section."""
    name, lines = "", list[str]()
    for line in text.splitlines():
        if found := _KERNEL.match(line):
            if name:
                yield name, lines
            name, lines = found[1], []
        lines.append(line)
    if name:
        yield name, lines


def _parsed(
    lines: Sequence[str],
) -> tuple[list[Instruction], list[tuple[int, int]], dict[int, tuple[int, bool]]]:
    instructions, loops, labels = list[Instruction](), list[tuple[int, int]](), dict[str, int]()
    branches = dict[int, tuple[str, bool]]()
    for line in lines:
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _INSTRUCTION.search(line):
            instructions.append(_instruction(found[1], found[2].strip()))
            target = re.search(r"`\((\.L_x_\d+)\)", line)
            if not found[1].startswith("BRA") or not target:
                continue
            branches[len(instructions) - 1] = target[1], "@" in line or ".DIV" in found[1]  # where lanes diverge
            if target[1] in labels:
                begin = labels[target[1]]
                if begin < len(instructions) - 1:  # the last of a kernel branches to itself
                    loops.append((begin, len(instructions)))
    return instructions, loops, {at: (labels[name], may_pass) for at, (name, may_pass) in branches.items()}


def _instruction(name: str, operands: str) -> Instruction:
    parts, kind = [part.strip() for part in operands.split(",")], name.partition(".")[0]
    stores = kind in {"STG", "ST", "STS", "STL", "BRA", "EXIT", "RED", "BAR", "ISETP", "FSETP", "DSETP"}
    width = next((_WIDTHS[part] // 4 for part in name.split(".")[1:] if part in {"64", "128"}), 1)
    target = re.fullmatch(r"R(\d+)(?:\.\w+)?", parts[0]) if parts and not stores else None
    if target is None and len(parts) > 1 and re.fullmatch(r"U?P[T\d]", parts[0]) and not stores:
        target, parts = re.fullmatch(r"R(\d+)(?:\.\w+)?", parts[1]), parts[1:]  # e.g. IADD3 R1, P0, … and SHFL PT, R1
    written = range(int(target[1]), int(target[1]) + width) if target else range(0)
    read: set[int] = set()
    for part in parts[1:] if target else parts:
        for found in _REGISTER.finditer(part):
            read |= {int(found[1]), int(found[1]) + 1} if found[2] else {int(found[1])}
    return Instruction(name, operands, frozenset(written), frozenset(read))
