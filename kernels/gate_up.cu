// Gate and up products of one token, silu(gate) * up, and its rounding to Q8_1, in one launch.
//
//   gate_up_exact, gate_up_q8 (Matrix gate, Matrix up, Activations x, FeedForward f)
//
// Shapes: x [1, hidden]; f [1, ffn], ffn = gate.rows = up.rows, a multiple of 32. The formats may differ.
//
// A block of 256 threads makes 32 values, one block of Q8_1: each warp four rows of both matrices, two at a time in q8.
// Launch: grid (ffn / 32). Must move: both matrices, 4 bytes (1.25 in q8) a value of x, the outputs.
#include "dot.cuh"
#include "silu.cuh"

template <Mode MODE, int ROWS>
INLINE void gate_up(const Matrix& gate, const Matrix& up, const Activations& x, const FeedForward& f, Shared<float> gates,
                    Shared<float> ups) {
  const int first = blockIdx.x * 32;
#pragma unroll 1
  for (int part = 0; part < 8 / ROWS; ++part) {
    // Gate and up go one after the other through one copy of the code, which has a case for each format.
    const bool is_gate = part % 2 == 0;
    const int row = warp_index() * 4 + part / 2 * ROWS;
    const Matrix w = is_gate ? gate : up;
    float sums[ROWS][1];
    dot_rows<MODE, ROWS, 1>(w, first + row, x, 0, 1, sums);
    if (lane_index() == 0) {
#pragma unroll
      for (int r = 0; r < ROWS; ++r) (is_gate ? gates : ups)[row + r] = sums[r][0];
    }
  }
  __syncthreads();
  if (warp_index() != 0) return;
  const size_t at = first + lane_index();
  const float value = swiglu_value(f, at, gates[lane_index()], ups[lane_index()]);
  if (f.q8.levels) quantize_block(value, f.q8, blockIdx.x);
}

KERNEL __launch_bounds__(256, 3) gate_up_exact(Matrix gate, Matrix up, Activations x, FeedForward f) {
  SHARED(float, gates, 32);
  SHARED(float, ups, 32);
  gate_up<Mode::EXACT, 1>(gate, up, x, f, gates, ups);
}

KERNEL __launch_bounds__(256, 3) gate_up_q8(Matrix gate, Matrix up, Activations x, FeedForward f) {
  SHARED(float, gates, 32);
  SHARED(float, ups, 32);
  gate_up<Mode::Q8, 2>(gate, up, x, f, gates, ups);
}
