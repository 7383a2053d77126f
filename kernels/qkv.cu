// The Q, K and V products of one token and every step after them up to attention, in one launch.
//
//   qkv_exact, qkv_q8 (Matrix q, Matrix k, Matrix v, Activations x, Heads h, const Step* step, unsigned* counters)
//
// Shapes: x [1, hidden]; see Heads for the rest. The three matrices may have different formats. counters: one for each head
// (heads + 2 kv_heads), 0 before the first launch and left at 0.
//
// A block of 128 threads makes 16 rows of one head into h.product (4 rows a warp); the last block of a head to finish then
// adds its bias, normalises, rotates and caches it: norms need the whole head, and one block a head would be too few.
// Launch: grid (ceil(head_dim / 16), heads + 2 kv_heads). Must move: the three matrices, 4 bytes (1.25 in q8) a value of x;
// the rest is small.
#include "dot.cuh"
#include "heads.cuh"

template <Mode MODE, int ROWS>
INLINE void qkv(const Matrix& q, const Matrix& k, const Matrix& v, const Activations& x, const Heads& h, const Step* step,
                unsigned* counters, Shared<float> values, Shared<float> scratch) {
  const int head = blockIdx.y;
  const bool is_q = head < h.heads, is_k = !is_q && head < h.heads + h.kv_heads;
  const Matrix w = is_q ? q : is_k ? k : v;
  const int own = is_q ? head : is_k ? head - h.heads : head - h.heads - h.kv_heads;
  const int first = blockIdx.x * 16 + warp_index() * 4, end = min(first + 4, h.head_dim);
#pragma unroll 1
  for (int row = first; row < end; row += ROWS) {
    float sums[ROWS][1];
    dot_rows<MODE, ROWS, 1>(w, own * h.head_dim + row, x, 0, 1, sums);
    if (lane_index() == 0) {
#pragma unroll
      for (int r = 0; r < ROWS; ++r)
        if (row + r < end) h.product[head * h.head_dim + row + r] = sums[r][0];
    }
  }
  if (last_block(counters + head, gridDim.x)) finish_head(h, head, 0, step->position, values, scratch);
}

KERNEL __launch_bounds__(128, 4) qkv_exact(Matrix q, Matrix k, Matrix v, Activations x, Heads h, const Step* step,
                                        unsigned* counters) {
  SHARED(float, values, MAX_HEAD_DIM);
  SHARED(float, scratch, 4);
  qkv<Mode::EXACT, 1>(q, k, v, x, h, step, counters, values, scratch);
}

KERNEL __launch_bounds__(128, 4) qkv_q8(Matrix q, Matrix k, Matrix v, Activations x, Heads h, const Step* step,
                                        unsigned* counters) {
  SHARED(float, values, MAX_HEAD_DIM);
  SHARED(float, scratch, 4);
  qkv<Mode::Q8, 2>(q, k, v, x, h, step, counters, values, scratch);
}
