// Feed-forward blocks of experts, of which a router chooses some for each token.
//
//   route(Routing r)
//   sort_slots(const float* indices, Sorted s, int slots, int experts, int tiles)
//   expert_gate_up_exact, expert_gate_up_q8, expert_gate_up_q8_<format> (Matrix gate, Matrix up, Activations x, FeedForward f,
//                                                                        Chosen c)
//   expert_down_exact, expert_down_q8, expert_down_q8_<format> (Matrix w, Activations x, Chosen c, ExpertOutput out)
//
// Shapes: x [tokens, columns] of gate and up, [tokens, used, columns] of down; f and out [tokens, used, c.rows]. Matrices hold
// those of all experts one after the other, c.rows rows each, a multiple of 32. See Routing and Chosen.
//
// Each block reads which expert it works for, then the rows of that one alone: what is not chosen is not read. A short prompt
// takes the same kernels, each token on its own: an expert's rows are read once for each token that has chosen it. For a longer one
// sort_slots puts the slots [tokens, used] of indices in the order of their experts, at most 16384, and makes tiles of up to 64 of
// one expert, which matmul_q8 (prefill.cu) multiplies on tensor cores; `tiles` is how many there can be.
// Launch: route: a block of a warp for each token. sort_slots: one block of 512 threads. expert_gate_up: blocks of 256 threads, grid (c.rows / 32, used, tokens), a
// block 32 values. expert_down: blocks of 256 threads, grid (ceil(c.rows / rows), used, tokens), rows = 16 in q8, 8 in exact.
// Must move: the matrices of the chosen experts, 4 bytes (1.25 in q8) a value of x, 4 of each output.
#include "activation.cuh"
#include "gate_up.cuh"

constexpr int MOST_EXPERTS = 512, OF_LANE = MOST_EXPERTS / WARP, MOST_GROUPS = MOST_EXPERTS / 2;
enum { ROUTER_SOFTMAX, ROUTER_SIGMOID, ROUTER_LOGITS };
enum { AS_TAKEN, NORMALISED, SOFTMAX_OF_CHOSEN };
constexpr float LEAST_WEIGHT_SUM = 1.0f / 16384.0f;

// Of at most 512 experts a token chooses at most 32. Stages that the model lacks are null.
struct Routing {
  const float *logits, *bias;  // [tokens, experts], [experts]: of ROUTER_LOGITS
  float* router;               // [tokens, experts]: what experts are weighted by
  const float* choice_bias;    // [experts]: what is added for the choice alone
  float* biased;               // [tokens, experts]: their sum
  float* indices;              // [tokens, used]: most probable first; of equal ones the first, NaN last
  float *taken, *normalised, *scaled;  // [tokens, used]
  int experts, used, kind, normalisation;
  float scale;
  int groups, groups_used, two_largest;  // of neighbouring experts, 0 for none; scored by their largest, or by the two largest
};
static_assert(sizeof(Routing) == 104, "the host packs this");

// The experts of each token. Biases that the model lacks are null, and so are unused taps.
struct Chosen {
  const float* indices;                  // [tokens, used]
  const float *gate_bias, *up_bias;      // [experts, rows]
  float *gate_product, *up_product;      // [tokens, used, rows]: taps in front of the biases
  int rows, used;
};
static_assert(sizeof(Chosen) == 48, "the host packs this");

struct ExpertOutput {
  float* product;     // [tokens, used, rows]; with a bias a tap
  const float* bias;  // [experts, rows]
  float* biased;      // [tokens, used, rows]
};
static_assert(sizeof(ExpertOutput) == 24, "the host packs this");

// Keys have the order in which experts are chosen: by their value, and of equal ones the first; NaN comes last, and 0 is none.
INLINE unsigned long long choice_key(float value, int expert) {
  const unsigned bits = __float_as_uint(value + 0.0f);  // -0 is 0
  const unsigned ordered = (bits & MAGNITUDE_BITS) > INFINITY_BITS ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | (0xFFFFFFFFu - static_cast<unsigned>(expert));
}

