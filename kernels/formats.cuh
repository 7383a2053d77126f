// Weight formats, taken apart a unit at a time.
//
// A unit is 32 weights of a row that are adjacent in memory: 16 that multiply activations low_column … low_column + 15,
// and 16 that multiply high_column … . Both halves have one scale each (and Q4_K, Q5_K, Q4_1, Q5_1 one minimum; these span 32 columns
// but in Q6_K, where they span 16), so that
//
//     weight = scale * level - minimum,      level a signed byte, four of them in an int
//
// which gives the values of gguf.quants.dequantize to the bit: scale and scale * level are exact in float32. Formats without a
// minimum store level + OFFSET; load<false> leaves it in, for products that subtract it from the sum.
//
// Q4_K and Q5_K are stored as in the file: their blocks are multiples of 16 bytes. The others have blocks of 17, 18, 20, 22, 24,
// 34, 136 and 210 bytes, which no vector load can take; aprtui/engine/cuda/storage.py lays them out as planes, matrix by matrix, in the
// order of the members below. Each plane but the scales starts at a multiple of 16 bytes.
#pragma once

#include "types.cuh"

constexpr int GGML_F32 = 0, GGML_F16 = 1, GGML_Q4_0 = 2, GGML_Q4_1 = 3, GGML_Q5_0 = 6, GGML_Q5_1 = 7, GGML_Q8_0 = 8,
              GGML_Q4_K = 12, GGML_Q5_K = 13, GGML_Q6_K = 14, GGML_IQ4_XS = 23, GGML_BF16 = 30, GGML_MXFP4 = 39;

constexpr int UNIT = 32;

// begin(row) of a format is where the first plane of a row begins.
struct Unit {
  int low[4], high[4];
  float low_scale, high_scale, low_minimum, high_minimum;
  int low_column, high_column;
};

// The place of a block among those of its matrix, of which there are fewer than 2^32. Of an unsigned number the compiler keeps
// one for a loop; of a pointer it would keep one for each plane and row, in twice as many registers each.
INLINE size_t block_at(int row, int blocks_of_row, int block) {
  return static_cast<unsigned>(row) * static_cast<unsigned>(blocks_of_row) + static_cast<unsigned>(block);
}

INLINE float half_at(const unsigned char* bytes) {
  return __half2float(__ushort_as_half(*reinterpret_cast<const unsigned short*>(bytes)));
}

// Four bytes less than 128, each reduced by OFFSET where REDUCE: no borrow crosses a byte.
template <int OFFSET, bool REDUCE>
INLINE int levels_of(int bytes) {
  if (!REDUCE) return bytes;
  return static_cast<int>(((static_cast<unsigned>(bytes) | 0x80808080u) - 0x01010101u * OFFSET) ^ 0x80808080u);
}

INLINE void load16(int (&words)[4], const unsigned char* bytes) {
  const int4 loaded = *reinterpret_cast<const int4*>(bytes);
  words[0] = loaded.x, words[1] = loaded.y, words[2] = loaded.z, words[3] = loaded.w;
}

// 64 weights of a K-quant that share a header: 32 of each of two neighbouring sub-blocks, for products with Q8_1.
struct Pair {
  int low[8], high[8];
  float low_scale, high_scale, low_minimum, high_minimum;
  int column;  // of the first; the high ones start 32 columns later
};

// Shared by Q4_K and Q5_K: a block starts with half scale, half minimum scale, 12 bytes; the unit holds the same 16 bytes'
// low and high nibbles, which belong to neighbouring sub-blocks of 32.
struct KHeader {
  float scale, minimum_scale;
  unsigned packed[3];

