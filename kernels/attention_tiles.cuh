// The tiles of attend_prompt_half.cu in shared memory: how large they are, and where their words lie.
#pragma once

#include "common.cuh"

constexpr int THREADS = 128, WARPS = THREADS / WARP, OF_WARP = 16, RUN = 32;

template <int WIDEST>
struct Sizes {
  static constexpr int SLICES = WIDEST > 128 ? WIDEST / 128 : 1;      // warps that have the same queries
  static constexpr int QUERIES = OF_WARP * WARPS / SLICES, KEYS = 4096 / WIDEST;
  static constexpr int RUNS = WIDEST / RUN, PARTS = RUNS / SLICES;     // runs of channels of a head, and those that a warp adds up
  static constexpr int WORDS = WIDEST / 8, LOADS = KEYS * WORDS / THREADS;  // words of 16 bytes: 8 channels of a row
  static constexpr int TILES = KEYS / 8, STEPS = KEYS / 16;            // of 8 keys and of 16
};
static_assert(Sizes<64>::LOADS == 4 && Sizes<128>::LOADS == 4 && Sizes<256>::LOADS == 4, "one quad of values a thread");

// Words of 16 bytes. Of queries: four channels of rows g and g + 8, the fragment of A of a tensor core; of keys: eight channels of
// a row, two fragments of B; of values: two channels of keys 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 of 16, two fragments of B. So none
// of what a lane loads has to be moved. Lane t of four takes channels 8 t … 8 t + 7 of each 32: a tensor core adds up channels in
// any order, as long as it is that of queries and keys.
struct Tiles {
  Shared<int4> high, low;  // of queries [QUERIES / 2, WIDEST / 4]
  Shared<int4> keys;       // [KEYS, WIDEST / 8]
  Shared<int4> values;     // [KEYS / 4, WIDEST / 2]
};

// Where words lie in their rows: turned, so that lanes that load or store do not meet in a bank, but for stores of queries
// (tests/kernels/test_attention.py).
INLINE int query_word(int pair, int word, int widest) { return pair * (widest / 4) + (word ^ pair % 2); }
INLINE int key_word(int key, int word, int widest) { return key * (widest / 8) + (word ^ key % 2 * 4); }
INLINE int value_word(int quad, int word, int widest) { return quad * (widest / 2) + (word ^ quad % 2 ^ quad / 2 % 2 * 6); }

// The quad of keys of which a thread stores values, and the word of eight channels of them.
template <int WIDEST>
INLINE int quad_of_thread() {
  return threadIdx.x / 4 / Sizes<WIDEST>::WORDS * 4 + threadIdx.x % 4;
}
template <int WIDEST>
INLINE int word_of_thread() {
  return threadIdx.x / 4 % Sizes<WIDEST>::WORDS;
}
