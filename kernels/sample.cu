// The next token, chosen from logits in device memory, so that passes can be queued without the host in between.
//
//   top_candidates(const float* logits, int vocabulary, int count, const Step* step, Candidate* ring, int ring_size,
//                  unsigned long long* keys, unsigned* counter)
//   greedy(const float* logits, int vocabulary, Step* step, int* token, Chosen* ring, int ring_size, Part* parts,
//          unsigned* counter)
//   draw(const float* logits, int vocabulary, double temperature, double min_p, const double* uniforms, const Chosen* likeliest,
//        Step* step, int* token, Drawn* ring, int ring_size, double* sums, unsigned* counter)
//
// Shapes: logits [vocabulary], of the last token of the pass. All write entry step->ordinal % ring_size of their rings:
// Candidate [ring_size, count], the most likely first; Chosen [ring_size]; Drawn [ring_size]. keys [blocks, count], parts
// [blocks] and sums [blocks] are working memory; counter is 0 before the first launch and left at 0, one each. vocabulary 1 to
// 2^24, count 1 to 1024.
//
// Order: the larger logit first, of equal ones (as -0 and 0) the lower id; NaN before all, as in numpy.argmax. greedy
// and top_candidates are functions of the bits of the logits. Candidates after the last token have id -1.
//
// The last launch of a pass, after top_candidates and stage_statistics, stores its choice in *token, where `embed` reads it in
// the next pass, and advances the step: position += tokens, tokens = 1, ordinal += 1. It is greedy; or draw, and then greedy
// runs before it with a null token and writes only its ring. Figures are in float64, as in aprtui/engine/sampling.py:
// logprob of the most likely token = -log(total), entropy = log(total) - weighted / total, margin = largest - second. They
// are valid if largest is finite. Otherwise no token can be chosen: with NaN, id is the first of `nan` of them; with +Inf,
// id is its place; or all are -Inf. Then draw chooses as greedy does.
//
// draw: a token weighs w = exp((logit - largest) / temperature), or nothing where w < min_p; temperature > 0, min_p 0 to 1.
// The choice is the first, in order of ids, at which the running sum of the weights exceeds uniforms[step->ordinal % ring_size]
// (0 to below 1) times their total. `likeliest` is the ring of greedy. Sums have one fixed order, which is not that of
// aprtui/engine/sampling.py: where only rounding decides, the neighbouring token may be chosen instead.
//
// Launch: blocks of 256 threads; greedy, draw: grid (ceil(vocabulary / 1024)); top_candidates: grid (ceil(vocabulary / 2048)).
// Must move: 4 bytes a logit.
#include "types.cuh"

struct Candidate {
  int id;
  float logit;
};
struct Chosen {
  double total, weighted;  // sums of exp(d) and d * exp(d), d = logit - largest
  float largest, second;   // second is -Inf if the vocabulary is one token
  int id;
  int position;  // of the chosen token
  int ordinal;   // of the choice
  int nan;       // number of logits that are NaN
};
struct Drawn {
  double probability;  // that the token was drawn with
  float logit;
  int id;
};
struct Part {
  unsigned long long first, second;
  double total, weighted, nan;
};
static_assert(sizeof(Candidate) == 8 && sizeof(Chosen) == 40 && sizeof(Drawn) == 16 && sizeof(Part) == 40,
              "the host packs these");

using Key = unsigned long long;

constexpr int THREADS = 256, OF_THREAD = 4, SORTED = 2048;
constexpr unsigned SIGN_BIT = 0x80000000u, NAN_ORDER = 0xFFFFFFFFu;

// A key that is larger for an earlier token: the logit's bits in the order of unsigned numbers, above the complement of the
// id; 0 for none.
INLINE Key key_of(float logit, int id) {
  const unsigned bits = __float_as_uint(logit + 0.0f);  // -0 to 0
  unsigned order = bits & SIGN_BIT ? ~bits : bits | SIGN_BIT;
  if ((bits & MAGNITUDE_BITS) > INFINITY_BITS) order = NAN_ORDER;
  return static_cast<Key>(order) << 32 | ~static_cast<unsigned>(id);
}
INLINE int id_of(Key key) { return static_cast<int>(~static_cast<unsigned>(key)); }
INLINE float logit_of(Key key) {
  const unsigned order = static_cast<unsigned>(key >> 32);
  if (order == NAN_ORDER) return __uint_as_float(NAN_BITS);
  return key ? __uint_as_float(order & SIGN_BIT ? order & MAGNITUDE_BITS : ~order) : -INFINITY;
}

// The two largest keys of some.
struct Top {
  Key first, second;
};
INLINE Top joined(Top a, Top b) { return {max(a.first, b.first), max(min(a.first, b.first), max(a.second, b.second))}; }