  INLINE explicit KHeader(const unsigned char* block) {
    int words[4];
    load16(words, block);
    scale = __half2float(__ushort_as_half(static_cast<unsigned short>(words[0] & 0xFFFF)));
    minimum_scale = __half2float(__ushort_as_half(static_cast<unsigned short>(static_cast<unsigned>(words[0]) >> 16)));
    packed[0] = words[1], packed[1] = words[2], packed[2] = words[3];
  }
  // Scales and minima have 6 bits: the first four of each lie in the low bits of bytes 0-3 and 4-7; of the last four, four
  // bits lie in bytes 8-11 and two on top of the first ones. Two neighbours at a time, without a branch: lanes differ in pair.
  template <class Weights>
  INLINE void apply(Weights& weights, int pair) const {
    const int shift = 16 * (pair & 1);
    const unsigned first = packed[0] >> shift, second = packed[1] >> shift, third = packed[2] >> shift;
    const bool early = pair < 2;
    const unsigned scales = early ? first & 0x3F3Fu : (third & 0x0F0Fu) | (first & 0xC0C0u) >> 2;
    const unsigned minima = early ? second & 0x3F3Fu : (third >> 4 & 0x0F0Fu) | (second & 0xC0C0u) >> 2;
    weights.low_scale = scale * static_cast<float>(scales & 0xFFu);
    weights.high_scale = scale * static_cast<float>(scales >> 8);
    weights.low_minimum = minimum_scale * static_cast<float>(minima & 0xFFu);
    weights.high_minimum = minimum_scale * static_cast<float>(minima >> 8);
  }
};

struct Q4K {
  static constexpr int NUMBER = GGML_Q4_K;
  static constexpr bool PAIRED = true, QUANTISED = true, HAS_MINIMUM = true, SCALES_16 = false;
  static constexpr int BLOCK_BYTES = 144;
  const unsigned char* blocks;
  int blocks_of_row;

  INLINE explicit Q4K(const Matrix& m) : blocks(static_cast<const unsigned char*>(m.data)), blocks_of_row(m.columns / 256) {}
  INLINE const unsigned char* begin(int row) const { return blocks + BLOCK_BYTES * block_at(row, blocks_of_row, 0); }
  INLINE Unit load(int row, int index) const {
    Unit unit;
    const int part = index % 8, pair = part / 2, half = part % 2;
    const unsigned char* block = blocks + BLOCK_BYTES * block_at(row, blocks_of_row, index / 8);
    int nibbles[4];
    load16(nibbles, block + 16 + 32 * pair + 16 * half);
#pragma unroll
    for (int i = 0; i < 4; ++i) unit.low[i] = nibbles[i] & 0x0F0F0F0F, unit.high[i] = nibbles[i] >> 4 & 0x0F0F0F0F;
    KHeader(block).apply(unit, pair);
    unit.low_column = 256 * (index / 8) + 64 * pair + 16 * half;
    unit.high_column = unit.low_column + 32;
    return unit;
  }
  INLINE Pair load_pair(int row, int index) const {
    Pair pair;
    const unsigned char* block = blocks + BLOCK_BYTES * block_at(row, blocks_of_row, index / 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int nibbles[4];
      load16(nibbles, block + 16 + 32 * (index % 4) + 16 * half);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        pair.low[4 * half + i] = nibbles[i] & 0x0F0F0F0F;
        pair.high[4 * half + i] = nibbles[i] >> 4 & 0x0F0F0F0F;
      }
    }
    KHeader(block).apply(pair, index % 4);
    pair.column = 64 * index;
    return pair;
  }
};

struct Q5K {
  static constexpr int NUMBER = GGML_Q5_K;
  static constexpr bool PAIRED = true, QUANTISED = true, HAS_MINIMUM = true, SCALES_16 = false;
  static constexpr int BLOCK_BYTES = 176;
  const unsigned char* blocks;
  int blocks_of_row;

