// Matrix-vector products: y = W x for 1 to 8 columns at a time, with the residual added if one is given.
//
//   matvec_exact_1, matvec_q8_1    one column at a time; the fast way for one token
//   matvec_exact_8, matvec_q8_8    eight columns at a time; short prompts, and every prompt in `exact`
//
//   (Matrix w, Activations x, const float* residual, float* product, float* sum, int tokens, int stride)
//
// and behind these, where they take one column at a time: Norm norm.
//
// Shapes: x [tokens, w.columns]; product, residual, sum [tokens, w.rows] with rows `stride` apart. product = W x;
// sum = residual + W x, added in float32. Unused pointers are null; without residual there is no sum.
// exact reads x.values; q8 reads x.levels and x.scales, but x.values where w has a float format.
// norm, of one token: that of the sum, of at most 4096 rows, as rms_norm makes it, to the bit. The last block to finish does
// it: a launch of its own would take longer to begin than it works.
//
// Launch: blocks of 256 threads; grid (ceil(w.rows / rows), ceil(tokens / columns)), rows = 16 for matvec_q8_1,
// 8 for the others. One warp a row, two for matvec_q8_1: their loads overlap. Must move: the bytes of W once for each group
// of columns, 4 bytes a value of x (1.25 in q8) and of each output.
#include "dot.cuh"
#include "norm.cuh"

template <Mode MODE, int ROWS, int COLUMNS, class Formats = Every>
INLINE void matvec(const Matrix& w, const Activations& x, const float* residual, float* product, float* sum, int tokens,
                   int stride) {
  const int row = (blockIdx.x * 8 + warp_index()) * ROWS, column = blockIdx.y * COLUMNS;
  if (row >= w.rows) return;
  const int given = min(COLUMNS, tokens - column);
  float sums[ROWS][COLUMNS];
  dot_rows<MODE, ROWS, COLUMNS, Formats>(w, row, x, column, given, sums);
  if (lane_index() != 0) return;
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      if (c >= given || row + r >= w.rows) break;
      const size_t at = static_cast<size_t>(column + c) * stride + row + r;
      if (product) product[at] = sums[r][c];
      if (sum) sum[at] = residual[at] + sums[r][c];
    }
}

#define ARGUMENTS \
  Matrix w, Activations x, const float *residual, float *product, float *sum, int tokens, int stride
#define GIVEN w, x, residual, product, sum, tokens, stride
#define ARGUMENTS_OF_ONE ARGUMENTS, Norm norm

template <Mode MODE, int ROWS, class Formats = Every>
INLINE void matvec_of_one(ARGUMENTS_OF_ONE) {
  prefetch_rows<Formats>(w, (blockIdx.x * 8 + warp_index()) * ROWS);
  prefetch_norm(norm, w.rows);
  wait_for_earlier_launches();
  matvec<MODE, ROWS, 1, Formats>(GIVEN);
  norm_behind(sum, w.rows, norm);
}

template <Mode MODE>
INLINE void matvec_of_eight(ARGUMENTS) {
  wait_for_earlier_launches();
  matvec<MODE, 1, 8>(GIVEN);
}

// The second launch bound, blocks that a multiprocessor should hold, limits the registers: 64 at four, 128 at two.
KERNEL __launch_bounds__(256, 3) matvec_exact_1(ARGUMENTS_OF_ONE) { matvec_of_one<Mode::EXACT, 1>(GIVEN, norm); }

KERNEL __launch_bounds__(256, 2) matvec_exact_8(ARGUMENTS) { matvec_of_eight<Mode::EXACT>(GIVEN); }

KERNEL __launch_bounds__(256, 3) matvec_q8_1_q4_k(ARGUMENTS_OF_ONE) { matvec_of_one<Mode::Q8, 2, Among<Q4K>>(GIVEN, norm); }
KERNEL __launch_bounds__(256, 2) matvec_q8_1_q5_k(ARGUMENTS_OF_ONE) { matvec_of_one<Mode::Q8, 2, Among<Q5K>>(GIVEN, norm); }
KERNEL __launch_bounds__(256, 3) matvec_q8_1_q6_k(ARGUMENTS_OF_ONE) { matvec_of_one<Mode::Q8, 2, Among<Q6K>>(GIVEN, norm); }
KERNEL __launch_bounds__(256, 3) matvec_q8_1_q4_0(ARGUMENTS_OF_ONE) { matvec_of_one<Mode::Q8, 2, Among<Q40>>(GIVEN, norm); }
KERNEL __launch_bounds__(256, 2) matvec_q8_1_q4_1(ARGUMENTS_OF_ONE) { matvec_of_one<Mode::Q8, 2, Among<Q41>>(GIVEN, norm); }
KERNEL __launch_bounds__(256, 3) matvec_q8_1_q5_0(ARGUMENTS_OF_ONE) { matvec_of_one<Mode::Q8, 2, Among<Q50>>(GIVEN, norm); }
KERNEL __launch_bounds__(256, 3) matvec_q8_1_q5_1(ARGUMENTS_OF_ONE) { matvec_of_one<Mode::Q8, 2, Among<Q51>>(GIVEN, norm); }
KERNEL __launch_bounds__(256, 3) matvec_q8_1_q8_0(ARGUMENTS_OF_ONE) { matvec_of_one<Mode::Q8, 2, Among<Q80>>(GIVEN, norm); }
KERNEL __launch_bounds__(256, 3) matvec_q8_1_iq4_xs(ARGUMENTS_OF_ONE) { matvec_of_one<Mode::Q8, 2, Among<IQ4XS>>(GIVEN, norm); }
KERNEL __launch_bounds__(256, 3) matvec_q8_1_mxfp4(ARGUMENTS_OF_ONE) { matvec_of_one<Mode::Q8, 2, Among<MXFP4>>(GIVEN, norm); }

KERNEL __launch_bounds__(256, 2) matvec_q8_8(ARGUMENTS) { matvec_of_eight<Mode::Q8>(GIVEN); }
