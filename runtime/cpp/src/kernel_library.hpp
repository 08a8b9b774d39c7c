// Edgereel's own kernels for ONNX Runtime, made from kernels/; all runs without them, slower.
#pragma once

#include <string>

namespace edgereel_runtime {

// The library: the one EDGEREEL_KERNELS names, or libedgereel_ort.so beside this library; empty if
// there is none.
std::string kernel_library();

}  // namespace edgereel_runtime
