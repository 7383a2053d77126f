// RMSNorm of rows, and their rounding to Q8_1 in the same launch.
//
//   rms_norm(const float* x, const float* weight, float* out, Q8Output q8, int columns, float epsilon)
//
// Shapes: x, out [tokens, columns]; weight [columns]; q8.levels [tokens, columns], q8.scales [tokens, columns / 32].
// out = x / sqrt(mean(x²) + epsilon) * weight. out and q8.levels may be null. Columns are a multiple of 32.
//
// Launch: a block of 256 threads a token; grid (tokens). Must move: 4 bytes a value of x (once more from the cache) and of
// weight, 4 a value of out, 1.25 of q8.
#include "quantize.cuh"

KERNEL __launch_bounds__(256) rms_norm(const float* x, const float* weight, float* out, Q8Output q8, int columns,
                                       float epsilon) {
  SHARED(float, scratch, 8);
  const size_t start = static_cast<size_t>(blockIdx.x) * columns;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < columns; i += 256) squares = fmaf(x[start + i], x[start + i], squares);
  const float scale = 1.0f / sqrtf(block_sum<8>(squares, scratch) / static_cast<float>(columns) + epsilon);
  // Columns are a multiple of 32: a whole warp is inside or outside, and holds one block of Q8_1.
  for (int i = threadIdx.x; i < columns; i += 256) {
    const float value = x[start + i] * scale * weight[i];
    if (out) out[start + i] = value;
    if (q8.levels) quantize_block(value, q8, (start + i) / 32);
  }
}