  INLINE explicit Q5K(const Matrix& m) : blocks(static_cast<const unsigned char*>(m.data)), blocks_of_row(m.columns / 256) {}
  INLINE const unsigned char* begin(int row) const { return blocks + BLOCK_BYTES * block_at(row, blocks_of_row, 0); }
  INLINE Unit load(int row, int index) const {
    Unit unit;
    const int part = index % 8, pair = part / 2, half = part % 2;
    const unsigned char* block = blocks + BLOCK_BYTES * block_at(row, blocks_of_row, index / 8);
    int nibbles[4], fifths[4];
    load16(fifths, block + 16 + 16 * half);  // bit i of byte j: the fifth bit of value j of sub-block i
    load16(nibbles, block + 48 + 32 * pair + 16 * half);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int bits = fifths[i] >> 2 * pair;
      unit.low[i] = (nibbles[i] & 0x0F0F0F0F) | (bits & 0x01010101) << 4;
      unit.high[i] = (nibbles[i] >> 4 & 0x0F0F0F0F) | (bits >> 1 & 0x01010101) << 4;
    }
    KHeader(block).apply(unit, pair);
    unit.low_column = 256 * (index / 8) + 64 * pair + 16 * half;
    unit.high_column = unit.low_column + 32;
    return unit;
  }
  INLINE Pair load_pair(int row, int index) const {
    Pair pair;
    const unsigned char* block = blocks + BLOCK_BYTES * block_at(row, blocks_of_row, index / 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int nibbles[4], fifths[4];
      load16(fifths, block + 16 + 16 * half);
      load16(nibbles, block + 48 + 32 * (index % 4) + 16 * half);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int bits = fifths[i] >> 2 * (index % 4);
        pair.low[4 * half + i] = (nibbles[i] & 0x0F0F0F0F) | (bits & 0x01010101) << 4;
        pair.high[4 * half + i] = (nibbles[i] >> 4 & 0x0F0F0F0F) | (bits >> 1 & 0x01010101) << 4;
      }
    }
    KHeader(block).apply(pair, index % 4);
    pair.column = 64 * index;
    return pair;
  }
};

// Planes: low nibbles 128 bytes a block | high pairs of bits 64 | scales 16 signed bytes | half scale.
struct Q6K {
  static constexpr int NUMBER = GGML_Q6_K;
  static constexpr int OFFSET = 32;
  static constexpr bool PAIRED = false, QUANTISED = true, HAS_MINIMUM = false, SCALES_16 = true;
  const unsigned char *nibbles, *pairs, *scales, *block_scales;
  int blocks_of_row;

  INLINE explicit Q6K(const Matrix& m) : nibbles(static_cast<const unsigned char*>(m.data)), blocks_of_row(m.columns / 256) {
    const size_t blocks = static_cast<size_t>(m.rows) * blocks_of_row;
    pairs = nibbles + 128 * blocks;
    scales = pairs + 64 * blocks;
    block_scales = scales + 16 * blocks;
  }
  INLINE const unsigned char* begin(int row) const { return nibbles + 128 * block_at(row, blocks_of_row, 0); }
  template <bool REDUCE = true>
  INLINE Unit load(int row, int index) const {
    Unit unit;
    // A half of a block is 128 values: 64 bytes, low nibbles values 0-63, high nibbles 64-127; each of its 32 bytes of
    // pairs serves values j, j + 32, j + 64, j + 96.
    const int part = index % 8, half = part / 4, quarter = part % 4;
    const size_t block = block_at(row, blocks_of_row, index / 8);
    int low[4], top[4];
    load16(low, nibbles + 128 * block + 16 * part);
    load16(top, pairs + 64 * block + 32 * half + 16 * (quarter % 2));
    const int shift = 2 * (quarter / 2);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      unit.low[i] = levels_of<OFFSET, REDUCE>((low[i] & 0x0F0F0F0F) | (top[i] >> shift & 0x03030303) << 4);
      unit.high[i] = levels_of<OFFSET, REDUCE>((low[i] >> 4 & 0x0F0F0F0F) | (top[i] >> (shift + 4) & 0x03030303) << 4);
    }
    const signed char* small = reinterpret_cast<const signed char*>(scales) + 16 * block + 8 * half + quarter;
    const float scale = half_at(block_scales + 2 * block);
    unit.low_scale = scale * small[0], unit.high_scale = scale * small[4];
    unit.low_minimum = unit.high_minimum = 0.0f;
    unit.low_column = 256 * (index / 8) + 128 * half + 16 * quarter;
    unit.high_column = unit.low_column + 64;
    return unit;
  }
};

// The 32-blocks: a unit is a block, its halves values 0-15 and 16-31.
INLINE void set_block(Unit& unit, float scale, float minimum, int index) {
  unit.low_scale = unit.high_scale = scale;
  unit.low_minimum = unit.high_minimum = minimum;
  unit.low_column = UNIT * index;
  unit.high_column = unit.low_column + 16;
}