// The value of a key; -Inf for NaN.
INLINE float value_of(unsigned long long key) {
  const unsigned ordered = static_cast<unsigned>(key >> 32);
  return ordered == 0 ? -INFINITY : __uint_as_float(ordered >> 31 ? ordered & MAGNITUDE_BITS : ~ordered);
}

// The warp's largest key below `limit`, among `count` experts from `first` on.
INLINE unsigned long long largest_key(const unsigned long long (&keys)[OF_LANE], int first, int count, unsigned long long limit) {
  unsigned long long best = 0;
#pragma unroll
  for (int i = 0; i < OF_LANE; ++i) {
    const bool inside = static_cast<unsigned>(lane_index() + i * WARP - first) < static_cast<unsigned>(count);
    if (inside && keys[i] < limit) best = max(best, keys[i]);
  }
  return warp_max(best);
}

// Makes the keys of all experts 0 but for those of the best groups; `of_groups` holds MOST_GROUPS keys.
INLINE void keep_best_groups(const Routing& r, unsigned long long (&keys)[OF_LANE], Shared<unsigned long long> of_groups) {
  const int size = r.experts / r.groups;
  for (int group = 0; group < r.groups; ++group) {
    const unsigned long long first = largest_key(keys, group * size, size, ~0ull);
    float score = value_of(first);
    if (r.two_largest) score += value_of(largest_key(keys, group * size, size, first));
    if (lane_index() == 0) of_groups[group] = choice_key(score, group);
  }
  __syncwarp();
  for (int k = 0; k < r.groups_used; ++k) {
    unsigned long long best = 0;
    for (int group = lane_index(); group < r.groups; group += WARP) best = max(best, of_groups[group]);
    best = warp_max(best);
    if (lane_index() == 0) of_groups[0xFFFFFFFFu - static_cast<unsigned>(best)] = 0;
    __syncwarp();
  }
#pragma unroll
  for (int i = 0; i < OF_LANE; ++i) {
    const int expert = lane_index() + i * WARP;
    if (expert < r.experts && of_groups[expert / size]) keys[i] = 0;
  }
}

// What experts are weighted by, stored; `values` of the lane's experts, lane, lane + 32, ….
INLINE void weigh(const Routing& r, const float* logits, float* router, float (&values)[OF_LANE]) {
  float largest = -INFINITY, sum = 0.0f;
#pragma unroll
  for (int i = 0; i < OF_LANE; ++i) {
    const int expert = lane_index() + i * WARP;
    const bool exists = expert < r.experts;
    values[i] = exists ? logits[expert] + (r.bias ? r.bias[expert] : 0.0f) : -INFINITY;
    largest = fmaxf(largest, values[i]);
  }
  largest = warp_max(largest);
#pragma unroll
  for (int i = 0; i < OF_LANE; ++i) {
    const bool exists = lane_index() + i * WARP < r.experts;
    if (r.kind == ROUTER_SOFTMAX) values[i] = exists ? expf(values[i] - largest) : 0.0f;
    if (r.kind == ROUTER_SIGMOID) values[i] = 1.0f / (1.0f + expf(-values[i]));
    sum += values[i];
  }
  sum = warp_sum(sum);
#pragma unroll
  for (int i = 0; i < OF_LANE; ++i) {
    const int expert = lane_index() + i * WARP;
    if (r.kind == ROUTER_SOFTMAX) values[i] /= sum;
    if (expert < r.experts) router[expert] = values[i];
  }
}

// The weight of the lane's choice, through all stages.
INLINE void store_weight(const Routing& r, size_t at, bool has_one, float weight) {
  if (has_one) r.taken[at] = weight;
  if (r.normalisation == SOFTMAX_OF_CHOSEN) {
    const float largest = warp_max(has_one ? weight : -INFINITY), power = has_one ? expf(weight - largest) : 0.0f;
    weight = power / warp_sum(power);
  } else if (r.normalisation == NORMALISED) {
    const float sum = warp_sum(has_one ? weight : 0.0f);
    weight /= sum < LEAST_WEIGHT_SUM ? LEAST_WEIGHT_SUM : sum;
  }
  if (!has_one) return;
  if (r.normalised) r.normalised[at] = weight;
  if (r.scaled) r.scaled[at] = weight * r.scale;
}

