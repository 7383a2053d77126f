// The Q, K and V products of one token and every step after them up to attention, in one launch.
//
//   qkv_exact, qkv_q8, qkv_q8_<formats> (Matrix q, Matrix k, Matrix v, Activations x, Heads h, const Step* step,
//                                        unsigned* counters)
//
// Shapes: x [1, hidden]; see Heads for the rest. The three matrices may have different formats, but only those in the name
// where it has some. counters: one for each head
// (heads + 2 kv_heads), 0 before the first launch and left at 0.
//
// A block of 128 threads makes 8 rows of one head into h.product (2 rows a warp); the last block of a head to finish then
// adds its bias, normalises, rotates and caches it: norms need the whole head, and one block a head would be too few.
// Launch: grid (ceil(head_dim / 8), heads + 2 kv_heads). Must move: the three matrices, 4 bytes (1.25 in q8) a value of x;
// the rest is small.
#include "dot.cuh"
#include "heads.cuh"

constexpr int OF_WARP = 2, OF_BLOCK = 4 * OF_WARP;

// The block's rows of head `own` of a matrix, into the products of that head.
template <Mode MODE, int ROWS, class Formats>
INLINE void multiply_head(const Matrix& w, int own, int dim, const Activations& x, float* products) {
  const int first = blockIdx.x * OF_BLOCK + warp_index() * OF_WARP;
  // Heads are a multiple of four rows: the two of a warp are in one head, or behind it.
#pragma unroll 1
  for (int row = first; row < first + OF_WARP && first < dim; row += ROWS) {
    float sums[ROWS][1];
    dot_rows<MODE, ROWS, 1, Formats>(w, own * dim + row, x, 0, 1, sums);
    if (lane_index() == 0) {
#pragma unroll
      for (int r = 0; r < ROWS; ++r) products[row + r] = sums[r][0];
    }
  }
}

template <Mode MODE, int ROWS, class OfQK = Every, class OfV = OfQK>
INLINE void qkv(const Matrix& q, const Matrix& k, const Matrix& v, const Activations& x, const Heads& h, const Step* step,
                unsigned* counters, Shared<float> values, Shared<float> scratch) {
  const int head = blockIdx.y, dim = h.head_dim;
  float* const products = h.product + head * dim;
  const bool is_q = head < h.heads, is_k = !is_q && head < h.heads + h.kv_heads;
  const int k_head = head - h.heads, v_head = k_head - h.kv_heads;
  const int row = blockIdx.x * OF_BLOCK + warp_index() * OF_WARP;
  if (is_q)
    prefetch_rows<OfQK>(q, head * dim + row);
  else if (is_k)
    prefetch_rows<OfQK>(k, k_head * dim + row);
  else
    prefetch_rows<OfV>(v, v_head * dim + row);
  wait_for_earlier_launches();
  if constexpr (OfQK::COUNT > 1) {
    const Matrix w = is_q ? q : is_k ? k : v;  // a copy: of arguments with an address a thread would keep its own
    multiply_head<MODE, ROWS, OfQK>(w, is_q ? head : is_k ? k_head : v_head, dim, x, products);
  } else {
    // Each matrix has code of its own: an argument that is known when compiled takes no registers.
    if (is_q)
      multiply_head<MODE, ROWS, OfQK>(q, head, dim, x, products);
    else if (is_k)
      multiply_head<MODE, ROWS, OfQK>(k, k_head, dim, x, products);
    else
      multiply_head<MODE, ROWS, OfV>(v, v_head, dim, x, products);
  }
  if (last_block(counters + head, gridDim.x)) finish_head(h, head, 0, step->position, values, scratch);
}

#define ARGUMENTS Matrix q, Matrix k, Matrix v, Activations x, Heads h, const Step *step, unsigned *counters
#define RUN(...)                      \
  SHARED(float, values, MAX_HEAD_DIM); \
  SHARED(float, scratch, 4);           \
  qkv<__VA_ARGS__>(q, k, v, x, h, step, counters, values, scratch)

KERNEL __launch_bounds__(128, 4) qkv_exact(ARGUMENTS) { RUN(Mode::EXACT, 1); }
KERNEL __launch_bounds__(128, 4) qkv_q8(ARGUMENTS) { RUN(Mode::Q8, 2); }
KERNEL __launch_bounds__(128, 5) qkv_q8_q4_k(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q4K>); }
KERNEL __launch_bounds__(128, 5) qkv_q8_q4_k_q6_k(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q4K>, Among<Q6K>); }
KERNEL __launch_bounds__(128, 5) qkv_q8_q5_k(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q5K>); }
KERNEL __launch_bounds__(128, 5) qkv_q8_q5_k_q6_k(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q5K>, Among<Q6K>); }
KERNEL __launch_bounds__(128, 5) qkv_q8_q6_k(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q6K>); }
KERNEL __launch_bounds__(128, 5) qkv_q8_q4_0(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q40>); }
KERNEL __launch_bounds__(128, 5) qkv_q8_q4_1(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q41>); }
KERNEL __launch_bounds__(128, 5) qkv_q8_q5_0(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q50>); }
KERNEL __launch_bounds__(128, 5) qkv_q8_q5_1(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q51>); }
KERNEL __launch_bounds__(128, 5) qkv_q8_q8_0(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q80>); }
KERNEL __launch_bounds__(128, 5) qkv_q8_iq4_xs(ARGUMENTS) { RUN(Mode::Q8, 2, Among<IQ4XS>); }
KERNEL __launch_bounds__(128, 5) qkv_q8_mxfp4(ARGUMENTS) { RUN(Mode::Q8, 2, Among<MXFP4>); }
