// What is computed on values between graphs, so that they stay on the GPU.
//
// Compiled into the C++ runtime, and to device_ops.ptx for Python: `make device-ops`. Without fused
// products and sums (--fmad=false), so that every number is the one that numpy makes.

// The place of element i of axes [outer, length, inner], where entries of the outer axis are
// `stride` elements apart.
#define AT(stride) ((i) / (length * inner) * (stride) + (i) % (length * inner))
#define EACH(i, count)                                            \
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; \
  i < (count);                                                    \
  i += gridDim.x * (long long)blockDim.x

// out[o, j, k] = a[j] * x[o, j, k] + b[j] * y[o, j, k]; `out` may be `x`, and has its stride.
extern "C" __global__ void mix_float32(float* out, const float* x, const float* y, const float* a,
                                       const float* b, long long stride_x, long long stride_y,
                                       long long length, long long inner, long long count) {
#pragma unroll 1
  for (EACH(i, count)) {
    const long long j = i / inner % length;
    out[AT(stride_x)] = a[j] * x[AT(stride_x)] + b[j] * y[AT(stride_y)];
  }
}

// The same, in float32 and rounded, halves to even.
extern "C" __global__ void mix_uint8(unsigned char* out, const unsigned char* x,
                                     const unsigned char* y, const float* a, const float* b,
                                     long long stride_x, long long stride_y, long long length,
                                     long long inner, long long count) {
#pragma unroll 1
  for (EACH(i, count)) {
    const long long j = i / inner % length;
    const float mixed = a[j] * (float)x[AT(stride_x)] + b[j] * (float)y[AT(stride_y)];
    out[AT(stride_x)] = (unsigned char)rintf(mixed);
  }
}

// Writes 1 to `found` where a number of x is infinite or none.
extern "C" __global__ void find_not_finite(int* found, const float* x, long long count) {
#pragma unroll 1
  for (EACH(i, count)) {
    if (!(fabsf(x[i]) <= 3.402823466e38f)) *found = 1;
  }
}

#ifdef __CUDACC__
#include <algorithm>

#include "device_ops.hpp"

namespace edgereel_runtime {
namespace {

constexpr int kThreads = 256;  // of a block; they take as many elements as they must

unsigned blocks(long long count) {
  return static_cast<unsigned>(std::min<long long>((count + kThreads - 1) / kThreads, 4096));
}

template <typename T, typename Kernel>
void launch_mix(Kernel kernel, const Mix& mix, cudaStream_t stream) {
  kernel<<<blocks(mix.count), kThreads, 0, stream>>>(
      static_cast<T*>(mix.out), static_cast<const T*>(mix.x), static_cast<const T*>(mix.y), mix.a,
      mix.b, mix.stride_x, mix.stride_y, mix.length, mix.inner, mix.count);
}

}  // namespace

void launch_mix_float32(const Mix& mix, cudaStream_t stream) {
  launch_mix<float>(mix_float32, mix, stream);
}

void launch_mix_uint8(const Mix& mix, cudaStream_t stream) {
  launch_mix<unsigned char>(mix_uint8, mix, stream);
}

void launch_find_not_finite(int* found, const float* x, long long count, cudaStream_t stream) {
  find_not_finite<<<blocks(count), kThreads, 0, stream>>>(found, x, count);
}

}  // namespace edgereel_runtime
#endif