// Bits 0-3 of `bits` to bit 4 of each byte: the products put them there and nothing else into 0x10101010.
INLINE int fifth_bits(unsigned bits) { return static_cast<int>((bits & 15u) * 0x00204081u & 0x01010101u) << 4; }

// Planes: nibbles 16 bytes a block | half scale.
struct Q40 {
  static constexpr int NUMBER = GGML_Q4_0;
  static constexpr int OFFSET = 8;
  static constexpr bool PAIRED = false, QUANTISED = true, HAS_MINIMUM = false, SCALES_16 = false;
  const unsigned char *nibbles, *scales;
  int blocks_of_row;

  INLINE explicit Q40(const Matrix& m) : nibbles(static_cast<const unsigned char*>(m.data)), blocks_of_row(m.columns / UNIT) {
    scales = nibbles + 16 * (static_cast<size_t>(m.rows) * blocks_of_row);
  }
  INLINE const unsigned char* begin(int row) const { return nibbles + 16 * block_at(row, blocks_of_row, 0); }
  template <bool REDUCE = true>
  INLINE Unit load(int row, int index) const {
    Unit unit;
    const size_t block = block_at(row, blocks_of_row, index);
    int loaded[4];
    load16(loaded, nibbles + 16 * block);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      unit.low[i] = levels_of<OFFSET, REDUCE>(loaded[i] & 0x0F0F0F0F);
      unit.high[i] = levels_of<OFFSET, REDUCE>(loaded[i] >> 4 & 0x0F0F0F0F);
    }
    set_block(unit, half_at(scales + 2 * block), 0.0f, index);
    return unit;
  }
};

// Planes: nibbles 16 bytes a block | half scale | half, what the level 0 stands for.
struct Q41 {
  static constexpr int NUMBER = GGML_Q4_1;
  static constexpr int OFFSET = 0;
  static constexpr bool PAIRED = false, QUANTISED = true, HAS_MINIMUM = true, SCALES_16 = false;
  const unsigned char *nibbles, *scales, *lowest;
  int blocks_of_row;

  INLINE explicit Q41(const Matrix& m) : nibbles(static_cast<const unsigned char*>(m.data)), blocks_of_row(m.columns / UNIT) {
    const size_t blocks = static_cast<size_t>(m.rows) * blocks_of_row;
    scales = nibbles + 16 * blocks;
    lowest = scales + 2 * blocks;
  }
  INLINE const unsigned char* begin(int row) const { return nibbles + 16 * block_at(row, blocks_of_row, 0); }
  template <bool REDUCE = true>
  INLINE Unit load(int row, int index) const {
    Unit unit;
    const size_t block = block_at(row, blocks_of_row, index);
    int loaded[4];
    load16(loaded, nibbles + 16 * block);
#pragma unroll
    for (int i = 0; i < 4; ++i) unit.low[i] = loaded[i] & 0x0F0F0F0F, unit.high[i] = loaded[i] >> 4 & 0x0F0F0F0F;
    set_block(unit, half_at(scales + 2 * block), -half_at(lowest + 2 * block), index);
    return unit;
  }
};

// Planes: nibbles 16 bytes a block | fifth bits 4 bytes, bit i for value i | half scale.
struct Q50 {
  static constexpr int NUMBER = GGML_Q5_0;
  static constexpr int OFFSET = 16;
  static constexpr bool PAIRED = false, QUANTISED = true, HAS_MINIMUM = false, SCALES_16 = false;
  const unsigned char *nibbles, *fifths, *scales;
  int blocks_of_row;

