// Gate and up products of one token, the activation of gate times up, and its rounding to Q8_1, in one launch.
//
//   gate_up_exact, gate_up_q8, gate_up_q8_<format> (Matrix gate, Matrix up, Activations x, FeedForward f)
//
// Shapes: x [1, hidden]; f [1, ffn], ffn = gate.rows = up.rows, a multiple of 32. The formats may differ
// where the name has none.
//
// A block of 256 threads makes 32 values, one block of Q8_1.
// Launch: grid (ffn / 32). Must move: both matrices, 4 bytes (1.25 in q8) a value of x, the outputs.
#include "activation.cuh"
#include "gate_up.cuh"

template <Mode MODE, int ROWS, class Formats = Every>
INLINE void gate_up(const Matrix& gate, const Matrix& up, const Activations& x, const FeedForward& f, Shared<float> gates,
                    Shared<float> ups) {
  const int first = blockIdx.x * 32;
  prefetch_rows<Formats>(gate, first + warp_index() * 4);
  wait_for_earlier_launches();
  gate_and_up<MODE, ROWS, Formats>(gate, up, first, x, 0, gates, ups);
  if (warp_index() != 0) return;
  const size_t at = first + lane_index();
  const float value = activated(f, at, gates[lane_index()], ups[lane_index()]);
  if (f.q8.levels) quantize_block(value, f.q8, blockIdx.x);
}

#define ARGUMENTS Matrix gate, Matrix up, Activations x, FeedForward f
#define RUN(...)           \
  SHARED(float, gates, 32); \
  SHARED(float, ups, 32);   \
  gate_up<__VA_ARGS__>(gate, up, x, f, gates, ups)

KERNEL __launch_bounds__(256, 3) gate_up_exact(ARGUMENTS) { RUN(Mode::EXACT, 1); }
KERNEL __launch_bounds__(256, 2) gate_up_q8(ARGUMENTS) { RUN(Mode::Q8, 2); }
KERNEL __launch_bounds__(256, 3) gate_up_q8_q4_k(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q4K>); }
KERNEL __launch_bounds__(256, 2) gate_up_q8_q5_k(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q5K>); }
KERNEL __launch_bounds__(256, 3) gate_up_q8_q6_k(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q6K>); }
KERNEL __launch_bounds__(256, 3) gate_up_q8_q4_0(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q40>); }
KERNEL __launch_bounds__(256, 2) gate_up_q8_q4_1(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q41>); }
KERNEL __launch_bounds__(256, 3) gate_up_q8_q5_0(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q50>); }
KERNEL __launch_bounds__(256, 3) gate_up_q8_q5_1(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q51>); }
KERNEL __launch_bounds__(256, 3) gate_up_q8_q8_0(ARGUMENTS) { RUN(Mode::Q8, 2, Among<Q80>); }
KERNEL __launch_bounds__(256, 3) gate_up_q8_iq4_xs(ARGUMENTS) { RUN(Mode::Q8, 2, Among<IQ4XS>); }
KERNEL __launch_bounds__(256, 3) gate_up_q8_mxfp4(ARGUMENTS) { RUN(Mode::Q8, 2, Among<MXFP4>); }
