// edgereel::TemporalAttention, version 1, on NVIDIA GPUs of compute capability 8.0 and newer.
//
// Per row b, pixel s and head h, with q, k, v of head size d cut from the packed projections, and P
// turning pairs of channels by angles that grow with the frame (RoPE, arXiv:2104.09864):
//
//   out[f] = sum_g softmax_g(scale * (P_f q[f]) . (P_g k[g]) + bias[h, f, g]) v[g]
//
//   qkv   T   [B, F, S, 3, heads, d]   T is float or half; F is 1 to 128, d a multiple of 8 to 160
//   cos   f32 [F, r/2], sin the same   left out: nothing is turned
//   bias  f32 [heads, F, F]            left out: 0
//   out   T   [B, F, S, heads, d]
//
// Cost. 4 * B*F*S*C values are read and written and 4 * B*S*F*F*C operations computed: F/2 per byte
// of halves, F/4 of floats. 16 frames of halves are 8 per byte. An A100 has 10 FLOP of its scalar
// units for each byte of its memory and an H200 14, and scalar code that waits for shared memory
// gets a fraction of that, so all products are made by tensor cores (mma.sync), which have 150 and
// more. Floats are split into two TF32 numbers of 11 bits, and three products keep 22 bits: a third
// of 76 and 103 FLOP per byte, still more than F/4 up to 100 frames. What remains is to keep memory
// busy: about 25 KiB on their way per SM (4.8 TB/s for 700 ns over 132 SMs of an H200).
//
// Design. A warp has 16 frames of one head of one pixel, or eight frames each of two; the next warp
// has the next head, whose channels lie beside, so that a block reads rows of 4 heads. There is
// no shared memory, no transposition and no shuffle between reading and multiplying:
//   - Scores are sums over channels, in any order. A lane reads 16 bytes of a row where `mma` wants
//     twice 4 or 8, and takes them as they come, of queries and keys alike. Pairs that turn
//     together are read by one lane, so it turns them in registers, in float.
//   - Bias is added to the scores, in registers too, and the weights of a lane are what `mma` wants
//     of it as the left factor of the next product.
//   - Of values a lane reads 16 bytes of four frames and zips two frames at a time. The columns of
//     a product are then one channel of each of eight chunks, and after all of them a lane has
//     whole chunks of the result: 16 bytes to write.
// Up to 16 frames everything of a warp is read before the first product, but for values of float
// heads over 48 channels: 3.8 KiB of halves at d = 40 and 15 KiB at d = 160, by 90 and 168
// registers a lane, that is 20 and 12 warps of an SM. More frames take keys and values 16 at a time
// and keep running sums (arXiv:1805.02867); keys and values are read again for every 16 queries, by
// warps of one block or the next at about the same time, which caches serve. Queries, turned once,
// wait in shared memory, each lane's in a place of its own: at most 40 KiB of a block, two blocks
// on any SM.
//
// Rounding. Halves that are turned are rounded to halves again before the product, as are weights;
// everything else is float. Without turning the products of halves are exact.
//
// Tried, compiled and not run: queries in registers for long sequences, and values read first
// always (48 to 1148 bytes of a lane spilled at d over 64 halves or 80 floats); no bound on
// registers of the long kernels (the compiler stops at 168 or 128 and spills 4 to 16 bytes);
// division of indices by instructions, and angles read one by one, separately for queries and keys
// (1424 instead of 1032 instructions on 8.0 for d = 40 halves). A lane runs about 700 of those with
// r = 32, by counting; an H200 has slots for 1110 of a warp in the time that its memory takes for
// what the warp moves.
#include "temporal_attention_cuda.hpp"
#include "temporal_attention_warp.hpp"

namespace edgereel::gpu {
namespace {

constexpr int kWarps = 4;  // of a block

template <typename T, int kSteps, bool kHalves, bool kShort>
__global__ void __launch_bounds__(kWarps * 32, kShort ? 1 : 2)
    attend(const Call<T> call, std::uint32_t warps) {
  const std::uint32_t unit = blockIdx.x * kWarps + threadIdx.x / 32;
  if (unit >= warps) return;  // all lanes of a warp or none
  const int lane = int(threadIdx.x % 32);
  if constexpr (kShort) {
    attend_short<T, kSteps, kHalves>(call, unit, lane);
  } else {
    __shared__ Chunk kept[kWarps][kSteps * 64];
    attend_long<T, kSteps, kHalves>(call, unit, lane, kept[threadIdx.x / 32]);
  }
}

template <typename T, int kSteps, bool kHalves>
cudaError_t launch(const Call<T>& call, cudaStream_t stream) {
  const std::uint32_t warps = warps_of(call);
  const unsigned blocks = (warps + kWarps - 1) / kWarps;
  if (call.frames <= 16)
    attend<T, kSteps, kHalves, true><<<blocks, kWarps * 32, 0, stream>>>(call, warps);
  else
    attend<T, kSteps, kHalves, false><<<blocks, kWarps * 32, 0, stream>>>(call, warps);
  return cudaGetLastError();
}

// The kernel for the fewest steps of 64 bytes that hold a head.
template <bool kHalves>
cudaError_t launch(const Call<Half>& call, cudaStream_t stream) {
  if (call.width <= 32) return launch<Half, 1, kHalves>(call, stream);
  if (call.width <= 64) return launch<Half, 2, kHalves>(call, stream);
  if (call.width <= 96) return launch<Half, 3, kHalves>(call, stream);
  return launch<Half, 5, kHalves>(call, stream);
}

template <bool kHalves>
cudaError_t launch(const Call<float>& call, cudaStream_t stream) {
  if (call.width <= 32) return launch<float, 2, kHalves>(call, stream);
  if (call.width <= 48) return launch<float, 3, kHalves>(call, stream);
  if (call.width <= 80) return launch<float, 5, kHalves>(call, stream);
  return launch<float, 10, kHalves>(call, stream);
}

template <typename T>
cudaError_t check_and_launch(const TemporalAttentionShape& shape, const Tensors<T>& tensors,
                             cudaStream_t stream) {
  if (!fits(shape, tensors)) return cudaErrorInvalidValue;
  if (!aligned(tensors)) return cudaErrorMisalignedAddress;
  if (shape.batch == 0 || shape.pixels == 0) return cudaSuccess;
  const Call<T> call = make_call(shape, tensors);
  return tensors.cos != nullptr && !shape.interleaved ? launch<true>(call, stream)
                                                      : launch<false>(call, stream);
}

}  // namespace

cudaError_t temporal_attention(const TemporalAttentionShape& shape, const Tensors<float>& tensors,
                               cudaStream_t stream) {
  return check_and_launch(shape, tensors, stream);
}

cudaError_t temporal_attention(const TemporalAttentionShape& shape, const Tensors<Half>& tensors,
                               cudaStream_t stream) {
  return check_and_launch(shape, tensors, stream);
}

}  // namespace edgereel::gpu
