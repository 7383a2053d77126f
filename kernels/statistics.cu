// Statistics of stages: one launch after a forward pass, over the arrays that its kernels wrote.
//
//   stage_statistics(const StageRecord* records, const Step* step, StageSums* sums)
//
// Shapes: records [grid.x], sums [grid.x, grid.y]; the values of a record are divided among grid.y blocks, whose sums the
// host merges. They are the fields of aprtui.trace.stats.Accumulator, in float64 as there: over finite values, +Inf and -Inf for
// minimum and maximum if there is none. In an attention map only key <= query counts.
//
// Launch: blocks of 256 threads, grid (records, parts). Must move: 4 bytes a value.
#include "types.cuh"

struct StageRecord {
  const float* values;
  int rows, width, stride;  // values of row r: values + r * stride
  int queries;              // of an attention map [heads, queries, stride]: row r has position + r % queries + 1; otherwise 0
};
struct StageSums {
  double total, squares;
  float minimum, maximum;
  unsigned count, nan, inf, reserved;
};
static_assert(sizeof(StageRecord) == 24 && sizeof(StageSums) == 40, "the host packs these");

INLINE float warp_least(float value) { return -warp_max(-value); }

KERNEL __launch_bounds__(256) stage_statistics(const StageRecord* records, const Step* step, StageSums* sums) {
  SHARED(StageSums, of_warps, 8);
  const StageRecord record = records[blockIdx.x];
  StageSums own{0.0, 0.0, INFINITY, -INFINITY, 0, 0, 0, 0};
  for (int row = 0; row < record.rows; ++row) {
    const int width = record.queries ? step->position + row % record.queries + 1 : record.width;
    const float* values = record.values + static_cast<size_t>(row) * record.stride;
    for (int i = blockIdx.y * 256 + threadIdx.x; i < width; i += 256 * gridDim.y) {
      const float value = values[i];
      const unsigned magnitude = __float_as_uint(value) & MAGNITUDE_BITS;
      ++own.count;
      own.nan += magnitude > INFINITY_BITS;
      own.inf += magnitude == INFINITY_BITS;
      if (magnitude >= INFINITY_BITS) continue;
      own.total += value;
      own.squares += static_cast<double>(value) * value;
      own.minimum = fminf(own.minimum, value);
      own.maximum = fmaxf(own.maximum, value);
    }
  }
  own = StageSums{warp_sum(own.total), warp_sum(own.squares), warp_least(own.minimum), warp_max(own.maximum),
                  warp_sum(own.count), warp_sum(own.nan), warp_sum(own.inf), 0};
  if (lane_index() == 0) of_warps[warp_index()] = own;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < 8; ++i) {
    const StageSums other = of_warps[i];
    own.total += other.total, own.squares += other.squares;
    own.minimum = fminf(own.minimum, other.minimum), own.maximum = fmaxf(own.maximum, other.maximum);
    own.count += other.count, own.nan += other.nan, own.inf += other.inf;
  }
  sums[static_cast<size_t>(blockIdx.x) * gridDim.y + blockIdx.y] = own;
}
