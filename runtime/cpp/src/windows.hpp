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

// Puts a part into `whole` at `start` of an axis; entries up to `done` are there already and fade
// into it: of n of them, entry j is mixed with weight (j + 1/2) / n of the part.
void join(const Array& whole, const Array& part, std::size_t axis, std::int64_t start,
          std::int64_t done);

}  // namespace edgereel_runtime
