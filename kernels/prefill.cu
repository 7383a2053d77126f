// Matrix products of prompts in q8: Y = X W^T on int8 tensor cores, with the residual added if one is given.
//
//   matmul_q8(Product first, Product second, Product third, Activations x, const float* residual, float* sum, int tokens,
//             int stride, Sorted sorted, Split split)
//
// Shapes: x [tokens, columns] in Q8_1, columns those of all matrices; products, residual, sum [tokens, rows] with rows `stride`
// apart; unused pointers are null. out = W x, biased = W x + bias, sum = residual + W x of the first matrix. Matrices have
// quantised formats (float formats: matvec_q8_8); those that there are not have no rows. Matrices of one input go together: a
// launch of a small one alone would leave most multiprocessors idle.
// Of experts (sorted.slots) matrices hold those of all experts one after the other, sorted.rows rows each; a token is a slot, whose
// row of x is slot / sorted.of_token, and has the product with the expert that it names: bias is [experts, rows].
//
// Numerics: dot products of levels over 32 columns (in Q6_K over 16, the reach of its scales) are exact integers. Four
// blocks of 32 columns at a time are summed in float32 (sum = fma(x scale, term, sum), term = scale * dot - minimum * x sum),
// and these sums one after the other; where the columns are split, those of each part, and then the parts. So a value depends on
// its row and token alone, and on how its matrix is split; it differs from matvec_q8_8 only by the order of the sum.
//
// A matrix of few rows has its columns split among blocks, whatever the number of tokens: the grid of a short prompt would leave
// most multiprocessors idle. Each block stores its sums, and the last one of a tile adds them up in the order of the columns.
//
// Launch: blocks of 256 threads, grid (ceil(rows / 128) of each matrix, ceil(tokens / 64)), of experts (ceil(sorted.rows / 128) of each
// matrix, tiles that there can be); then the parts of columns, ceil(columns / (128 * split.turns)). A block has 128 rows and 64 tokens, and walks
// over the columns 128 at a time; a warp has 32 rows and 32 tokens of it. 40 KB of shared memory, two blocks at a time on a
// multiprocessor. Must move: W once, and 1.25 bytes a value of x, 4 a value of each output; reads W once for each 64 tokens
// and x once for each 128 rows, mostly from L2. Must compute: 2 operations a weight and token.
#include "formats.cuh"
#include "mma.cuh"

constexpr int THREADS = 256, ROWS = 128, TOKENS = 64, BLOCKS = 4, OF_WARP = 32;
constexpr int PITCH = 8 * BLOCKS + 8;  // ints of a row of levels; the last eight keep rows in different banks
constexpr int PAIR_PITCH = 16 * BLOCKS + 16;

// 128 columns of the block's rows and tokens. Of tokens, the eight words of 32 levels are in the order 0, 4, 1, 5, 2, 6, 3, 7, so
// that a lane's words of both halves are adjacent. Of weights, rows r and r + 8 of each 16 lie together, word by word: the four
// words of 16 bytes are those that a lane gives to one product of a tensor core, in its order, so that none has to be moved.
struct Tile {
  Shared<int> weights, levels;        // [ROWS / 2, PAIR_PITCH], [TOKENS, PITCH]
  Shared<float> scales, minima;       // of weights: [2 * BLOCKS, ROWS] (each 16 columns), [BLOCKS, ROWS]
  Shared<float> x_scales, x_sums;     // [BLOCKS, TOKENS]: scale, sum of the 32 levels
};

// Where the words of a pair of rows begin that lane t of four gives to a product over a block of 32 columns. Pairs and blocks have
// them turned, so that lanes that load do not meet in a bank, and lanes that store no more than twice (tests/kernels/test_prefill.py).
INLINE int pair_words(int pair, int block, int t) {
  return pair * PAIR_PITCH + 16 * block + 4 * ((t + pair / 2 + 2 * (block / 2)) % 4);
}

// 16 columns of two rows, r and r + 8.
template <bool MINIMUM>
INLINE void store_half(const Tile& tile, int pair, int column, const int (&upper)[4], const int (&lower)[4], float2 scales,
                       float2 minima) {
  assume(column >= 0);
  const int block = column / 32 % BLOCKS, half = column / 16 % 2, row = pair / 8 * 16 + pair % 8;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    *reinterpret_cast<int2*>(&tile.weights[pair_words(pair, block, i) + 2 * half]) = make_int2(upper[i], lower[i]);
  tile.scales[(2 * block + half) * ROWS + row] = scales.x, tile.scales[(2 * block + half) * ROWS + row + 8] = scales.y;
  if (MINIMUM) tile.minima[block * ROWS + row] = minima.x, tile.minima[block * ROWS + row + 8] = minima.y;  // of both halves
}

