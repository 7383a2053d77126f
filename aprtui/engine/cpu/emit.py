"""Vector code as LLVM IR, written with a few verbs: load, store, splat, shuffle, multiply-add, loop.

numba's own loops widen small integers to 64 bits, which no vectoriser undoes (measured: 2.3 GB/s of Q4_K weights a core
against 13.5 with explicit vectors), so kernels that decide the speed are emitted here. Nothing in this file knows a
weight format; the x86 multiply-adds are named only where the tier has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numpy.typing import NDArray

from aprtui.engine.cpu.tier import TIER, Tier

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()

Value = Any
"""An SSA value of llvmlite (which carries no type hints)."""


def vector(element: Any, lanes: int) -> Any:
    return ir.VectorType(element, lanes)


def constant(type_: Any, value: Any) -> Any:
    """A constant of a scalar type, or the same one in all lanes of a vector type."""
    if isinstance(type_, ir.VectorType):
        return ir.Constant(type_, [value] * type_.count)
    return ir.Constant(type_, value)


class Emitter:
    """Emits vector operations at the current position of an IR builder. Addresses are i64 values."""

    __slots__ = ("builder",)

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    # Memory. GGUF blocks have any alignment, and unaligned vector loads cost nothing extra within a cache line.
    def at(self, address: Value, offset: Value | int) -> Value:
        """The address `offset` bytes on."""
        return self.builder.add(address, constant(I64, offset) if isinstance(offset, int) else offset)

    def load(self, address: Value, type_: Any) -> Value:
        """The value of `type_` at an address of any alignment."""
        return self.builder.load(self.builder.inttoptr(address, type_.as_pointer()), align=1)

    def store(self, value: Value, address: Value) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()), align=1)

    def room(self, type_: Any) -> Value:
        """The address of room for a value on the function's stack."""
        return self.builder.ptrtoint(cgutils.alloca_once(self.builder, type_), I64)

    def constants(self, element: Any, values: Sequence[int]) -> Value:
        """A vector of these constants."""
        return ir.Constant(vector(element, len(values)), list(values))

    def table(self, values: NDArray[Any]) -> Value:
        """The address of a copy of `values` in the compiled code, one however often it is asked for."""
        content, known = values.tobytes(), self.builder.module.globals
        name = f"table_{sha256(content).hexdigest()}"
        if name not in known:
            bytes_ = ir.Constant(ir.ArrayType(I8, values.nbytes), bytearray(content))
            cgutils.global_constant(self.builder, name, bytes_)
        return self.builder.ptrtoint(known[name], I64)

    def prefetch(self, address: Value, size: int) -> None:
        """Ask for the cache lines of `size` bytes at an address, which need not exist."""
        for line in range(0, size, 64):
            pointer = self.builder.inttoptr(self.at(address, line), I8.as_pointer())
            self.call("llvm.prefetch.p0", ir.VoidType(), pointer, *(constant(I32, n) for n in (0, 3, 1)))

    def call(self, name: str, result: Any, *args: Value) -> Value:
        """Call the LLVM intrinsic of that full name."""
        kind = ir.FunctionType(result, [arg.type for arg in args])
        return self.builder.call(self.builder.module.declare_intrinsic(name, (), kind), args)

    # Shape.
    def splat(self, scalar: Value, lanes: int) -> Value:
        """The scalar in all lanes."""
        undefined = ir.Constant(vector(scalar.type, lanes), ir.Undefined)
        return self.shuffle(self.builder.insert_element(undefined, scalar, constant(I32, 0)), [0] * lanes)

    def shuffle(self, value: Value, lanes: Sequence[int], other: Value | None = None) -> Value:
        """The lanes named, counted through `value` and then `other`."""
        mask = ir.Constant(vector(I32, len(lanes)), list(lanes))
        if other is None:
            other = ir.Constant(value.type, ir.Undefined)
        return self.builder.shuffle_vector(value, other, mask)

    def lane(self, value: Value, index: int) -> Value:
        return self.builder.extract_element(value, constant(I32, index))

    def gather(self, scalars: Sequence[Value]) -> Value:
        result = ir.Constant(vector(scalars[0].type, len(scalars)), ir.Undefined)
        for i, scalar in enumerate(scalars):
            result = self.builder.insert_element(result, scalar, constant(I32, i))
        return result

    def concatenate(self, low: Value, high: Value) -> Value:
        return self.shuffle(low, range(2 * low.type.count), high)

    def halve(self, value: Value) -> tuple[Value, Value]:
        n = value.type.count
        return self.shuffle(value, range(n // 2)), self.shuffle(value, range(n // 2, n))

    # Integers.
    def masked(self, value: Value, mask: int) -> Value:
        return self.builder.and_(value, constant(value.type, mask))

    def shifted(self, value: Value, left: int) -> Value:
        """Shifted left, or right without sign if `left` is negative."""
        if left == 0:
            return value
        shift = self.builder.shl if left > 0 else self.builder.lshr
        return shift(value, constant(value.type, abs(left)))

    def widen(self, value: Value, element: Any, signed: bool) -> Value:
        extend = self.builder.sext if signed else self.builder.zext
        return extend(value, vector(element, value.type.count))

    def looked_up(self, indices: Value, table: Sequence[int]) -> Value:
        """The signed bytes of `table` (16) at `indices` (i8 × 32, in the highest tier also × 64, from 0 to 15)."""
        kind = indices.type
        if TIER is not Tier.PLAIN:
            name = {32: "avx2.pshuf.b", 64: "avx512.pshuf.b.512"}[kind.count]
            return self.call(f"llvm.x86.{name}", kind, self.constants(I8, [*table] * (kind.count // 16)), indices)
        result = constant(kind, table[0])
        for index, value in enumerate(table[1:], 1):
            chosen = self.builder.icmp_signed("==", indices, constant(kind, index))
            result = self.builder.select(chosen, constant(kind, value), result)
        return result

    def each_shifted_right(self, value: Value, bits: Sequence[int]) -> Value:
        """Each lane shifted right by a number of bits of its own, without sign."""
        return self.builder.lshr(value, self.constants(value.type.element, list(bits)))

    # Floats. Multiplications and additions are never contracted, unless by `multiply_add`.
    def to_float(self, integers: Value) -> Value:
        """Signed integers as float32, rounded to nearest even."""
        type_ = integers.type
        return self.builder.sitofp(integers, vector(F32, type_.count) if isinstance(type_, ir.VectorType) else F32)

    def multiply_add(self, a: Value, b: Value, c: Value) -> Value:
        """a·b + c of float32 vectors, rounded once where the CPU can."""
        if TIER is Tier.PLAIN:
            return self.builder.fadd(self.builder.fmul(a, b), c)
        return self.call(f"llvm.fma.v{a.type.count}f32", a.type, a, b, c)

    def half_to_float(self, bits: Value) -> Value:
        """float16 bit patterns (i16, scalar or vector) as float32; exact, subnormals, Inf and NaN included."""
        wide = isinstance(bits.type, ir.VectorType)
        float_, half, word = ((vector(t, bits.type.count) if wide else t) for t in (F32, F16, I32))
        if TIER is not Tier.PLAIN:
            return self.builder.fpext(self.builder.bitcast(bits, half), float_)
        # Without F16C the conversion is a call into a library that the compiler's process may lack. A float32 with the
        # same exponent and mantissa bits is 2**112 too small; multiplying is exact, subnormals included.
        b, x = self.builder, self.builder.zext(bits, word)
        magnitude = b.shl(b.and_(x, constant(word, 0x7FFF)), constant(word, 13))
        scaled = b.bitcast(b.fmul(b.bitcast(magnitude, float_), constant(float_, 2.0**112)), word)
        special = b.icmp_unsigned(">=", magnitude, constant(word, 0x7C00 << 13))
        body = b.select(special, b.or_(magnitude, constant(word, 0x7F800000)), scaled)
        sign = b.shl(b.and_(x, constant(word, 0x8000)), constant(word, 16))
        return b.bitcast(b.or_(body, sign), float_)

    def sum_integer(self, value: Value) -> Value:
        while value.type.count > 1:
            value = self.builder.add(*self.halve(value))
        return self.lane(value, 0)

    def sum_each(self, rows: list[Value]) -> Value:
        """The sums of eight i32 × 8 vectors, as one vector; 22 instructions instead of 8 × 6."""
        lower, upper = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
        even, odd = [0, 2, 8, 10, 4, 6, 12, 14], [1, 3, 9, 11, 5, 7, 13, 15]
        for first, second in ((lower, upper), (even, odd), (even, odd)):
            couples = zip(rows[::2], rows[1::2], strict=True)
            rows = [self.builder.add(self.shuffle(p, first, q), self.shuffle(p, second, q)) for p, q in couples]
        return self.shuffle(rows[0], [0, 4, 1, 5, 2, 6, 3, 7])

    def sum_halves(self, rows: list[Value]) -> Value:
        """The sums of the halves of four i32 × 16 vectors, as one vector: first half, second half, next vector."""
        quarters = range(0, 16, 4)
        even, odd = ([i + lane for lane in quarters for i in (k, k + 2, k + 16, k + 18)] for k in range(2))
        while len(rows) > 1:
            couples = zip(rows[::2], rows[1::2], strict=True)
            rows = [self.builder.add(self.shuffle(p, even, q), self.shuffle(p, odd, q)) for p, q in couples]
        first, second = ([i for k in range(4) for i in (k + lane, k + lane + 8)] for lane in (0, 4))
        return self.builder.add(self.shuffle(rows[0], first), self.shuffle(rows[0], second))

    # Multiply-adds of small integers.
    def pair_dot(self, a: Value, b: Value) -> Value:
        """Signed 16-bit products, neighbours summed: i16 × 2n → i32 × n."""
        lanes = a.type.count
        if TIER is not Tier.PLAIN:
            name = {8: "sse2.pmadd.wd", 16: "avx2.pmadd.wd", 32: "avx512.pmaddw.d.512"}[lanes]
            return self.call(f"llvm.x86.{name}", vector(I32, lanes // 2), a, b)
        product = self.builder.mul(self.widen(a, I32, True), self.widen(b, I32, True))
        return self.builder.add(self.shuffle(product, range(0, lanes, 2)), self.shuffle(product, range(1, lanes, 2)))

    def add_pair_dot(self, total: Value, a: Value, b: Value) -> Value:
        """`total` plus `pair_dot`. One VNNI instruction, which keeps LLVM from joining separate chains of additions."""
        if TIER is not Tier.AVX512:
            return self.builder.add(total, self.pair_dot(a, b))
        words = [self.builder.bitcast(operand, total.type) for operand in (a, b)]
        return self.call(f"llvm.x86.avx512.vpdpwssd.{16 * a.type.count}", total.type, total, *words)

    def byte_pair_dot(self, unsigned: Value, signed: Value) -> Value:
        """Unsigned × signed bytes, neighbours summed: i8 × 2n → i16 × n. No pair may leave the range of i16."""
        lanes = unsigned.type.count
        if TIER is not Tier.PLAIN and lanes == 32:
            return self.call("llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), unsigned, signed)
        product = self.builder.mul(self.widen(unsigned, I16, False), self.widen(signed, I16, True))
        return self.builder.add(self.shuffle(product, range(0, lanes, 2)), self.shuffle(product, range(1, lanes, 2)))

    def absolute_bytes(self, value: Value) -> Value:
        """|value| of signed bytes, as unsigned bytes (so that 128 is right)."""
        return self.call(f"llvm.abs.v{value.type.count}i8", value.type, value, ir.Constant(I1, 0))

    def with_sign_of(self, value: Value, sign: Value) -> Value:
        """Signed bytes, negated where `sign` is negative; undefined where it is zero (the product is zero)."""
        if TIER is not Tier.PLAIN and value.type.count == 32:
            return self.call("llvm.x86.avx2.psign.b", value.type, value, sign)
        negative = self.builder.icmp_signed("<", sign, constant(sign.type, 0))
        return self.builder.select(negative, self.builder.neg(value), value)

    def quad_dot(self, total: Value, unsigned: Value, signed: Value) -> Value:
        """`total` (i32 × n) plus unsigned × signed bytes, four neighbours summed (VNNI; i8 × 4n)."""
        words = [self.builder.bitcast(operand, total.type) for operand in (unsigned, signed)]
        return self.call(f"llvm.x86.avx512.vpdpbusd.{8 * unsigned.type.count}", total.type, total, *words)

    # Control.
    def switch(self, selector: Value, cases: Mapping[int, Callable[[], Value | None]]) -> Value | None:
        """Run the case that `selector` (i64) equals; returns its value, if cases have any. Others are undefined."""
        b = self.builder
        impossible, after = b.append_basic_block("impossible"), b.append_basic_block("after")
        branch = b.switch(selector, impossible)
        results: list[tuple[Value, Any]] = []
        for number, emit in cases.items():
            block = b.append_basic_block("case")
            branch.add_case(constant(I64, int(number)), block)
            b.position_at_end(block)
            value = emit()
            if value is not None:
                results.append((value, b.block))
            b.branch(after)
        b.position_at_end(impossible)
        b.unreachable()
        b.position_at_end(after)
        if not results:
            return None
        merged = b.phi(results[0][0].type)
        for value, block in results:
            merged.add_incoming(value, block)
        return merged

    def loop(
        self, count: Value | int, start: Sequence[Value], body: Callable[[Value, list[Value]], Sequence[Value]]
    ) -> list[Value]:
        """`start = body(index, start)` for index 0 … count - 1 (i64); returns the last values."""
        b = self.builder
        limit = constant(I64, count) if isinstance(count, int) else count
        before, test = b.block, b.append_basic_block("test")
        block, after = b.append_basic_block("body"), b.append_basic_block("after")
        b.branch(test)
        b.position_at_end(test)
        index, states = b.phi(I64), [b.phi(value.type) for value in start]
        b.cbranch(b.icmp_signed("<", index, limit), block, after)
        b.position_at_end(block)
        results = body(index, list(states))
        following = b.add(index, constant(I64, 1))
        index.add_incoming(constant(I64, 0), before)
        index.add_incoming(following, b.block)
        for state, first, result in zip(states, start, results, strict=True):
            state.add_incoming(first, before)
            state.add_incoming(result, b.block)
        b.branch(test)
        b.position_at_end(after)
        return states
