// Words of shared memory that a thread of attend_prompt_half touches: out[thread] = those of its loads of queries, of keys and of
// values (two), and of its stores of keys and of values (four).
#include "attention_tiles.cuh"

template <int WIDEST>
INLINE void write_words(int* out) {
  const int lane = lane_index(), g = lane / 4, t = lane % 4, words = Sizes<WIDEST>::WORDS;
  int* const own = out + 9 * threadIdx.x;
  own[0] = query_word(g, 2 * t, WIDEST), own[1] = key_word(g, t, WIDEST);
  own[2] = value_word(t, 2 * g, WIDEST), own[3] = value_word(t, 2 * g + 1, WIDEST);
  own[4] = key_word(threadIdx.x / words, threadIdx.x % words, WIDEST);
#pragma unroll
  for (int i = 0; i < 4; ++i) own[5 + i] = value_word(quad_of_thread<WIDEST>(), 4 * word_of_thread<WIDEST>() + i, WIDEST);
}

KERNEL banks_64(int* out) { write_words<64>(out); }
KERNEL banks_128(int* out) { write_words<128>(out); }
KERNEL banks_256(int* out) { write_words<256>(out); }
