// How much memory this machine, or the container it pretends to be, can still give.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace edgereel_runtime {

// Bytes a process can take without swapping; none where Linux does not say. `root` is where proc
// and sys are.
std::optional<std::int64_t> free_memory(const std::string& root);

}  // namespace edgereel_runtime
