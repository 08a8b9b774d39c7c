// The kernels of device_ops.cu on the CPU: the same source, one thread after the other.
#include <cmath>

#include "device_ops.hpp"
#include "fake_gpu.hpp"

namespace {

struct Size {
  unsigned x;
};
Size blockIdx, threadIdx, blockDim, gridDim;

}  // namespace

#undef __global__
#define __global__
#include "device_ops.cu"

namespace edgereel_runtime {
namespace {

template <typename T>
T* on_device(T* address) {
  return reinterpret_cast<T*>(fake::host(const_cast<void*>(static_cast<const void*>(address))));
}

// A launch of 3 blocks of 4 threads.
template <typename Kernel>
void launch(Kernel kernel) {
  ++fake::machine().kernels;
  fake::queue([=] {
    gridDim.x = 3;
    blockDim.x = 4;
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
      for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel();
    }
  });
}

template <typename T, typename Kernel>
void launch_mix(Kernel kernel, const Mix& mix) {
  T* const out = on_device(static_cast<T*>(mix.out));
  const T* const x = on_device(static_cast<const T*>(mix.x));
  const T* const y = on_device(static_cast<const T*>(mix.y));
  const float *const a = on_device(mix.a), *const b = on_device(mix.b);
  launch([=] {
    kernel(out, x, y, a, b, mix.stride_x, mix.stride_y, mix.length, mix.inner, mix.count);
  });
}

}  // namespace

void launch_mix_float32(const Mix& mix, cudaStream_t) { launch_mix<float>(mix_float32, mix); }

void launch_mix_uint8(const Mix& mix, cudaStream_t) { launch_mix<unsigned char>(mix_uint8, mix); }

void launch_find_not_finite(int* found, const float* x, long long count, cudaStream_t) {
  int* const answer = on_device(found);
  const float* const values = on_device(x);
  launch([=] { find_not_finite(answer, values, count); });
}

}  // namespace edgereel_runtime
