#include "pipeline.hpp"

#include <cstdlib>

#include "errors.hpp"
#include "kernel_library.hpp"
#include "trt.hpp"

namespace edgereel_runtime {
namespace {

std::unique_ptr<Backend> backend_of(const CascadeOptions& options, const Plan& plan) {
  if (options.threads < 0) {
    fail(Kind::kInput, "threads is " + std::to_string(options.threads) +
                           "; expected a whole number of at least 1. Leave it out to use all "
                           "cores.");
  }
  if (options.provider == "trt") return make_trt(plan);
  OrtOptions ort;
  const char* named = std::getenv("EDGEREEL_ONNXRUNTIME");
  ort.library = options.onnxruntime.empty() && named != nullptr ? named : options.onnxruntime;
  ort.provider = options.provider;
  ort.threads = options.threads;
  ort.kernels = options.kernels ? *options.kernels : kernel_library();
  return make_ort(ort);
}

}  // namespace

Cascade::Cascade(const std::string& folder, const CascadeOptions& options)
    : plan_(folder),
      interpreter_(plan_, backend_of(options, plan_), options.verify_hashes, options.low_vram) {}

const Mode& Cascade::mode(const std::string& name) const {
  const Named<Mode>& modes = plan().modes;
  if (name.empty()) return modes.begin()->second;
  const Mode* found = modes.find(name);
  if (found == nullptr) {
    fail(Kind::kInput, "mode is " + shown(name) + "; expected one of " + joined(modes.keys()) +
                           ". Choose one, or leave it out for the first.");
  }
  return *found;
}

Result Cascade::run(const std::string& name, const Values& given, RunOptions options) {
  const Mode& chosen = mode(name);
  const Values params = fill_params(chosen, given);
  const std::lock_guard<std::mutex> hold(lock_);
  cancelled_ = false;
  options.cancelled = &cancelled_;
  return interpreter_.run(chosen, params, options);
}

}  // namespace edgereel_runtime
