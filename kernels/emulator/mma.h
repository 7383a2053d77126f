// The twin of mma.cuh: one warp operation, performed by the last lane to come.
#pragma once

#include <cstdint>
#include <cstring>

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
