// Stages in chunks: the parts of values that a chunk sees, and what is made of all chunks.
#pragma once

#include <functional>

#include "backend.hpp"
#include "call.hpp"

namespace edgereel_runtime {

// The part of a value within a span of each of some axes; led, if the span says so. A view where
// it can be one.
Buffer part_of(Backend& backend, const Buffer& whole,
               const std::vector<std::pair<std::size_t, Span>>& cuts);

// What a stage collects in all its chunks, joined, by the names inside. `run` makes one chunk,
// given its span of every window.
Buffers joined_chunks(Backend& backend, const Call& call, std::size_t stage,
                      const std::function<Buffers(const std::vector<Span>&)>& run);

}  // namespace edgereel_runtime