  INLINE explicit Q50(const Matrix& m) : nibbles(static_cast<const unsigned char*>(m.data)), blocks_of_row(m.columns / UNIT) {
    const size_t blocks = static_cast<size_t>(m.rows) * blocks_of_row;
    fifths = nibbles + 16 * blocks;
    scales = fifths + 4 * blocks;
  }
  INLINE const unsigned char* begin(int row) const { return nibbles + 16 * block_at(row, blocks_of_row, 0); }
  template <bool REDUCE = true>
  INLINE Unit load(int row, int index) const {
    Unit unit;
    const size_t block = block_at(row, blocks_of_row, index);
    int loaded[4];
    load16(loaded, nibbles + 16 * block);
    const unsigned bits = *reinterpret_cast<const unsigned*>(fifths + 4 * block);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      unit.low[i] = levels_of<OFFSET, REDUCE>((loaded[i] & 0x0F0F0F0F) | fifth_bits(bits >> 4 * i));
      unit.high[i] = levels_of<OFFSET, REDUCE>((loaded[i] >> 4 & 0x0F0F0F0F) | fifth_bits(bits >> (16 + 4 * i)));
    }
    set_block(unit, half_at(scales + 2 * block), 0.0f, index);
    return unit;
  }
};

// Planes: nibbles 16 bytes a block | fifth bits 4 bytes, bit i for value i | half scale | half, as in Q4_1.
struct Q51 {
  static constexpr int NUMBER = GGML_Q5_1;
  static constexpr int OFFSET = 0;
  static constexpr bool PAIRED = false, QUANTISED = true, HAS_MINIMUM = true, SCALES_16 = false;
  const unsigned char *nibbles, *fifths, *scales, *lowest;
  int blocks_of_row;

  INLINE explicit Q51(const Matrix& m) : nibbles(static_cast<const unsigned char*>(m.data)), blocks_of_row(m.columns / UNIT) {
    const size_t blocks = static_cast<size_t>(m.rows) * blocks_of_row;
    fifths = nibbles + 16 * blocks;
    scales = fifths + 4 * blocks;
    lowest = scales + 2 * blocks;
  }
  INLINE const unsigned char* begin(int row) const { return nibbles + 16 * block_at(row, blocks_of_row, 0); }
  template <bool REDUCE = true>
  INLINE Unit load(int row, int index) const {
    Unit unit;
    const size_t block = block_at(row, blocks_of_row, index);
    int loaded[4];
    load16(loaded, nibbles + 16 * block);
    const unsigned bits = *reinterpret_cast<const unsigned*>(fifths + 4 * block);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      unit.low[i] = (loaded[i] & 0x0F0F0F0F) | fifth_bits(bits >> 4 * i);
      unit.high[i] = (loaded[i] >> 4 & 0x0F0F0F0F) | fifth_bits(bits >> (16 + 4 * i));
    }
    set_block(unit, half_at(scales + 2 * block), -half_at(lowest + 2 * block), index);
    return unit;
  }
};

// Planes: levels 32 signed bytes a block | half scale.
struct Q80 {
  static constexpr int NUMBER = GGML_Q8_0;
  static constexpr int OFFSET = 0;
  static constexpr bool PAIRED = false, QUANTISED = true, HAS_MINIMUM = false, SCALES_16 = false;
  const unsigned char *levels, *scales;
  int blocks_of_row;

  INLINE explicit Q80(const Matrix& m) : levels(static_cast<const unsigned char*>(m.data)), blocks_of_row(m.columns / UNIT) {
    scales = levels + 32 * (static_cast<size_t>(m.rows) * blocks_of_row);
  }
  INLINE const unsigned char* begin(int row) const { return levels + 32 * block_at(row, blocks_of_row, 0); }
  template <bool REDUCE = true>
  INLINE Unit load(int row, int index) const {
    Unit unit;
    const size_t block = block_at(row, blocks_of_row, index);
    load16(unit.low, levels + 32 * block);
    load16(unit.high, levels + 32 * block + 16);
    set_block(unit, half_at(scales + 2 * block), 0.0f, index);
    return unit;
  }
};

// The entries of a table of 16 signed bytes for eight indices of four bits: of the lower halves of the bytes, and of the upper
// ones. A selector takes one of eight bytes by three bits; the fourth bit takes one of two such choices.
struct Codebook {
  unsigned words[4];