// The same over the block, for every thread; `scratch` may be reused afterwards.
INLINE Top block_top(Top own, Shared<Top> scratch) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2)
    own = joined(own, {__shfl_xor_sync(ALL_LANES, own.first, distance), __shfl_xor_sync(ALL_LANES, own.second, distance)});
  if (lane_index() == 0) scratch[warp_index()] = own;
  __syncthreads();
  own = scratch[0];
  for (int i = 1; i < THREADS / WARP; ++i) own = joined(own, scratch[i]);
  __syncthreads();
  return own;
}

// Adds sums that are relative to a largest logit, `difference` above that of the totals. Terms without weight are skipped,
// and so is the difference of equal infinities.
INLINE void add(double difference, double sum, double weighted_sum, double& total, double& weighted) {
  const double weight = exp(difference);
  if (!(weight > 0.0)) return;
  total += weight * sum;
  weighted += weight * (weighted_sum + difference * sum);
}

KERNEL __launch_bounds__(256) greedy(const float* logits, int vocabulary, Step* step, int* token, Chosen* ring, int ring_size,
                                     Part* parts, unsigned* counter) {
  SHARED(Top, tops, THREADS / WARP);
  SHARED(double, scratch, THREADS / WARP);
  wait_for_earlier_launches();
  float values[OF_THREAD];
  Top top{0, 0};
  double total = 0.0, weighted = 0.0, nan = 0.0;
#pragma unroll
  for (int i = 0; i < OF_THREAD; ++i) {
    const int id = (blockIdx.x * OF_THREAD + i) * THREADS + threadIdx.x;
    values[i] = id < vocabulary ? logits[id] : -INFINITY;
    if (id < vocabulary) top = joined(top, {key_of(values[i], id), 0});
    nan += (__float_as_uint(values[i]) & MAGNITUDE_BITS) > INFINITY_BITS ? 1.0 : 0.0;
  }
  top = block_top(top, tops);
#pragma unroll
  for (int i = 0; i < OF_THREAD; ++i)
    add(static_cast<double>(values[i]) - logit_of(top.first), 1.0, 0.0, total, weighted);
  const Part own{top.first, top.second, block_sum<8>(total, scratch), block_sum<8>(weighted, scratch), block_sum<8>(nan, scratch)};
  if (threadIdx.x == 0) parts[blockIdx.x] = own;
  const int blocks = gridDim.x;
  if (!last_block(counter, blocks)) return;
  top = Top{0, 0};
  for (int i = threadIdx.x; i < blocks; i += THREADS)
    top = joined(top, {load_through_l2(&parts[i].first), load_through_l2(&parts[i].second)});
  top = block_top(top, tops);
  total = weighted = nan = 0.0;
  for (int i = threadIdx.x; i < blocks; i += THREADS) {
    const double difference = static_cast<double>(logit_of(load_through_l2(&parts[i].first))) - logit_of(top.first);
    add(difference, load_through_l2(&parts[i].total), load_through_l2(&parts[i].weighted), total, weighted);
    nan += load_through_l2(&parts[i].nan);
  }
  total = block_sum<8>(total, scratch), weighted = block_sum<8>(weighted, scratch), nan = block_sum<8>(nan, scratch);
  if (threadIdx.x != 0) return;
  const int id = id_of(top.first), next = step->position + step->tokens, ordinal = step->ordinal;
  ring[ordinal % ring_size] = Chosen{total, weighted, logit_of(top.first), logit_of(top.second), id, next, ordinal,
                                     static_cast<int>(nan)};
  if (!token) return;
  *token = id;
  *step = Step{next, 1, ordinal + 1, step->reserved};
}

// The first of `count` values, none of them negative, at which their running sum exceeds `target`; the last positive one if
// rounding prevents that, 0 if there is none. `before` is the sum in front of the values, then in front of the one found.
template <class Values>
INLINE int first_over(int count, const Values& values, double target, double& before) {
  int found = 0;
  double sum = before;
  for (int i = 0; i < count; ++i) {
    const double value = values(i);
    if (!(value > 0.0)) continue;
    found = i, before = sum, sum += value;
    if (sum > target) break;
  }
  return found;
}

// The same for one value a thread, in the order of threads; the result is for every thread.
INLINE int thread_over(double own, double target, double& before, Shared<double> of_threads, Shared<double> of_warps) {
  of_threads[threadIdx.x] = own;
  own = warp_sum(own);
  if (lane_index() == 0) of_warps[warp_index()] = own;
  __syncthreads();
  const int first = WARP * first_over(THREADS / WARP, [&](int i) { return of_warps[i]; }, target, before);
  const int found = first + first_over(WARP, [&](int i) { return of_threads[first + i]; }, target, before);
  __syncthreads();
  return found;
}