KERNEL __launch_bounds__(32) route(Routing r) {
  SHARED(unsigned long long, of_groups, MOST_GROUPS);
  wait_for_earlier_launches();
  const size_t of_experts = static_cast<size_t>(blockIdx.x) * r.experts, of_chosen = static_cast<size_t>(blockIdx.x) * r.used;
  float values[OF_LANE];
  weigh(r, r.logits + of_experts, r.router + of_experts, values);
  unsigned long long keys[OF_LANE];
#pragma unroll
  for (int i = 0; i < OF_LANE; ++i) {
    const int expert = lane_index() + i * WARP;
    keys[i] = 0;
    if (expert >= r.experts) continue;
    const float value = values[i] + (r.choice_bias ? r.choice_bias[expert] : 0.0f);
    if (r.biased) r.biased[of_experts + expert] = value;
    keys[i] = choice_key(value, expert);
  }
  if (r.groups) keep_best_groups(r, keys, of_groups);
  int own = 0;  // the choice of the lane's number
  for (int k = 0; k < r.used; ++k) {
    unsigned long long best = 0;
#pragma unroll
    for (int i = 0; i < OF_LANE; ++i) best = max(best, keys[i]);
    best = warp_max(best);
#pragma unroll
    for (int i = 0; i < OF_LANE; ++i)
      if (keys[i] == best) keys[i] = 0;
    if (lane_index() == k) own = static_cast<int>(0xFFFFFFFFu - static_cast<unsigned>(best));
  }
  __syncwarp();  // what other lanes have stored of the router is read
  const bool has_one = lane_index() < r.used;
  if (has_one) r.indices[of_chosen + lane_index()] = static_cast<float>(own);
  store_weight(r, of_chosen + lane_index(), has_one, has_one ? load_through_l2(r.router + of_experts + own) : 0.0f);
}

// ---- slots in the order of their experts
constexpr int SORTING = 512, SORTING_WARPS = SORTING / WARP, OF_TILE = 64;
static_assert(SORTING >= MOST_EXPERTS, "each thread has an expert");

// Calls visit(slot, expert, rank) for the slots of the warp, each of which has a run of them, 32 at a time: rank is how many lanes
// before have the same expert. Behind each 32 the warp's counts of their experts grow by their numbers.
template <class Visit>
INLINE void for_own_slots(const float* indices, int slots, Shared<int> counts, Visit visit) {
  const int of_warp = (slots + SORTING - 1) / SORTING * WARP, first = warp_index() * of_warp, end = min(slots, first + of_warp);
  for (int start = first; start < end; start += WARP) {
    const int slot = start + lane_index(), expert = slot < end ? static_cast<int>(indices[slot]) : -1;
    const unsigned same = __match_any_sync(ALL_LANES, expert);
    const int rank = __popc(same & ((1u << lane_index()) - 1));
    if (expert >= 0) visit(slot, expert, rank);
    __syncwarp();
    if (expert >= 0 && rank == 0) counts[expert] += __popc(same);
    __syncwarp();
  }
}

// The sum of the values of all threads in front of the calling one; `scratch` holds SORTING_WARPS.
INLINE unsigned sum_before(unsigned value, Shared<unsigned> scratch) {
  unsigned sum = value;
#pragma unroll
  for (int distance = 1; distance < WARP; distance *= 2) {
    const unsigned before = __shfl_up_sync(ALL_LANES, sum, distance);
    if (lane_index() >= distance) sum += before;
  }
  if (lane_index() == WARP - 1) scratch[warp_index()] = sum;
  __syncthreads();
  for (int i = 0; i < warp_index(); ++i) sum += scratch[i];
  return sum - value;
}

