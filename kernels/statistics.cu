// Statistics of stages: one launch after a forward pass, over the arrays that its kernels wrote.
//
//   stage_statistics(const StageRecord* records, const Step* step, StageSums* sums)
//
// Shapes: records [grid.x], sums [grid.x, grid.y]; the values of a record are divided among grid.y blocks, whose sums the
// host merges. They are the fields of aprtui.trace.stats.Accumulator, in float64 as there: over finite values, +Inf and -Inf for
// minimum and maximum if there is none. In an attention map only key <= query counts.
//
// A warp takes 1024 values of a row at a time, 32 a lane, which are under way together.
// Launch: blocks of 256 threads, grid (records, parts). Must move: 4 bytes a value.
#include "types.cuh"

constexpr int THREADS = 256, WARPS = THREADS / WARP, AT_ONCE = 8, OF_WARP = 4 * WARP * AT_ONCE;

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

INLINE void count(float value, StageSums& sums) {
  const unsigned magnitude = __float_as_uint(value) & MAGNITUDE_BITS;
  ++sums.count;
  sums.nan += magnitude > INFINITY_BITS;
  sums.inf += magnitude == INFINITY_BITS;
  if (magnitude >= INFINITY_BITS) return;
  sums.total += value;
  sums.squares += static_cast<double>(value) * value;
  sums.minimum = fminf(sums.minimum, value);
  sums.maximum = fmaxf(sums.maximum, value);
}

// A lane's part of the values from `start`, of which `left` are in the row; each load is under way beside all others.
INLINE void load_part(const float* start, int left, float (&values)[AT_ONCE][4]) {
  // Stages are whole words of 16 bytes; rows of attention maps begin and end anywhere.
  if (reinterpret_cast<size_t>(start) % sizeof(float4) == 0 && (left >= OF_WARP || left % 4 == 0)) {
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      const int at = 4 * (lane_index() + i * WARP);
      const float4 four = at < left ? load_through_l2(reinterpret_cast<const float4*>(start + at)) : make_float4(0, 0, 0, 0);
      values[i][0] = four.x, values[i][1] = four.y, values[i][2] = four.z, values[i][3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4 * AT_ONCE; ++i) {
      const int at = 4 * (lane_index() + i / 4 * WARP) + i % 4;
      values[i / 4][i % 4] = at < left ? load_through_l2(start + at) : 0.0f;
    }
  }
}

KERNEL __launch_bounds__(256) stage_statistics(const StageRecord* records, const Step* step, StageSums* sums) {
  SHARED(StageSums, of_warps, WARPS);
  wait_for_earlier_launches();
  const StageRecord record = records[blockIdx.x];
  StageSums own{0.0, 0.0, INFINITY, -INFINITY, 0, 0, 0, 0};
  const int widest = record.queries ? step->position + record.queries : record.width;
  const int pieces = (widest + OF_WARP - 1) / OF_WARP;
#pragma unroll 1
  for (int piece = blockIdx.y * WARPS + warp_index(); piece < record.rows * pieces; piece += WARPS * gridDim.y) {
    const int row = piece / pieces, first = piece % pieces * OF_WARP;
    const int width = record.queries ? step->position + row % record.queries + 1 : record.width;
    const int left = width - first;
    float values[AT_ONCE][4];
    load_part(record.values + static_cast<size_t>(row) * record.stride + first, left, values);
#pragma unroll
    for (int i = 0; i < 4 * AT_ONCE; ++i)
      if (4 * (lane_index() + i / 4 * WARP) + i % 4 < left) count(values[i / 4][i % 4], own);
  }
  own = StageSums{warp_sum(own.total), warp_sum(own.squares), warp_least(own.minimum), warp_max(own.maximum),
                  warp_sum(own.count), warp_sum(own.nan), warp_sum(own.inf), 0};
  if (lane_index() == 0) of_warps[warp_index()] = own;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < WARPS; ++i) {
    const StageSums other = of_warps[i];
    own.total += other.total, own.squares += other.squares;
    own.minimum = fminf(own.minimum, other.minimum), own.maximum = fmaxf(own.maximum, other.maximum);
    own.count += other.count, own.nan += other.nan, own.inf += other.inf;
  }
  sums[static_cast<size_t>(blockIdx.x) * gridDim.y + blockIdx.y] = own;
}
