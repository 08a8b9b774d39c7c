// edgereel::TemporalAttention on CUDA GPUs; temporal_attention.cu says how.
#pragma once

#include <cuda_runtime_api.h>

#include "gpu_call.hpp"

namespace edgereel::gpu {

// Queues the computation on a stream. Nothing is queued, and the result is
//   cudaErrorInvalidValue       for what `unsupported` names, or tables that do not fit
//   cudaErrorMisalignedAddress  if qkv, out or a distance is no multiple of 16 bytes
cudaError_t temporal_attention(const TemporalAttentionShape&, const Tensors<float>&, cudaStream_t);
cudaError_t temporal_attention(const TemporalAttentionShape&, const Tensors<Half>&, cudaStream_t);

}  // namespace edgereel::gpu
