// Launches of the kernels in device_ops.cu.
#pragma once

#include <cuda_runtime_api.h>

namespace edgereel_runtime {

// What mix_float32 and mix_uint8 take.
struct Mix {
  void* out;
  const void* x;
  const void* y;
  const float* a;
  const float* b;
  long long stride_x, stride_y, length, inner, count;
};

void launch_mix_float32(const Mix& mix, cudaStream_t stream);
void launch_mix_uint8(const Mix& mix, cudaStream_t stream);
void launch_find_not_finite(int* found, const float* x, long long count, cudaStream_t stream);

}  // namespace edgereel_runtime