// Of 128 columns the first `blocks` blocks of 32 exist. `row` and `row_below` are those of the thread.
template <class Format>
INLINE void load_weights(const Format& format, int row, int row_below, int chunk, int blocks, const Tile& tile) {
  static_assert(THREADS == ROWS / 2 * BLOCKS, "each thread has a block of two rows");
  const int part = threadIdx.x % BLOCKS, pair = threadIdx.x / BLOCKS;
  if (part >= blocks) return;
  const Unit upper = format.load(row, BLOCKS * chunk + part);
  const Unit lower = format.load(row_below, BLOCKS * chunk + part);
  store_half<Format::HAS_MINIMUM>(tile, pair, upper.low_column, upper.low, lower.low,
                                  make_float2(upper.low_scale, lower.low_scale),
                                  make_float2(upper.low_minimum, lower.low_minimum));
  store_half<Format::HAS_MINIMUM>(tile, pair, upper.high_column, upper.high, lower.high,
                                  make_float2(upper.high_scale, lower.high_scale),
                                  make_float2(upper.high_minimum, lower.high_minimum));
}

// `row` is that of the thread's token.
INLINE void load_tokens(const Activations& x, int row, int columns, int chunk, int blocks, const Tile& tile) {
  static_assert(THREADS == TOKENS * BLOCKS, "each thread has a block of one token");
  const int own = threadIdx.x / BLOCKS, part = threadIdx.x % BLOCKS;
  if (part >= blocks) return;
  const size_t block = static_cast<unsigned>(row) * static_cast<unsigned>(columns / 32) + static_cast<unsigned>(BLOCKS * chunk + part);
  const int4* levels = reinterpret_cast<const int4*>(x.levels + 32 * block);
  const int4 low = levels[0], high = levels[1];
  const Q8Scale scale = x.scales[block];
  int4* const place = reinterpret_cast<int4*>(&tile.levels[own * PITCH + 8 * part]);
  place[0] = make_int4(low.x, high.x, low.y, high.y);
  place[1] = make_int4(low.z, high.z, low.w, high.w);
  tile.x_scales[part * TOKENS + own] = scale.scale;
  tile.x_sums[part * TOKENS + own] = static_cast<float>(scale.low_sum + scale.high_sum);
}

INLINE int4 four_ints(Shared<int> array, int at) { return *reinterpret_cast<const int4*>(&array[at]); }
INLINE int2 two_ints(Shared<int> array, int at) { return *reinterpret_cast<const int2*>(&array[at]); }
INLINE float2 two_floats(Shared<float> array, int at) { return *reinterpret_cast<const float2*>(&array[at]); }

// The data that a lane needs of its two rows of weights, g and g + 8 of 16, over the tile's columns; `row` is the first one.
template <class Format>
struct Weights {
  int4 levels[BLOCKS];  // of the first 16 columns in row g and g + 8, then of the others
  float low[2][BLOCKS], high[2][BLOCKS], minimum[2][BLOCKS];

  INLINE Weights(const Tile& tile, int row) {
    const int pair = row / 16 * 8 + row % 8;
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
      levels[block] = four_ints(tile.weights, pair_words(pair, block, lane_index() % 4));
#pragma unroll
    for (int i = 0; i < 2 * BLOCKS; ++i) {
      const int down = i / BLOCKS, block = i % BLOCKS, at = row + 8 * down;
      low[down][block] = tile.scales[2 * block * ROWS + at];
      if (Format::SCALES_16) high[down][block] = tile.scales[(2 * block + 1) * ROWS + at];
      if (Format::HAS_MINIMUM) minimum[down][block] = tile.minima[block * ROWS + at];
    }
  }
};

// Levels of 16 rows and 8 tokens multiplied over 32 columns, as a whole or (SCALES_16) over either half.
template <class Format>
struct Products {
  int4 low, high;

