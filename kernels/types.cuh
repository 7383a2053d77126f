// Structures that the host passes to kernels: arguments are at their natural alignment, as in C.
#pragma once

#include "common.cuh"

// The state of a forward pass in device memory, so that one CUDA graph serves all tokens.
struct Step {
  int position;  // of the first token of the pass
  int tokens;    // of the pass
  int ordinal;   // choices made so far: the next one's place in the ring
  int reserved;
};

// A weight matrix [rows, columns]; `format` is GGML's number of the type, `data` its blocks as README.md lays them out.
// Columns are a multiple of 32 (of 256 for K-quants).
struct Matrix {
  const void* data;
  int format, rows, columns;
};

// Scale of a block of 32 activations in Q8_1, and the sums of its two halves of 16 levels.
struct alignas(8) Q8Scale {
  float scale;
  short low_sum, high_sum;
};

// Activations [tokens, columns]: float32, or Q8_1 as levels [tokens, columns] and scales [tokens, columns / 32].
struct Activations {
  const float* values;
  const signed char* levels;
  const Q8Scale* scales;
};

// Destination of Q8_1 activations.
struct Q8Output {
  signed char* levels;
  Q8Scale* scales;
};

// Choices of a prompt's tokens (slots) of one expert: first … first + count - 1 of those sorted, at most 64.
struct ExpertTile {
  int expert, first, count, reserved;
};

// The slots of a prompt's tokens, sorted by the experts that they name; those of one expert in their own order.
struct Sorted {
  int* slots;          // [tokens * used], or null
  ExpertTile* tiles;   // as many as there can be: those behind the last have no slots
  int rows, of_token;  // of one expert; slots that read the same row of activations, one after the other
};

static_assert(sizeof(Step) == 16 && sizeof(Matrix) == 24 && sizeof(Q8Scale) == 8, "the host packs these");
static_assert(sizeof(ExpertTile) == 16 && sizeof(Sorted) == 24, "the host packs these");
static_assert(sizeof(Activations) == 24 && sizeof(Q8Output) == 16, "the host packs these");
