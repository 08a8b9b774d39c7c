// ONNX Runtime, found when the program runs: its CPU, or a provider of the library that is found.
#pragma once

#include <memory>
#include <string>

#include "backend.hpp"

namespace edgereel_runtime {

struct OrtOptions {
  std::string library;           // a file, or a folder with one; empty: where the system looks
  std::string provider = "cpu";  // cpu, cuda, tensorrt, tensorrt-rtx
  std::string kernels;           // a library of our operators; empty: none
  int threads = 0;               // of the CPU; 0 leaves their number to ONNX Runtime
};

// Throws Error if there is no library, or it has no such provider.
std::unique_ptr<Backend> make_ort(const OrtOptions& options);

}  // namespace edgereel_runtime