  INLINE Products(int4 rows, int2 x) {
    if (Format::SCALES_16) {
      low = mma_16x8x16(make_int2(rows.x, rows.y), x.x);
      high = mma_16x8x16(make_int2(rows.z, rows.w), x.y);
    } else {
      low = mma_16x8x32(make_int2(rows.x, rows.y), make_int2(rows.z, rows.w), x);
    }
  }
  // One product, in the scale of its row of weights.
  INLINE float scaled(int at_low, int at_high, const Weights<Format>& w, int down, int block, float x_sum) const {
    float term = w.low[down][block] * static_cast<float>(at_low);
    if (Format::SCALES_16) term = fmaf(w.high[down][block], static_cast<float>(at_high), term);
    return Format::HAS_MINIMUM ? fmaf(-w.minimum[down][block], x_sum, term) : term;
  }
};

// sums[m][n]: of rows 16 m … and tokens 8 n … of the warp, += their product over the columns of the tile.
template <class Format>
INLINE void multiply(const Tile& tile, int blocks, float (&sums)[2][4][4]) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  const int row = warp_index() % 4 * OF_WARP + g, token = warp_index() / 4 * OF_WARP;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const Weights<Format> w(tile, row + 16 * m);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      float part[4] = {};
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block) {
        if (block >= blocks) break;
        const int2 x = two_ints(tile.levels, (token + 8 * n + g) * PITCH + 8 * block + 2 * t);
        const float2 scale = two_floats(tile.x_scales, block * TOKENS + token + 8 * n + 2 * t);
        float2 sum{};
        if (Format::HAS_MINIMUM) sum = two_floats(tile.x_sums, block * TOKENS + token + 8 * n + 2 * t);
        const Products<Format> p(w.levels[block], x);
        part[0] = fmaf(scale.x, p.scaled(p.low.x, p.high.x, w, 0, block, sum.x), part[0]);
        part[1] = fmaf(scale.y, p.scaled(p.low.y, p.high.y, w, 0, block, sum.y), part[1]);
        part[2] = fmaf(scale.x, p.scaled(p.low.z, p.high.z, w, 1, block, sum.x), part[2]);
        part[3] = fmaf(scale.y, p.scaled(p.low.w, p.high.w, w, 1, block, sum.y), part[3]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][n][i] += part[i];
    }
  }
}

// The tokens of a block: neighbours, or slots of one expert. Those after the last repeat it.
struct BlockTokens {
  const int* slots;
  int first, count, of_token;

  INLINE int at(int own) const {
    const int place = first + min(own, count - 1);
    return slots ? slots[place] : place;
  }
  INLINE int row_of_x(int own) const { return slots ? at(own) / of_token : at(own); }
};

// Of grids with several parts: sums of each block [tile, part, 8, THREADS], and counters of the tiles, 0 before and left at 0.
struct Split {
  float4* sums;
  unsigned* counters;
  int turns;  // of 128 columns in a part
};
static_assert(sizeof(Split) == 24, "the host packs this");

template <class Format>
INLINE void matmul(const Format& format, const Matrix& w, const Split& split, int first_row, int last_row, const Activations& x, const BlockTokens& tokens,
                   const Tile& tile, float (&sums)[2][4][4]) {
  const bool busy = warp_index() / 4 * OF_WARP < tokens.count;
  // Rows after the last repeat it.
  const int row_of_x = tokens.row_of_x(threadIdx.x / BLOCKS), row = first_row + threadIdx.x / BLOCKS / 8 * 16 + threadIdx.x / BLOCKS % 8;
  const int own_row = min(row, last_row), row_below = min(row + 8, last_row);
  const int end = min(w.columns / 32, static_cast<int>(blockIdx.z + 1) * split.turns * BLOCKS);
  for (int chunk = blockIdx.z * split.turns; BLOCKS * chunk < end; ++chunk) {
    assume(chunk >= 0);  // so that divisions of places in a row are shifts
    const int blocks = min(BLOCKS, end - BLOCKS * chunk);
    load_weights(format, own_row, row_below, chunk, blocks, tile);
    load_tokens(x, row_of_x, w.columns, chunk, blocks, tile);
    __syncthreads();
    if (busy) multiply<Format>(tile, blocks, sums);
    __syncthreads();
  }
}