  INLINE void look_up(int indices, int& low, int& high) const {
    const unsigned given = static_cast<unsigned>(indices), halves = 0x32103210u | (given & 0x88888888u) >> 1;
    unsigned found[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const unsigned small = __byte_perm(words[0], words[1], given >> 16 * i & 0x7777u);
      const unsigned large = __byte_perm(words[2], words[3], given >> 16 * i & 0x7777u);
      found[i] = __byte_perm(small, large, halves >> 16 * i & 0x7777u);
    }
    low = static_cast<int>(__byte_perm(found[0], found[1], 0x6420));
    high = static_cast<int>(__byte_perm(found[0], found[1], 0x7531));
  }
};

// Planes: indices 128 bytes a block, 16 a sub-block of 32 | lower four bits of eight scales, 4 bytes | half scale | upper two
// bits of the scales, 2 bytes.
struct IQ4XS {
  static constexpr int NUMBER = GGML_IQ4_XS;
  static constexpr int OFFSET = 0;
  static constexpr bool PAIRED = false, QUANTISED = true, HAS_MINIMUM = false, SCALES_16 = false;
  // -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113
  static INLINE Codebook codebook() { return {{0xBFAD9881u, 0xF6EADDCFu, 0x26190D01u, 0x71594535u}}; }
  const unsigned char *nibbles, *low_bits, *block_scales, *high_bits;
  int blocks_of_row;

  INLINE explicit IQ4XS(const Matrix& m) : nibbles(static_cast<const unsigned char*>(m.data)), blocks_of_row(m.columns / 256) {
    const size_t blocks = static_cast<size_t>(m.rows) * blocks_of_row;
    low_bits = nibbles + 128 * blocks;
    block_scales = low_bits + 4 * blocks;
    high_bits = block_scales + 2 * blocks;
  }
  INLINE const unsigned char* begin(int row) const { return nibbles + 128 * block_at(row, blocks_of_row, 0); }
  template <bool REDUCE = true>
  INLINE Unit load(int row, int index) const {
    Unit unit;
    const size_t block = block_at(row, blocks_of_row, index / 8);
    const int part = index % 8;
    int loaded[4];
    load16(loaded, nibbles + 128 * block + 16 * part);
    const unsigned low = *reinterpret_cast<const unsigned*>(low_bits + 4 * block);
    const unsigned high = *reinterpret_cast<const unsigned short*>(high_bits + 2 * block);
#pragma unroll
    for (int i = 0; i < 4; ++i) codebook().look_up(loaded[i], unit.low[i], unit.high[i]);
    const int scale = static_cast<int>((low >> 4 * part & 15u) | (high >> 2 * part & 3u) << 4) - 32;
    set_block(unit, half_at(block_scales + 2 * block) * static_cast<float>(scale), 0.0f, index);
    return unit;
  }
};

// 2^(exponent - 128).
INLINE float power_of_two(unsigned exponent) {
  return __uint_as_float(exponent > 1 ? (exponent - 1) << 23 : 0x00200000u << exponent);
}

// Planes: indices 16 bytes a block | exponent of the scale, 1 byte.
struct MXFP4 {
  static constexpr int NUMBER = GGML_MXFP4;
  static constexpr int OFFSET = 0;
  static constexpr bool PAIRED = false, QUANTISED = true, HAS_MINIMUM = false, SCALES_16 = false;
  // Doubled: 0 1 2 3 4 6 8 12 and the same below zero
  static INLINE Codebook codebook() { return {{0x03020100u, 0x0C080604u, 0xFDFEFF00u, 0xF4F8FAFCu}}; }
  const unsigned char *nibbles, *exponents;
  int blocks_of_row;

  INLINE explicit MXFP4(const Matrix& m) : nibbles(static_cast<const unsigned char*>(m.data)), blocks_of_row(m.columns / UNIT) {
    exponents = nibbles + 16 * (static_cast<size_t>(m.rows) * blocks_of_row);
  }
  INLINE const unsigned char* begin(int row) const { return nibbles + 16 * block_at(row, blocks_of_row, 0); }
  template <bool REDUCE = true>
  INLINE Unit load(int row, int index) const {
    Unit unit;
    const size_t block = block_at(row, blocks_of_row, index);
    int loaded[4];
    load16(loaded, nibbles + 16 * block);
#pragma unroll
    for (int i = 0; i < 4; ++i) codebook().look_up(loaded[i], unit.low[i], unit.high[i]);
    set_block(unit, power_of_two(exponents[block]), 0.0f, index);
    return unit;
  }
};

