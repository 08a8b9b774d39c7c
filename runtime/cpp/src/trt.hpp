// TensorRT and TensorRT-RTX: runs the compiled engines in builds/, on an NVIDIA GPU.
//
// An engine is opened only after builds.cc found that it belongs to this plan, library and GPU and
// that its bytes are the ones that were compiled.
#pragma once

#include <memory>

#include "backend.hpp"
#include "plan.hpp"

namespace edgereel_runtime {

// Throws Error where there is no GPU, or no build fits; also, and says how to build it otherwise,
// where this library was built without TensorRT.
std::unique_ptr<Backend> make_trt(const Plan& plan);

}  // namespace edgereel_runtime
