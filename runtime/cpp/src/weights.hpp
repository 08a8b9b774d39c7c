// Counts the weights of an ONNX file by reading its protobuf directly.
#pragma once

#include <cstdint>
#include <string>

namespace edgereel_runtime {

// Bytes of the floating-point weights, inside the file or in its data files; 0 for a file that is
// damaged, which is refused in a sentence when it is loaded.
std::int64_t weight_bytes(const std::string& path);

}  // namespace edgereel_runtime
