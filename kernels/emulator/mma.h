// The twin of mma.cuh: one warp operation, performed by the last lane to come.
#pragma once

#include <cstdint>
#include <cstring>
#include <numeric>

#include "cuda_emulator.h"

namespace emulator {

struct Fragment {
  int a[4], b[2];  // a: rows g, g + 8 of k 0-15, then of k 16-31
  int d[4];
};

template <int DEPTH>
inline void multiply_tiles(void* const* slots, unsigned) {
  int8_t a[16][DEPTH], b[8][DEPTH];
  for (int lane = 0; lane < LANES; ++lane) {
    const auto& mine = *static_cast<const Fragment*>(slots[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int part = 0; part < DEPTH / 16; ++part) {
      std::memcpy(&a[g][16 * part + 4 * t], &mine.a[2 * part], 4);
      std::memcpy(&a[g + 8][16 * part + 4 * t], &mine.a[2 * part + 1], 4);
      std::memcpy(&b[g][16 * part + 4 * t], &mine.b[part], 4);
    }
  }
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      int sum = 0;
      for (int k = 0; k < DEPTH; ++k) sum += a[row][k] * b[column][k];
      static_cast<Fragment*>(slots[row % 8 * 4 + column / 2])->d[row / 8 * 2 + column % 2] = sum;
    }
}

struct HalfFragment {
  int a[4], b[2];  // a: rows g, g + 8 of k 0-7, then of k 8-15, two halves each
  float c[4];
};

// The sum of `count` finite addends as a tensor core of sm_80 makes it: cut off at the bits that the largest one needs in float32,
// and one more, then at those of the result.
inline float truncated_sum(const float* addends, int count) {
  int largest = 0;  // the exponent, biased
  for (int i = 0; i < count; ++i) largest = std::max(largest, static_cast<int>(emulator_bits<uint32_t>(addends[i]) >> 23 & 0xFF));
  if (largest == 255) return std::accumulate(addends, addends + count, 0.0f);
  const double unit = std::ldexp(1.0, std::max(largest, 1) - 127 - 24), units = 1.0 / unit;
  int64_t sum = 0;
  for (int i = 0; i < count; ++i) sum += static_cast<int64_t>(addends[i] * units);
  const double exact = static_cast<double>(sum) * unit;
  const float rounded = static_cast<float>(exact);
  return std::fabs(static_cast<double>(rounded)) > std::fabs(exact) ? std::nextafter(rounded, 0.0f) : rounded;
}

inline void multiply_half_tiles(void* const* slots, unsigned) {
  float a[16][16], b[8][16];
  const auto unpack = [](float* to, int two) {
    for (int i = 0; i < 2; ++i) to[i] = __half2float(__ushort_as_half(static_cast<unsigned short>(static_cast<unsigned>(two) >> 16 * i)));
  };
  for (int lane = 0; lane < LANES; ++lane) {
    const auto& mine = *static_cast<const HalfFragment*>(slots[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int part = 0; part < 2; ++part) {
      unpack(&a[g][8 * part + 2 * t], mine.a[2 * part]);
      unpack(&a[g + 8][8 * part + 2 * t], mine.a[2 * part + 1]);
      unpack(&b[g][8 * part + 2 * t], mine.b[part]);
    }
  }
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      float& sum = static_cast<HalfFragment*>(slots[row % 8 * 4 + column / 2])->c[row / 8 * 2 + column % 2];
      for (int part = 0; part < 2; ++part) {
        float addends[9] = {sum};
        for (int k = 0; k < 8; ++k) addends[1 + k] = a[row][8 * part + k] * b[column][8 * part + k];
        sum = truncated_sum(addends, 9);
      }
    }
}

}  // namespace emulator

inline int4 mma_16x8x16(int2 a, int b) {
  emulator::Fragment mine{{a.x, a.y, 0, 0}, {b, 0}, {}};
  emulator::collective(emulator::FULL_WARP, &mine, emulator::multiply_tiles<16>);
  return make_int4(mine.d[0], mine.d[1], mine.d[2], mine.d[3]);
}
inline int4 mma_16x8x32(int2 a_low, int2 a_high, int2 b) {
  emulator::Fragment mine{{a_low.x, a_low.y, a_high.x, a_high.y}, {b.x, b.y}, {}};
  emulator::collective(emulator::FULL_WARP, &mine, emulator::multiply_tiles<32>);
  return make_int4(mine.d[0], mine.d[1], mine.d[2], mine.d[3]);
}
inline float4 mma_16x8x16_halves(int4 a, int2 b, float4 c) {
  emulator::HalfFragment mine{{a.x, a.y, a.z, a.w}, {b.x, b.y}, {c.x, c.y, c.z, c.w}};
  emulator::collective(emulator::FULL_WARP, &mine, emulator::multiply_half_tiles);
  return make_float4(mine.c[0], mine.c[1], mine.c[2], mine.c[3]);
}