KERNEL __launch_bounds__(256) draw(const float* logits, int vocabulary, double temperature, double min_p,
                                   const double* uniforms, const Chosen* likeliest, Step* step, int* token,
                                   Drawn* ring, int ring_size, double* sums, unsigned* counter) {
  SHARED(double, of_threads, THREADS);
  SHARED(double, of_warps, THREADS / WARP);
  wait_for_earlier_launches();
  const int ordinal = step->ordinal, entry = ordinal % ring_size, blocks = gridDim.x;
  const double largest = likeliest[entry].largest;
  // 0 for all tokens if the logits are no distribution.
  const auto weight = [&](int id) {
    const double of_all = id < vocabulary ? exp((logits[id] - largest) / temperature) : 0.0;
    return of_all >= min_p ? of_all : 0.0;
  };
  // The sum over a thread's ids, in a block's run of ids.
  const auto weights = [&](int first) {
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < OF_THREAD; ++i) sum += weight(first + i);
    return sum;
  };
  double sum = block_sum<8>(weights((blockIdx.x * THREADS + threadIdx.x) * OF_THREAD), of_warps);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
  if (!last_block(counter, blocks)) return;
  // Each thread has a run of blocks; the thread whose run holds the target finds the block, then all threads find the id.
  const auto sum_of = [&](int block) { return block < blocks ? load_through_l2(sums + block) : 0.0; };
  const int run = (blocks + THREADS - 1) / THREADS;
  sum = 0.0;
  for (int i = 0; i < run; ++i) sum += sum_of(run * threadIdx.x + i);
  const double total = block_sum<8>(sum, of_warps), target = uniforms[entry] * total;
  double before = 0.0;
  const int begin = run * thread_over(sum, target, before, of_threads, of_warps);
  const int block = begin + first_over(run, [&](int i) { return sum_of(begin + i); }, target, before);
  const int first = (block * THREADS + threadIdx.x) * OF_THREAD;
  const int thread = thread_over(weights(first), target, before, of_threads, of_warps);
  if (static_cast<int>(threadIdx.x) != thread) return;
  const int found = first + first_over(OF_THREAD, [&](int i) { return weight(first + i); }, target, before);
  const int id = total > 0.0 ? found : likeliest[entry].id;
  ring[entry] = Drawn{weight(id) / total, logits[id], id};
  *token = id;
  *step = Step{step->position + step->tokens, 1, ordinal + 1, step->reserved};
}

// Bitonic sort, the largest first (Batcher 1968, AFIPS 32).
INLINE void sort(Shared<Key> keys) {
  for (int size = 2; size <= SORTED; size *= 2)
    for (int distance = size / 2; distance > 0; distance /= 2) {
      for (int i = threadIdx.x; i < SORTED / 2; i += THREADS) {
        const int low = i / distance * 2 * distance + i % distance, high = low + distance;
        const Key a = keys[low], b = keys[high];
        const bool descending = (low & size) == 0;
        if ((a < b) == descending) keys[low] = b, keys[high] = a;
      }
      __syncthreads();
    }
}

KERNEL __launch_bounds__(256) top_candidates(const float* logits, int vocabulary, int count, const Step* step, Candidate* ring,
                                             int ring_size, unsigned long long* keys, unsigned* counter) {
  SHARED(unsigned long long, sorted, SORTED);
  wait_for_earlier_launches();
  for (int i = threadIdx.x; i < SORTED; i += THREADS) {
    const int id = blockIdx.x * SORTED + i;
    sorted[i] = id < vocabulary ? key_of(logits[id], id) : 0;
  }
  __syncthreads();
  sort(sorted);
  for (int i = threadIdx.x; i < count; i += THREADS) keys[static_cast<size_t>(blockIdx.x) * count + i] = sorted[i];
  if (!last_block(counter, gridDim.x)) return;
  // The best so far stay in front, and the best of other blocks fill the rest.
  const int all = gridDim.x * count;
  for (int i = threadIdx.x; i < count; i += THREADS) sorted[i] = 0;
  for (int start = 0; start < all; start += SORTED - count) {
    for (int i = count + threadIdx.x; i < SORTED; i += THREADS) {
      const int at = start + i - count;
      sorted[i] = at < all ? load_through_l2(keys + at) : 0;
    }
    __syncthreads();
    sort(sorted);
  }
  Candidate* const out = ring + static_cast<size_t>(step->ordinal % ring_size) * count;
  for (int i = threadIdx.x; i < count; i += THREADS) out[i] = Candidate{sorted[i] ? id_of(sorted[i]) : -1, logit_of(sorted[i])};
}
