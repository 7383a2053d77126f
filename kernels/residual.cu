// What a block gives on its way into the residual stream, row by row: the sum of what experts compute, a bias, a norm of its own,
// the sum with the residual, and the norm of that.
//
//   add_to_residual(Given g, Norm next)
//
// Shapes: all arrays [tokens, columns], bias and weight [columns]; of experts x [tokens, experts, columns] and shares [tokens,
// experts]. In this order, each step left out where its pointer is null: combined = sum of shares * x; biased = that + bias;
// normed = norm(biased, weight); sum = residual + normed, or what there is of them; next of the sum, as rms_norm makes it, to
// the bit. Without residual there is neither a sum nor its norm. combined, biased and normed are taps. Columns are a multiple
// of 32, at most 16384. next.counter is not used.
//
// Launch: as rms_norm: a block a token, of a thread for each four columns, in whole warps, at most 1024; grid (tokens). Must
// move: 4 bytes a value of x, shares, residual and sum, and of each tap, weight and bias; 1.25 of q8.
#include "norm.cuh"

constexpr int MOST_PASSES = 4;

struct Given {
  const float *x, *shares;
  float* combined;
  const float* bias;
  float* biased;
  const float* weight;
  float* normed;
  const float* residual;
  float* sum;
  int columns, experts;
  float epsilon;
};
static_assert(sizeof(Given) == 88, "the host packs this");

INLINE float4 four_at(const float* values, size_t at) { return *reinterpret_cast<const float4*>(values + at); }
INLINE void store_four(float* values, size_t at, float4 four) { *reinterpret_cast<float4*>(values + at) = four; }
INLINE float4 added(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// What a thread needs beside x: where a row is narrow it is loaded together with x, otherwise where it is used, since a thread
// has few registers.
template <int HELD, bool AHEAD>
struct Beside {
  float4 loaded[HELD] = {};

  INLINE void ahead(const float* values, int i, size_t at) {
    if (AHEAD && values) loaded[i] = four_at(values, at);
  }
  INLINE float4 get(const float* values, int i, size_t at) const { return AHEAD ? loaded[i] : four_at(values, at); }
};

// Four columns of what the experts of the block's token compute, times their shares.
INLINE float4 combined(const Given& g, int column) {
  const size_t first = static_cast<size_t>(blockIdx.x) * g.experts;
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
  for (int k = 0; k < g.experts; ++k) {
    const float share = g.shares[first + k];
    const float4 four = four_at(g.x, (first + k) * g.columns + column);
    sum.x = fmaf(share, four.x, sum.x), sum.y = fmaf(share, four.y, sum.y);
    sum.z = fmaf(share, four.z, sum.z), sum.w = fmaf(share, four.w, sum.w);
  }
  return sum;
}

template <int PASSES>
INLINE void add_row(const Given& g, const Norm& next, Shared<float> scratch, Shared<float> other_scratch) {
  using Own = Pieces<0, 1, PASSES>;
  constexpr int HELD = Own::HELD;
  const size_t start = static_cast<size_t>(blockIdx.x) * g.columns;
  float4 values[HELD] = {}, next_weights[HELD] = {};
  bool inside[HELD];
  Beside<HELD, PASSES == 1> biases, weights, residuals, of_next;
#pragma unroll
  for (int i = 0; i < HELD; ++i) {
    const int column = Own::column(i);
    inside[i] = column < g.columns;
    if (!inside[i]) continue;
    if (g.shares)
      values[i] = combined(g, column);
    else
      values[i] = four_at(g.x, start + column);
    biases.ahead(g.bias, i, column);
    weights.ahead(g.weight, i, column);
    residuals.ahead(g.residual, i, start + column);
    of_next.ahead(next.weight, i, column);
  }
#pragma unroll
  for (int i = 0; i < HELD; ++i)
    if (g.combined && inside[i]) store_four(g.combined, start + Own::column(i), values[i]);
#pragma unroll
  for (int i = 0; i < HELD; ++i) {
    if (!g.bias || !inside[i]) continue;
    values[i] = added(values[i], biases.get(g.bias, i, Own::column(i)));
    if (g.biased) store_four(g.biased, start + Own::column(i), values[i]);
  }
  if (g.weight) {
    const float scale = Own::scale(values, g.columns, g.epsilon, scratch);
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
      if (!inside[i]) continue;
      const float4 v = values[i], w = weights.get(g.weight, i, Own::column(i));
      values[i] = make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w);
      if (g.normed) store_four(g.normed, start + Own::column(i), values[i]);
    }
  }
  if (!g.residual) return;
#pragma unroll
  for (int i = 0; i < HELD; ++i) {
    if (!inside[i]) continue;
    values[i] = added(residuals.get(g.residual, i, start + Own::column(i)), values[i]);
    store_four(g.sum, start + Own::column(i), values[i]);
  }
  if (!next.weight) return;
  const float scale = Own::scale(values, g.columns, next.epsilon, other_scratch);
#pragma unroll
  for (int i = 0; i < HELD; ++i)
    if (inside[i]) next_weights[i] = of_next.get(next.weight, i, Own::column(i));
  Own::finish(values, next_weights, inside, next, start, scale);
}

KERNEL __launch_bounds__(1024) add_to_residual(Given g, Norm next) {
  SHARED(float, scratch, PIECES);
  SHARED(float, other_scratch, PIECES);
  wait_for_earlier_launches();
  if (g.columns <= PIECES * PIECE)
    add_row<1>(g, next, scratch, other_scratch);
  else
    add_row<MOST_PASSES>(g, next, scratch, other_scratch);
}
