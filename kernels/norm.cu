// RMSNorm of rows, and their rounding to Q8_1 in the same launch.
//
//   rms_norm(const float* x, const float* weight, float* out, Q8Output q8, int columns, float epsilon)
//
// Shapes: x, out [tokens, columns]; weight [columns]; q8.levels [tokens, columns], q8.scales [tokens, columns / 32].
// out = x / sqrt(mean(x²) + epsilon) * weight. out and q8.levels may be null. Columns are a multiple of 32, at most 16384.
//
// One block works alone while the device waits for it: it is made of round trips to memory, not of bytes. So each thread
// loads all of its values, and their weights, before it uses the first one.
// Launch: a block a token, of a thread for each four columns, in whole warps, at most 1024; grid (tokens). Must move: 4 bytes
// a value of x and of weight, 4 a value of out, 1.25 of q8.
#include "quantize.cuh"

constexpr int THREADS = 1024, MOST_OF_THREAD = 4, WARPS = THREADS / WARP;

// The sum over the block, for every thread.
INLINE float sum_of_block(float value, Shared<float> scratch) {
  value = warp_sum(value);
  if (lane_index() == 0) scratch[warp_index()] = value;
  __syncthreads();
  return warp_sum(lane_index() < static_cast<int>(blockDim.x) / WARP ? scratch[lane_index()] : 0.0f);
}

template <int OF_THREAD>
INLINE void norm(const float* __restrict__ x, const float* __restrict__ weight, float* __restrict__ out, const Q8Output& q8,
                 int columns, float epsilon, Shared<float> scratch) {
  const size_t start = static_cast<size_t>(blockIdx.x) * columns;
  const int stride = 4 * blockDim.x;
  float4 values[OF_THREAD] = {}, weights[OF_THREAD] = {};
#pragma unroll
  for (int i = 0; i < OF_THREAD; ++i) {
    const int column = 4 * threadIdx.x + i * stride;
    if (column >= columns) break;
    values[i] = *reinterpret_cast<const float4*>(x + start + column);
    weights[i] = *reinterpret_cast<const float4*>(weight + column);
  }
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < OF_THREAD; ++i) {
    const float4 v = values[i];
    squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
  }
  const float scale = 1.0f / sqrtf(sum_of_block(squares, scratch) / static_cast<float>(columns) + epsilon);
#pragma unroll
  for (int i = 0; i < OF_THREAD; ++i) {
    // Columns are a multiple of 32: eight lanes, which hold one block of Q8_1, are inside or outside together; a warp that
    // is outside has nothing left to do, and one that is partly outside rounds zeros there and stores nothing.
    const int column = 4 * threadIdx.x + i * stride;
    if (column - 4 * lane_index() >= columns) break;
    const float4 v = values[i], w = weights[i];
    const float4 normed = make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w);
    const bool inside = column < columns;
    if (out && inside) *reinterpret_cast<float4*>(out + start + column) = normed;
    if (q8.levels) quantize_eighth(normed, q8, (start + column) / 32, inside);
  }
}

KERNEL __launch_bounds__(1024) rms_norm(const float* __restrict__ x, const float* __restrict__ weight, float* __restrict__ out,
                                        Q8Output q8, int columns, float epsilon) {
  SHARED(float, scratch, WARPS);
  // One warp's instructions are another's wait here: no more of them than the width takes.
  if (columns <= 4 * THREADS)
    norm<1>(x, weight, out, q8, columns, epsilon, scratch);
  else
    norm<MOST_OF_THREAD>(x, weight, out, q8, columns, epsilon, scratch);
}