KERNEL __launch_bounds__(512) sort_slots(const float* indices, Sorted s, int slots, int experts, int tiles) {
  SHARED(int, counts, SORTING_WARPS * MOST_EXPERTS); /* then where each warp's slots of an expert go */
  SHARED(unsigned, scratch, SORTING_WARPS);
  wait_for_earlier_launches();
  const int expert = threadIdx.x;
  for (int i = threadIdx.x; i < SORTING_WARPS * experts; i += SORTING) counts[i] = 0;
  __syncthreads();
  const Shared<int> of_warp = part_of(counts, warp_index() * experts);
  for_own_slots(indices, slots, of_warp, [](int, int, int) {});
  __syncthreads();
  int total = 0;
  for (int w = 0; expert < experts && w < SORTING_WARPS; ++w) total += counts[w * experts + expert];
  // Slots and tiles in front of those of the expert, in one number: there are at most 16384 and 768.
  const int own_tiles = (total + OF_TILE - 1) / OF_TILE;
  const unsigned before = sum_before(static_cast<unsigned>(own_tiles) << 16 | static_cast<unsigned>(total), scratch);
  const int first = static_cast<int>(before & 0xFFFFu), first_tile = static_cast<int>(before >> 16);
  for (int i = 0; i < own_tiles; ++i)
    s.tiles[first_tile + i] = {expert, first + OF_TILE * i, min(OF_TILE, total - OF_TILE * i), 0};
  if (expert == SORTING - 1)
    for (int i = first_tile + own_tiles; i < tiles; ++i) s.tiles[i] = {0, 0, 0, 0};
  for (int w = 0, place = first; expert < experts && w < SORTING_WARPS; ++w) {
    const int count = counts[w * experts + expert];
    counts[w * experts + expert] = place;
    place += count;
  }
  __syncthreads();
  for_own_slots(indices, slots, of_warp, [&](int slot, int of, int rank) { s.slots[of_warp[of] + rank] = slot; });
}

// The expert of a slot, a choice of a token.
INLINE int chosen_expert(const Chosen& c, size_t slot) { return static_cast<int>(c.indices[slot]); }

template <Mode MODE, int ROWS, class Formats = Every>
INLINE void expert_gate_up(const Matrix& gate, const Matrix& up, const Activations& x, const FeedForward& f, const Chosen& c,
                           Shared<float> gates, Shared<float> ups) {
  wait_for_earlier_launches();
  const size_t slot = static_cast<size_t>(blockIdx.z) * c.used + blockIdx.y;
  const int expert = chosen_expert(c, slot), first = blockIdx.x * 32;
  gate_and_up<MODE, ROWS, Formats>(gate, up, expert * c.rows + first, x, blockIdx.z, gates, ups);
  if (warp_index() != 0) return;
  const int row = first + lane_index();
  const size_t at = slot * c.rows + row, of_bias = static_cast<size_t>(expert) * c.rows + row;
  float own_gate = gates[lane_index()], own_up = ups[lane_index()];
  if (c.gate_product) c.gate_product[at] = own_gate;
  if (c.up_product) c.up_product[at] = own_up;
  if (c.gate_bias) own_gate += c.gate_bias[of_bias], own_up += c.up_bias[of_bias];
  const float value = activated(f, at, own_gate, own_up);
  if (f.q8.levels) quantize_block(value, f.q8, at / 32);
}

template <Mode MODE, int ROWS, class Formats = Every>
INLINE void expert_down(const Matrix& w, const Activations& x, const Chosen& c, const ExpertOutput& out) {
  wait_for_earlier_launches();
  const int row = (blockIdx.x * 8 + warp_index()) * ROWS, slot = blockIdx.z * c.used + blockIdx.y;
  if (row >= c.rows) return;
  const int first = chosen_expert(c, slot) * c.rows + row;
  float sums[ROWS][1];
  dot_rows<MODE, ROWS, 1, Formats>(w, first, x, slot, 1, sums);
  if (lane_index() != 0) return;
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const size_t at = static_cast<size_t>(slot) * c.rows + row + r;
    if (out.product) out.product[at] = sums[r][0];
    if (out.biased) out.biased[at] = sums[r][0] + out.bias[first + r];
  }
}

