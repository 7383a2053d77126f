// CUDA C++ for g++: included by common.cuh where APRTUI_EMULATOR is defined, so that a .cu file runs on the CPU.
//
// Only what our kernels use. Not seen by it: missing __threadfence, coalescing, bank conflicts, registers; last bits of
// expf, and products that nvcc contracts to fma.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "block.h"
#include "launch.h"

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define SHARED(type, name, count)   \
  static const char name##_tag = 0; \
  const auto name = emulator::shared_array<type>(&name##_tag, count, #name)
#define DYNAMIC_SHARED(type, name) const auto name = emulator::dynamic_shared<type>(#name)

#define threadIdx (emulator::block.current->index)
#define blockIdx (emulator::block.index)
#define blockDim (emulator::block.shape)
#define gridDim (emulator::block.grid)
#define __syncthreads() emulator::barrier(__COUNTER__)

#define EMULATOR_VECTOR2(type, name)                                      \
  struct alignas(2 * sizeof(type)) name {                                 \
    type x, y;                                                            \
  };                                                                      \
  inline name make_##name(type x, type y) { return {x, y}; }
#define EMULATOR_VECTOR4(type, name)                                      \
  struct alignas(4 * sizeof(type)) name {                                 \
    type x, y, z, w;                                                      \
  };                                                                      \
  inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATOR_VECTOR2(int, int2)
EMULATOR_VECTOR4(int, int4)
EMULATOR_VECTOR2(float, float2)
EMULATOR_VECTOR4(float, float4)

// ---- warp operations
namespace emulator {

template <class T>
struct Shuffle {
  T value, result;
  int source;
};

template <class T>
T shuffle(unsigned mask, T value, int source) {
  Shuffle<T> mine{value, value, source};
  collective(mask, &mine, [](void* const* slots, unsigned lanes) {
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
      auto& lane = *static_cast<Shuffle<T>*>(slots[__builtin_ctz(rest)]);
      if (!(lanes >> lane.source & 1)) fail("a shuffle reads lane %d, which the mask 0x%08x lacks", lane.source, lanes);
      lane.result = static_cast<const Shuffle<T>*>(slots[lane.source])->value;
    }
  });
  return mine.result;
}

inline int lane() { return block.current->lane; }

struct Vote {
  bool votes;
  unsigned ballot;
};

}  // namespace emulator

inline void __syncwarp(unsigned mask = emulator::FULL_WARP) {
  emulator::collective(mask, nullptr, [](void* const*, unsigned) {});
}
// The source outside the segment of `width` lanes: the own lane, as the hardware does.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return emulator::shuffle(mask, value, (emulator::lane() & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = emulator::lane(), source = lane ^ bits;
  return emulator::shuffle(mask, value, source / width > lane / width ? lane : source);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int lane = emulator::lane(), inside = lane & (width - 1);
  return emulator::shuffle(mask, value, inside + static_cast<int>(distance) < width ? lane + static_cast<int>(distance) : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int lane = emulator::lane(), inside = lane & (width - 1);
  return emulator::shuffle(mask, value, inside >= static_cast<int>(distance) ? lane - static_cast<int>(distance) : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  emulator::Vote mine{predicate != 0, 0};
  emulator::collective(mask, &mine, [](void* const* slots, unsigned lanes) {
    unsigned ballot = 0;
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      ballot |= static_cast<unsigned>(static_cast<const emulator::Vote*>(slots[lane])->votes) << lane;
    }
    for (unsigned rest = lanes; rest; rest &= rest - 1) static_cast<emulator::Vote*>(slots[__builtin_ctz(rest)])->ballot = ballot;
  });
  return mine.ballot;
}
// The lanes of the mask that bring the same value.
inline unsigned __match_any_sync(unsigned mask, int value) {
  int mine[2] = {value, 0};
  emulator::collective(mask, mine, [](void* const* slots, unsigned lanes) {
    const auto value_of = [slots](unsigned lane) -> int* { return static_cast<int*>(slots[lane]); };
    for (unsigned lane = 0; lane < emulator::LANES; ++lane) {
      if (!(lanes >> lane & 1)) continue;
      unsigned same = 0;
      for (unsigned other = 0; other < emulator::LANES; ++other)
        if (lanes >> other & 1 && value_of(other)[0] == value_of(lane)[0]) same |= 1u << other;
      value_of(lane)[1] = static_cast<int>(same);
    }
  });
  return static_cast<unsigned>(mine[1]);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
inline void __threadfence() {}

// ---- atomics: threads take turns, so plain reads and writes
inline unsigned atomicAdd(unsigned* place, unsigned value) {
  const unsigned before = *place;
  *place = before + value;
  return before;
}

// ---- numbers
inline int __dp4a(int a, int b, int sum) {
  for (int shift = 0; shift < 32; shift += 8) sum += static_cast<int8_t>(a >> shift) * static_cast<int8_t>(b >> shift);
  return sum;
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selectors) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  unsigned found = 0;
  for (int i = 0; i < 4; ++i) found |= static_cast<unsigned>(bytes >> 8 * (selectors >> 4 * i & 7) & 0xFF) << 8 * i;
  return found;
}
template <class To, class From>
To emulator_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline float __int_as_float(int bits) { return emulator_bits<float>(bits); }
inline float __uint_as_float(unsigned bits) { return emulator_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return emulator_bits<unsigned>(value); }
// As a device: 0 for NaN, the nearest int for what is too large.
inline int __float2int_rn(float value) {
  if (!(value >= -2147483648.0f)) return value < 0.0f ? -2147483647 - 1 : 0;
  return value >= 2147483648.0f ? 2147483647 : static_cast<int>(nearbyintf(value));
}
using std::max;
using std::min;

// ---- half: g++ has the type, with conversions to nearest even
struct half {
  _Float16 value;
};
inline float __half2float(half h) { return static_cast<float>(h.value); }
inline half __float2half_rn(float f) { return {static_cast<_Float16>(f)}; }
inline half __ushort_as_half(unsigned short bits) { return emulator_bits<half>(bits); }
struct half2 {
  half x, y;
};
inline half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