// Whether the calling block is the last of its tile: then its sums are those of all parts.
INLINE bool join_parts(const Split& split, bool busy, float (&sums)[2][4][4]) {
  const size_t tile = static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  float4* const of_tile = split.sums + tile * gridDim.z * 8 * THREADS + threadIdx.x;
  if (busy) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float(&four)[4] = sums[i / 4][i % 4];
      of_tile[(blockIdx.z * 8 + i) * THREADS] = make_float4(four[0], four[1], four[2], four[3]);
    }
  }
  if (!last_block(split.counters + tile, gridDim.z)) return false;
  if (!busy) return true;
#pragma unroll
  for (int i = 0; i < 32; ++i) sums[i / 16][i / 4 % 4][i % 4] = 0.0f;
#pragma unroll 1
  for (int part = 0; part < static_cast<int>(gridDim.z); ++part) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float4 four = load_through_l2(of_tile + (part * 8 + i) * THREADS);
      float(&to)[4] = sums[i / 4][i % 4];
      to[0] += four.x, to[1] += four.y, to[2] += four.z, to[3] += four.w;
    }
  }
  return true;
}

struct Product {
  Matrix w;
  float* out;         // [tokens, rows], or null
  const float* bias;  // of experts, or null
  float* biased;
};
static_assert(sizeof(Product) == 48, "the host packs this");

// The block's tile: rows from tile_row ROWS on of the `rows` that begin with row `base` of one matrix.
INLINE void matmul_tile(const Product& own, int base, int rows, int tile_row, const Activations& x, const float* residual, float* sum,
                        const BlockTokens& tokens, int stride, const Split& split, const Tile& tile) {
  float sums[2][4][4] = {};
  Quantised::visit(own.w, [&](const auto& format) {
    matmul(format, own.w, split, base + tile_row * ROWS, base + rows - 1, x, tokens, tile, sums);
  });
  if (gridDim.z > 1 && !join_parts(split, warp_index() / 4 * OF_WARP < tokens.count, sums)) return;
  const int first_row = tile_row * ROWS + warp_index() % 4 * OF_WARP + lane_index() / 4;
  const int first_token = warp_index() / 4 * OF_WARP + lane_index() % 4 * 2;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int m = i / 16, n = i / 4 % 4, down = i / 2 % 2, right = i % 2;
    const int row = first_row + 16 * m + 8 * down, token = first_token + 8 * n + right;
    if (row >= rows || token >= tokens.count) continue;
    const size_t at = static_cast<size_t>(tokens.at(token)) * stride + row;
    const float value = sums[m][n][2 * down + right];
    if (own.out) own.out[at] = value;
    if (own.bias) own.biased[at] = value + own.bias[base + row];
    if (sum) sum[at] = residual[at] + value;
  }
}

INLINE int tiles_of(const Product& product, const Sorted& sorted) {
  return product.w.rows ? ((sorted.slots ? sorted.rows : product.w.rows) + ROWS - 1) / ROWS : 0;
}

KERNEL __launch_bounds__(256, 2) matmul_q8(Product first, Product second, Product third, Activations x, const float* residual,
                                           float* sum, int tokens, int stride, Sorted sorted, Split split) {
  SHARED(int, weights, ROWS / 2 * PAIR_PITCH);
  SHARED(int, levels, TOKENS * PITCH);
  SHARED(float, scales, 2 * BLOCKS * ROWS);
  SHARED(float, minima, BLOCKS * ROWS);
  SHARED(float, x_scales, BLOCKS * TOKENS);
  SHARED(float, x_sums, BLOCKS * TOKENS);
  const Tile tile{weights, levels, scales, minima, x_scales, x_sums};
  wait_for_earlier_launches();
  const int of_first = tiles_of(first, sorted), of_two = of_first + tiles_of(second, sorted), at = blockIdx.x;
  const Product own = at < of_first ? first : at < of_two ? second : third;
  const int tile_row = at < of_first ? at : at < of_two ? at - of_first : at - of_two;
  int base = 0, rows = own.w.rows, first_token = blockIdx.y * TOKENS, count = min(TOKENS, tokens - first_token);
  if (sorted.slots) {
    const ExpertTile own_slots = sorted.tiles[blockIdx.y];
    if (own_slots.count == 0) return;
    base = own_slots.expert * sorted.rows, rows = sorted.rows, first_token = own_slots.first, count = own_slots.count;
  }
  const BlockTokens own_tokens{sorted.slots, first_token, count, sorted.of_token};
  matmul_tile(own, base, rows, tile_row, x, residual, sum, own_tokens, stride, split, tile);
}
