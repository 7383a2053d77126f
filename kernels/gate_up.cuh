// The products of gate and up for 32 values, by a block of 256 threads: of one dense block, or of an expert.
#pragma once

#include "dot.cuh"

// gates and ups [32] of rows first … first + 31 times column `column` of the activations, visible to the whole block. Each warp
// makes four rows of both matrices, ROWS at a time.
template <Mode MODE, int ROWS, class Formats>
INLINE void gate_and_up(const Matrix& gate, const Matrix& up, int first, const Activations& x, int column, Shared<float> gates,
                        Shared<float> ups) {
#pragma unroll 1
  for (int part = 0; part < 8 / ROWS; ++part) {
    // Gate and up go one after the other through one copy of the code, which has a case for each format.
    const bool is_gate = part % 2 == 0;
    const int row = warp_index() * 4 + part / 2 * ROWS;
    const Matrix w = is_gate ? gate : up;
    float sums[ROWS][1];
    dot_rows<MODE, ROWS, 1, Formats>(w, first + row, x, column, 1, sums);
    if (lane_index() == 0) {
#pragma unroll
      for (int r = 0; r < ROWS; ++r) (is_gate ? gates : ups)[row + r] = sums[r][0];
    }
  }
  __syncthreads();
}
