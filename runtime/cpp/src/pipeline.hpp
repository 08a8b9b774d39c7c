// A loaded cascade: call it with params, get a video.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "interpreter.hpp"
#include "ort.hpp"

namespace edgereel_runtime {

struct CascadeOptions {
  std::string onnxruntime;  // path of the library; empty: EDGEREEL_ONNXRUNTIME, the system
  std::string provider = "cpu";
  std::optional<std::string> kernels;  // none: where kernel_library.hpp says; "": without
  int threads = 0;
  bool verify_hashes = true, low_vram = false;
};

class Cascade {
 public:
  Cascade(const std::string& folder, const CascadeOptions& options);  // throws Error

  // Calls run one after the other, from whatever thread.
  Result run(const std::string& mode, const Values& given, RunOptions options);

  void cancel() { cancelled_ = true; }  // stops the call in progress before its next step

  const Document& plan() const { return plan_.document(); }

 private:
  const Mode& mode(const std::string& name) const;

  Plan plan_;
  Interpreter interpreter_;
  std::mutex lock_;
  std::atomic<bool> cancelled_{false};
};

}  // namespace edgereel_runtime
