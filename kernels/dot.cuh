// Rows of a weight matrix times up to eight columns of activations, by one warp.
//
// Lane l takes units l, l + 32, … of each row; sums of lanes are joined as a tree. So the result of a row and a column
// depends on nothing else: not on how many rows or columns are computed together, nor by which block.
#pragma once

#include "formats.cuh"

enum class Mode { EXACT, Q8 };

// Four products added to `total`. Multiplications and additions are joined by hand here and below, so that every
// instantiation rounds alike.
INLINE float dot4(const float* weights, float4 x, float total) {
  total = fmaf(weights[0], x.x, total);
  total = fmaf(weights[1], x.y, total);
  total = fmaf(weights[2], x.z, total);
  return fmaf(weights[3], x.w, total);
}

INLINE float dot16(const float* weights, const float4* x) {
  return dot4(weights + 12, x[3], dot4(weights + 8, x[2], dot4(weights + 4, x[1], dot4(weights, x[0], 0.0f))));
}

INLINE int dot16(const int (&levels)[4], int4 x) {
  return __dp4a(levels[3], x.w, __dp4a(levels[2], x.z, __dp4a(levels[1], x.y, __dp4a(levels[0], x.x, 0))));
}

// sums[r][c] += lane's share of row (row + r) times column c, weights and activations in float32.
template <int ROWS, int COLUMNS, class Format>
INLINE void accumulate_exact(const Format& format, const Matrix& matrix, int row, const float* x, int given,
                             float (&sums)[ROWS][COLUMNS]) {
  const int units = matrix.columns / UNIT;
  // Rows one after the other: a unit in float32 takes 32 registers.
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
#pragma unroll 1
    for (int index = lane_index(); index < units; index += WARP) {
      const Unit unit = format.load(min(row + r, matrix.rows - 1), index);
      float weights[UNIT];
      dequantise(unit, weights);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        if (c >= given) break;
        const float* column = x + static_cast<size_t>(c) * matrix.columns;
        sums[r][c] += dot16(weights, reinterpret_cast<const float4*>(column + unit.low_column));
        sums[r][c] += dot16(weights + 16, reinterpret_cast<const float4*>(column + unit.high_column));
      }
    }
  }
}

// The same for float formats.
template <int ROWS, int COLUMNS, class Format>
INLINE void accumulate_floats(const Format& format, const Matrix& matrix, int row, const float* x, int given,
                              float (&sums)[ROWS][COLUMNS]) {
#pragma unroll 1
  for (int index = lane_index(); index < matrix.columns / EIGHT; index += WARP) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      float weights[EIGHT];
      format.load(min(row + r, matrix.rows - 1), index, weights);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        if (c >= given) break;
        const float4* at = reinterpret_cast<const float4*>(x + static_cast<size_t>(c) * matrix.columns) + 2 * index;
        sums[r][c] = dot4(weights + 4, at[1], dot4(weights, at[0], sums[r][c]));
      }
    }
  }
}

// The same with activations in Q8_1: integer products, one float32 term for each half of a unit.
template <int ROWS, int COLUMNS, class Format>
INLINE void accumulate_q8(const Format& format, const Matrix& matrix, int row, const signed char* levels,
                          const Q8Scale* scales, int given, float (&sums)[ROWS][COLUMNS]) {
  const int units = matrix.columns / UNIT, blocks = matrix.columns / 32;
  for (int index = lane_index(); index < units; index += WARP) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const Unit unit = format.load(min(row + r, matrix.rows - 1), index);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        if (c >= given) break;
        const signed char* column = levels + static_cast<size_t>(c) * matrix.columns;
        const int4 a = *reinterpret_cast<const int4*>(column + unit.low_column);
        const int4 b = *reinterpret_cast<const int4*>(column + unit.high_column);
        const int low = dot16(unit.low, a), high = dot16(unit.high, b);
        const Q8Scale* column_scales = scales + static_cast<size_t>(c) * blocks;
        const Q8Scale p = column_scales[unit.low_column / 32], q = column_scales[unit.high_column / 32];
        float low_term = unit.low_scale * static_cast<float>(low), high_term = unit.high_scale * static_cast<float>(high);
        if (Format::HAS_MINIMUM) {
          low_term = fmaf(-unit.low_minimum, static_cast<float>(unit.low_column % 32 ? p.high_sum : p.low_sum), low_term);
          high_term = fmaf(-unit.high_minimum, static_cast<float>(unit.high_column % 32 ? q.high_sum : q.low_sum), high_term);
        }
        sums[r][c] = fmaf(p.scale, low_term, fmaf(q.scale, high_term, sums[r][c]));
      }
    }
  }
}

// What meets what: float formats have no use for 8-bit activations and meet float32 ones in both modes.
template <Mode MODE, bool QUANTISED>
struct Accumulate {
  template <int ROWS, int COLUMNS, class Format>
  static INLINE void run(const Format& format, const Matrix& matrix, int row, const Activations& x, size_t start, int given,
                         float (&sums)[ROWS][COLUMNS]) {
    accumulate_floats(format, matrix, row, x.values + start, given, sums);
  }
};
template <>
struct Accumulate<Mode::EXACT, true> {
  template <int ROWS, int COLUMNS, class Format>
  static INLINE void run(const Format& format, const Matrix& matrix, int row, const Activations& x, size_t start, int given,
                         float (&sums)[ROWS][COLUMNS]) {
    accumulate_exact(format, matrix, row, x.values + start, given, sums);
  }
};
template <>
struct Accumulate<Mode::Q8, true> {
  template <int ROWS, int COLUMNS, class Format>
  static INLINE void run(const Format& format, const Matrix& matrix, int row, const Activations& x, size_t start, int given,
                         float (&sums)[ROWS][COLUMNS]) {
    accumulate_q8(format, matrix, row, x.levels + start, x.scales + start / 32, given, sums);
  }
};

// sums[r][c] = row (row + r) times column (column + c) of the activations, in every lane. Of the columns the first `given`
// exist, the sums of others are 0; behind the last row its sums are repeated.
template <Mode MODE, int ROWS, int COLUMNS>
INLINE void dot_rows(const Matrix& matrix, int row, const Activations& x, int column, int given,
                     float (&sums)[ROWS][COLUMNS]) {
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) sums[r][c] = 0.0f;
  with_format(matrix, [&](const auto& format) {
    using Format = FormatOf<decltype(format)>;
    Accumulate<MODE, Format::QUANTISED>::run(format, matrix, row, x, static_cast<size_t>(column) * matrix.columns, given, sums);
  });
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c)
      if (c < given) sums[r][c] = warp_sum(sums[r][c]);
}
