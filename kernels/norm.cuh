// RMSNorm of a row by one block, and its rounding to Q8_1.
//
// A row is cut into pieces of 128 columns, 32 of which are summed together: as one tree over the lanes of each piece, and one
// over the pieces. So the bits depend neither on how many warps the block has, nor on which of them has which piece.
#pragma once

#include "quantize.cuh"

constexpr int PIECE = 4 * WARP, PIECES = 32;

// A norm of the row that a launch makes, in the same launch. weight is null where there is none, out and q8 are where they are
// not wanted; the counter is 0 before the first launch and left at 0.
struct Norm {
  const float* weight;  // [columns]
  float* out;           // [columns]
  Q8Output q8;          // of out
  unsigned* counter;
  float epsilon;
};
static_assert(sizeof(Norm) == 48, "the host packs this");

// Pieces of a row that a thread holds: warp w has the pieces w, w + WARPS, …, OF_WARP of them at a time; a block whose size is
// not known when compiled has WARPS = 0. Columns are a multiple of 32 and at most PASSES times those of all pieces.
template <int WARPS, int OF_WARP, int PASSES>
struct Pieces {
  static constexpr int HELD = OF_WARP * PASSES;

  static INLINE int warps() { return WARPS ? WARPS : static_cast<int>(blockDim.x) / WARP; }
  static INLINE int column(int i) { return PIECE * (warps() * i + warp_index()) + 4 * lane_index(); }

  // 1 / sqrt(mean(x²) + epsilon) of the row; values behind its end are 0. `scratch` holds PIECES values.
  static INLINE float scale(const float4 (&values)[HELD], int columns, float epsilon, Shared<float> scratch) {
#pragma unroll
    for (int own = 0; own < OF_WARP; ++own) {
      float squares = 0.0f;
#pragma unroll
      for (int i = own; i < HELD; i += OF_WARP) {
        const float4 v = values[i];
        squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
      }
      squares = warp_sum(squares);
      if (lane_index() == 0) scratch[warp_index() + warps() * own] = squares;
    }
    __syncthreads();
    const float sum = warp_sum(lane_index() < warps() * OF_WARP ? scratch[lane_index()] : 0.0f);
    return 1.0f / sqrtf(sum / static_cast<float>(columns) + epsilon);
  }

  // Makes the norm of the row that begins at value `start` of n's arrays, and stores it.
  static INLINE void finish(float4 (&values)[HELD], const float4 (&weights)[HELD], const bool (&inside)[HELD], const Norm& n,
                            size_t start, float scale) {
    size_t blocks[HELD];
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
      const size_t at = start + column(i);
      const float4 v = values[i], w = weights[i];
      values[i] = make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w);
      if (n.out && inside[i]) *reinterpret_cast<float4*>(n.out + at) = values[i];
      blocks[i] = at / 32;
    }
    // Columns are a multiple of 32: eight lanes, which hold one block of Q8_1, are inside or outside together.
    if (n.q8.levels) quantize_eighths(values, n.q8, blocks, inside);
  }
};

// `row` counts rows of x, out and q8; see Pieces. Each thread loads all of its values, and their weights, before it uses the
// first one.
template <int WARPS, int OF_WARP, int PASSES>
INLINE void norm_row(const float* x, const Norm& n, size_t row, int columns, Shared<float> scratch) {
  using Own = Pieces<WARPS, OF_WARP, PASSES>;
  const size_t start = row * columns;
  float4 values[Own::HELD] = {}, weights[Own::HELD] = {};
  bool inside[Own::HELD];
#pragma unroll
  for (int i = 0; i < Own::HELD; ++i) {
    const int column = Own::column(i);
    inside[i] = column < columns;
    if (!inside[i]) continue;
    weights[i] = *reinterpret_cast<const float4*>(n.weight + column);
    // Through L2: another block of the launch may have written it.
    values[i] = load_through_l2(reinterpret_cast<const float4*>(x + start + column));
  }
  const float scale = Own::scale(values, columns, n.epsilon, scratch);
  Own::finish(values, weights, inside, n, start, scale);
}

// Has the weights loaded that the last block will need.
INLINE void prefetch_norm(const Norm& n, int columns) {
  const int column = 32 * threadIdx.x;
  if (n.weight && blockIdx.x == 0 && column < columns) prefetch(n.weight + column);
}

// The norm of the row `x` [columns] that the blocks of a launch, of 256 threads each, have written: by the last one of them.
// All threads of all blocks call it. At most 4096 columns: of wider rows a thread could not hold its values.
INLINE void norm_behind(const float* x, int columns, const Norm& n) {
  SHARED(float, scratch, PIECES);
  if (n.weight && last_block(n.counter, gridDim.x * gridDim.y)) norm_row<8, 4, 1>(x, n, 0, columns, scratch);
}
