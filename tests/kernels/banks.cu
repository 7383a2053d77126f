// Where `prefill.cu` keeps words of weights: out[pair][block][t] = pair_words(pair, block, t), by one thread.
#include "prefill.cu"

KERNEL banks(int* out) {
  for (int i = 0; i < ROWS / 2 * BLOCKS * 4; ++i) out[i] = pair_words(i / (4 * BLOCKS), i / 4 % BLOCKS, i % 4);
}
