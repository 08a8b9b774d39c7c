// The kernels for GPUs as C functions, for programs that load the library without ONNX Runtime.
#include <cstdint>

#include "temporal_attention_cuda.hpp"

#ifdef _WIN32
#define EDGEREEL_EXPORT __declspec(dllexport)
#else
#define EDGEREEL_EXPORT __attribute__((visibility("default")))
#endif

namespace {

template <typename T>
int queue(const edgereel::TemporalAttentionShape& shape, const void* const* tensors,
          cudaStream_t stream) {
  const auto table = [tensors](int index) { return static_cast<const float*>(tensors[index]); };
  edgereel::gpu::Tensors<T> given = {};
  given.qkv = static_cast<const T*>(tensors[0]);
  given.cos = table(1);
  given.sin = table(2);
  given.bias = table(3);
  given.out = static_cast<T*>(const_cast<void*>(tensors[4]));
  edgereel::gpu::set_packed(shape, given);
  return int(edgereel::gpu::temporal_attention(shape, given, stream));
}

}  // namespace

// Queues TemporalAttention on packed tensors in device memory; the result is a cudaError_t.
//   half     1: qkv and out are halves, 0: floats
//   sizes    B, F, S, heads, d, r, interleaved
//   tensors  qkv, cos, sin, bias, out; null where there is none
extern "C" EDGEREEL_EXPORT int edgereel_temporal_attention(int half, const std::int64_t* sizes,
                                                           float scale, const void* const* tensors,
                                                           void* stream) {
  const edgereel::TemporalAttentionShape shape = {sizes[0], sizes[1], sizes[2],      sizes[3],
                                                  sizes[4], sizes[5], sizes[6] != 0, scale};
  const auto on = static_cast<cudaStream_t>(stream);
  return half ? queue<edgereel::gpu::Half>(shape, tensors, on) : queue<float>(shape, tensors, on);
}
