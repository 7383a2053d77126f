// Rows of the embedding table in float32, equal to the bit to gguf.quants.dequantize, times a number of the model.
//
//   embed(Matrix table, const int* tokens, float* out, float scale)
//
// Shapes: tokens [count], ids below table.rows; out [count, table.columns]. Launch: a block of 128 threads a token; grid
// (count). Must move: a row of the table and 4 bytes a value of out, for each token.
#include "formats.cuh"

template <bool QUANTISED>
struct Row {
  template <class Format>
  static INLINE void write(const Format& format, int row, int columns, float scale, float* out) {
    for (int index = threadIdx.x; index < columns / UNIT; index += 128) {
      const Unit unit = format.load(row, index);
      float weights[UNIT];
      dequantise(unit, weights);
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        out[unit.low_column + i] = scale * weights[i];
        out[unit.high_column + i] = scale * weights[16 + i];
      }
    }
  }
};
template <>
struct Row<false> {
  template <class Format>
  static INLINE void write(const Format& format, int row, int columns, float scale, float* out) {
    for (int index = threadIdx.x; index < columns / EIGHT; index += 128) {
      float eight[EIGHT];
      format.load(row, index, eight);
#pragma unroll
      for (int i = 0; i < EIGHT; ++i) out[EIGHT * index + i] = scale * eight[i];
    }
  }
};

KERNEL __launch_bounds__(128) embed(Matrix table, const int* tokens, float* out, float scale) {
  wait_for_earlier_launches();
  const int row = tokens[blockIdx.x];
  float* const values = out + static_cast<size_t>(blockIdx.x) * table.columns;
  Every::visit(table, [&](const auto& format) {
    Row<FormatOf<decltype(format)>::QUANTISED>::write(format, row, table.columns, scale, values);
  });
}
