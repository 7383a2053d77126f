// Rows of a weight matrix times up to eight columns of activations, by one warp.
//
// Lane l takes units l, l + 32, … of each row; the lanes' sums are added as a tree. So the result of a row and a column
// depends on nothing else: neither on how many rows or columns are computed together, nor on the block.
#pragma once

#include "formats.cuh"

enum class Mode { EXACT, Q8 };

// Four products added to `total`. Multiplications and additions are fused by hand here and below, so that every
// instantiation rounds in the same way.
INLINE float dot4(const float* weights, float4 x, float total) {
  total = fmaf(weights[0], x.x, total);
  total = fmaf(weights[1], x.y, total);
  total = fmaf(weights[2], x.z, total);
  return fmaf(weights[3], x.w, total);
}

INLINE float dot16(const float* weights, const float4* x) {
  return dot4(weights + 12, x[3], dot4(weights + 8, x[2], dot4(weights + 4, x[1], dot4(weights, x[0], 0.0f))));
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
        if (COLUMNS > 1 && c >= given) break;
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
        if (COLUMNS > 1 && c >= given) break;
        const float4* at = reinterpret_cast<const float4*>(x + static_cast<size_t>(c) * matrix.columns) + 2 * index;
        sums[r][c] = dot4(weights + 4, at[1], dot4(weights, at[0], sums[r][c]));
      }
    }
  }
}

INLINE int dot16(const int* levels, int4 x, int total) {
  return __dp4a(levels[3], x.w, __dp4a(levels[2], x.z, __dp4a(levels[1], x.y, __dp4a(levels[0], x.x, total))));
}

// One column of activations in Q8_1.
struct Q8Column {
  const signed char* levels;
  const Q8Scale* scales;

  INLINE int4 at(int column) const { return *reinterpret_cast<const int4*>(levels + column); }
};

INLINE int half_sum(const Q8Scale& x, int column) { return column % 32 ? x.high_sum : x.low_sum; }

// `total` plus the product of a lane's weights: integer products, with one float32 term for each of their scales. OFFSET is
// the amount by which the levels of the weights are too large.
template <int OFFSET, bool MINIMUM>
INLINE float add_product(const Unit& w, const Q8Column& x, float total) {
  const Q8Scale p = x.scales[w.low_column / 32], q = x.scales[w.high_column / 32];
  int low = dot16(w.low, x.at(w.low_column), 0), high = dot16(w.high, x.at(w.high_column), 0);
  const int low_sum = half_sum(p, w.low_column), high_sum = half_sum(q, w.high_column);
  if (OFFSET) low -= OFFSET * low_sum, high -= OFFSET * high_sum;
  float low_term = w.low_scale * static_cast<float>(low), high_term = w.high_scale * static_cast<float>(high);
  if (MINIMUM) {
    low_term = fmaf(-w.low_minimum, static_cast<float>(low_sum), low_term);
    high_term = fmaf(-w.high_minimum, static_cast<float>(high_sum), high_term);
  }
  return fmaf(p.scale, low_term, fmaf(q.scale, high_term, total));
}
INLINE float add_product(const Pair& w, const Q8Column& x, float total) {
  const int low = dot16(w.low + 4, x.at(w.column + 16), dot16(w.low, x.at(w.column), 0));
  const int high = dot16(w.high + 4, x.at(w.column + 48), dot16(w.high, x.at(w.column + 32), 0));
  const Q8Scale p = x.scales[w.column / 32], q = x.scales[w.column / 32 + 1];
  const float low_sum = static_cast<float>(p.low_sum + p.high_sum), high_sum = static_cast<float>(q.low_sum + q.high_sum);
  const float low_term = fmaf(-w.low_minimum, low_sum, w.low_scale * static_cast<float>(low));
  const float high_term = fmaf(-w.high_minimum, high_sum, w.high_scale * static_cast<float>(high));
  return fmaf(p.scale, low_term, fmaf(q.scale, high_term, total));
}

// The weights that a lane takes at a time in q8: 64 if they share a header, which takes as long to read as 32 weights.
template <class Format, bool PAIRED>
struct Q8Part {
  static constexpr int SPAN = UNIT, TURNS = Format::NUMBER == GGML_Q4_0 || Format::NUMBER == GGML_Q4_1 ? 2 : 1;
  Unit weights;
  INLINE Q8Part(const Format& format, int row, int index) : weights(format.template load<false>(row, index)) {}
  INLINE float added(const Q8Column& x, float total) const { return add_product<Format::OFFSET, Format::HAS_MINIMUM>(weights, x, total); }
};
template <class Format>
struct Q8Part<Format, true> {
  static constexpr int SPAN = 2 * UNIT, TURNS = 1;
  Pair weights;
  INLINE Q8Part(const Format& format, int row, int index) : weights(format.load_pair(row, index)) {}
  INLINE float added(const Q8Column& x, float total) const { return add_product(weights, x, total); }
};

// The same with activations in Q8_1.
template <int ROWS, int COLUMNS, class Format>
INLINE void accumulate_q8(const Format& format, const Matrix& matrix, int row, const signed char* levels,
                          const Q8Scale* scales, int given, float (&sums)[ROWS][COLUMNS]) {
  using Part = Q8Part<Format, Format::PAIRED>;
  // What a turn loads is under way together. Two turns of a format of few bytes are; those of others cost registers.
#pragma unroll(COLUMNS == 1 ? Part::TURNS : 1)
  for (int index = lane_index(); index < matrix.columns / Part::SPAN; index += WARP) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const Part part(format, min(row + r, matrix.rows - 1), index);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        if (COLUMNS > 1 && c >= given) break;
        const Q8Column x{levels + static_cast<size_t>(c) * matrix.columns, scales + static_cast<size_t>(c) * (matrix.columns / 32)};
        sums[r][c] = part.added(x, sums[r][c]);
      }
    }
  }
}

// The activations for each format: float formats cannot use 8-bit ones and take float32 in both modes.
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

// Before the launches that make the activations are done, a warp has the beginnings of its first two rows loaded, where all
// matrices of the kernel have one format: a line of 128 bytes a lane.
template <class Formats>
INLINE void prefetch_rows(const Matrix& matrix, int row) {
  if constexpr (Formats::COUNT == 1) {
    Formats::visit(matrix, [&](const auto& format) {
      const int own = row + lane_index() / 16;
      const unsigned char* const line = format.begin(own) + 128 * (lane_index() % 16);
      if (own < matrix.rows && line < format.begin(own + 1)) prefetch(line);
    });
  }
}

// sums[r][c] = row (row + r) times column (column + c) of the activations, in every lane. Of the columns the first `given`
// exist, and the sums of others are 0; rows after the last repeat its sums.
template <Mode MODE, int ROWS, int COLUMNS, class Formats = Every>
INLINE void dot_rows(const Matrix& matrix, int row, const Activations& x, int column, int given,
                     float (&sums)[ROWS][COLUMNS]) {
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) sums[r][c] = 0.0f;
  Formats::visit(matrix, [&](const auto& format) {
    using Format = FormatOf<decltype(format)>;
    Accumulate<MODE, Format::QUANTISED>::run(format, matrix, row, x, static_cast<size_t>(column) * matrix.columns, given, sums);
  });
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c)
      if (c < given) sums[r][c] = warp_sum(sums[r][c]);
}
