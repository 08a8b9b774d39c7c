// Stages in chunks: the parts of values that a chunk sees, and what is made of all chunks.
#pragma once

#include <functional>

#include "call.hpp"

namespace edgereel_runtime {

// The part of a value within a span of each of some axes; led, if the span says so.
Array part_of(const Array& whole, const std::vector<std::pair<std::size_t, Span>>& cuts);

// What a stage collects in all its chunks, joined, by the names inside. `run` makes one chunk,
// given its span of every window.
Arrays joined_chunks(const Call& call, std::size_t stage,
                     const std::function<Arrays(const std::vector<Span>&)>& run);

}  // namespace edgereel_runtime
