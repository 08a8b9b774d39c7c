// Parts of an axis that are worked on one after the other, and how results are joined again.
#pragma once

#include <vector>

#include "array.hpp"

namespace edgereel_runtime {

// The entries start to stop of an axis, after the first `lead` entries of all.
struct Span {
  std::int64_t start = 0, stop = 0, lead = 0;

  std::int64_t size() const { return stop - start + lead; }
};

// The parts of an axis of `total` entries, in order: each of `size`, 0 takes all at once. Parts
// that overlap all have that size; others follow each other, and the last may be shorter.
std::vector<Span> spans(std::int64_t total, std::int64_t size, std::int64_t overlap,
                        std::int64_t lead);

// An axis of an array: what is around it, how long it is, and what is inside an entry.
struct Along {
  std::size_t outer, length, inner;
};

Along along(const Dims& dims, std::size_t axis);

// How much of two entries that are mixed stays.
struct Weights {
  float kept, fresh;
};

// Of `count` entries, entry j fades with weight (j + 1/2) / count.
std::vector<Weights> fade(std::size_t count);

// Puts a part, float32 or uint8, into `whole` at `start` of an axis; entries up to `done` are there
// already and fade into it.
void join(const Array& whole, const Array& part, std::size_t axis, std::int64_t start,
          std::int64_t done);

}  // namespace edgereel_runtime