// The 32 weights of a unit in float32, the low half first.
INLINE void dequantise(const Unit& unit, float (&weights)[UNIT]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float low = static_cast<float>(static_cast<signed char>(unit.low[i / 4] >> 8 * (i % 4)));
    const float high = static_cast<float>(static_cast<signed char>(unit.high[i / 4] >> 8 * (i % 4)));
    weights[i] = fmaf(low, unit.low_scale, -unit.low_minimum);
    weights[16 + i] = fmaf(high, unit.high_scale, -unit.high_minimum);
  }
}

// Float formats: rows as in the file, taken eight values at a time.
constexpr int EIGHT = 8;

struct F32 {
  static constexpr int NUMBER = GGML_F32;
  static constexpr bool QUANTISED = false;
  const float* values;
  size_t columns;

  INLINE explicit F32(const Matrix& m) : values(static_cast<const float*>(m.data)), columns(m.columns) {}
  INLINE void load(int row, int index, float (&eight)[EIGHT]) const {
    const float4* at = reinterpret_cast<const float4*>(values + row * columns + EIGHT * index);
    const float4 a = at[0], b = at[1];
    eight[0] = a.x, eight[1] = a.y, eight[2] = a.z, eight[3] = a.w;
    eight[4] = b.x, eight[5] = b.y, eight[6] = b.z, eight[7] = b.w;
  }
};

// 16-bit floats, as Value turns their bits into float32.
template <class Value>
struct Halves {
  static constexpr int NUMBER = Value::NUMBER;
  static constexpr bool QUANTISED = false;
  const unsigned char* values;
  size_t row_bytes;

  INLINE explicit Halves(const Matrix& m)
      : values(static_cast<const unsigned char*>(m.data)), row_bytes(2 * static_cast<size_t>(m.columns)) {}
  INLINE void load(int row, int index, float (&eight)[EIGHT]) const {
    int words[4];
    load16(words, values + row * row_bytes + 2 * EIGHT * index);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      eight[2 * i] = Value::of(static_cast<unsigned>(words[i]) & 0xFFFFu);
      eight[2 * i + 1] = Value::of(static_cast<unsigned>(words[i]) >> 16);
    }
  }
};
struct HalfValue {
  static constexpr int NUMBER = GGML_F16;
  static INLINE float of(unsigned bits) { return __half2float(__ushort_as_half(static_cast<unsigned short>(bits))); }
};
struct BrainValue {
  static constexpr int NUMBER = GGML_BF16;
  static INLINE float of(unsigned bits) { return __uint_as_float(bits << 16); }
};
using F16 = Halves<HalfValue>;
using BF16 = Halves<BrainValue>;

// The format that a visitor is called with: FormatOf<decltype(format)>.
template <class T>
struct Referred;
template <class T>
struct Referred<const T&> {
  using Type = T;
};
template <class T>
using FormatOf = typename Referred<T>::Type;

// The formats that a kernel can meet. Code for one of them alone takes fewer registers than code that chooses.
template <class... Formats>
struct Among {
  static constexpr int COUNT = sizeof...(Formats);
  // Calls visit(format) with the format of `matrix`; all threads of a warp see the same matrix.
  template <class Visit>
  static INLINE void visit(const Matrix& matrix, Visit visit) {
    if constexpr (COUNT == 1)
      (visit(Formats(matrix)), ...);
    else
      static_cast<void>(((matrix.format == Formats::NUMBER && (visit(Formats(matrix)), true)) || ...));
  }
};
using Quantised = Among<Q4K, Q5K, Q6K, Q40, Q41, Q50, Q51, Q80, IQ4XS, MXFP4>;
using Every = Among<Q4K, Q5K, Q6K, Q40, Q41, Q50, Q51, Q80, IQ4XS, MXFP4, F16, BF16, F32>;
