// The operators of domain `edgereel` for ONNX Runtime's CUDA provider.
#pragma once

#include <onnxruntime_c_api.h>

#include <vector>

namespace edgereel::ort {

#ifdef EDGEREEL_CUDA
std::vector<const OrtCustomOp*> cuda_operators();
#else
inline std::vector<const OrtCustomOp*> cuda_operators() { return {}; }
#endif

}  // namespace edgereel::ort