#define GATE_UP Matrix gate, Matrix up, Activations x, FeedForward f, Chosen c
#define RUN_GATE_UP(...)    \
  SHARED(float, gates, 32); \
  SHARED(float, ups, 32);   \
  expert_gate_up<__VA_ARGS__>(gate, up, x, f, c, gates, ups)
#define DOWN Matrix w, Activations x, Chosen c, ExpertOutput out
#define RUN_DOWN(...) expert_down<__VA_ARGS__>(w, x, c, out)

KERNEL __launch_bounds__(256, 3) expert_gate_up_exact(GATE_UP) { RUN_GATE_UP(Mode::EXACT, 1); }
KERNEL __launch_bounds__(256, 2) expert_gate_up_q8(GATE_UP) { RUN_GATE_UP(Mode::Q8, 2); }
KERNEL __launch_bounds__(256, 3) expert_gate_up_q8_q4_k(GATE_UP) { RUN_GATE_UP(Mode::Q8, 2, Among<Q4K>); }
KERNEL __launch_bounds__(256, 2) expert_gate_up_q8_q5_k(GATE_UP) { RUN_GATE_UP(Mode::Q8, 2, Among<Q5K>); }
KERNEL __launch_bounds__(256, 3) expert_gate_up_q8_q6_k(GATE_UP) { RUN_GATE_UP(Mode::Q8, 2, Among<Q6K>); }
KERNEL __launch_bounds__(256, 3) expert_gate_up_q8_q4_0(GATE_UP) { RUN_GATE_UP(Mode::Q8, 2, Among<Q40>); }
KERNEL __launch_bounds__(256, 3) expert_gate_up_q8_q8_0(GATE_UP) { RUN_GATE_UP(Mode::Q8, 2, Among<Q80>); }
KERNEL __launch_bounds__(256, 3) expert_gate_up_q8_iq4_xs(GATE_UP) { RUN_GATE_UP(Mode::Q8, 2, Among<IQ4XS>); }
KERNEL __launch_bounds__(256, 3) expert_gate_up_q8_mxfp4(GATE_UP) { RUN_GATE_UP(Mode::Q8, 2, Among<MXFP4>); }

KERNEL __launch_bounds__(256, 3) expert_down_exact(DOWN) { RUN_DOWN(Mode::EXACT, 1); }
KERNEL __launch_bounds__(256, 2) expert_down_q8(DOWN) { RUN_DOWN(Mode::Q8, 2); }
KERNEL __launch_bounds__(256, 3) expert_down_q8_q4_k(DOWN) { RUN_DOWN(Mode::Q8, 2, Among<Q4K>); }
KERNEL __launch_bounds__(256, 2) expert_down_q8_q5_k(DOWN) { RUN_DOWN(Mode::Q8, 2, Among<Q5K>); }
KERNEL __launch_bounds__(256, 3) expert_down_q8_q6_k(DOWN) { RUN_DOWN(Mode::Q8, 2, Among<Q6K>); }
KERNEL __launch_bounds__(256, 3) expert_down_q8_q4_0(DOWN) { RUN_DOWN(Mode::Q8, 2, Among<Q40>); }
KERNEL __launch_bounds__(256, 3) expert_down_q8_q8_0(DOWN) { RUN_DOWN(Mode::Q8, 2, Among<Q80>); }
KERNEL __launch_bounds__(256, 3) expert_down_q8_iq4_xs(DOWN) { RUN_DOWN(Mode::Q8, 2, Among<IQ4XS>); }
KERNEL __launch_bounds__(256, 3) expert_down_q8_mxfp4(DOWN) { RUN_DOWN(Mode::Q8, 2, Among<MXFP4>); }
