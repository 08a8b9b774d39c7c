#include "errors.hpp"
#include "trt.hpp"

namespace edgereel_runtime {

std::unique_ptr<Backend> make_trt(const Plan&) {
  fail(Kind::kUnavailable,
       "provider is 'trt', but this libedgereel was built without TensorRT; expected one that was "
       "configured with -DEDGEREEL_TENSORRT=ON. Build it so, or choose cpu, cuda, tensorrt or "
       "tensorrt-rtx.");
}

}  // namespace edgereel_runtime
