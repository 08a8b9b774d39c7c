// A scheduler is a table: samplers as rows of sixteen floats. schedule.py has the sources and the
// meaning of the columns; the rows here are equal to its rows.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "levels.hpp"

namespace edgereel_runtime {

constexpr std::size_t kRowWidth = 16;
// clang-format off
enum Column : std::size_t {
  kT, kAlpha, kSigma, kCX0, kCEps, kCPrev, kCNoise, kLogvarMin, kLogvarMax, kXScale
};
// clang-format on
using Rows = std::vector<std::array<float, kRowWidth>>;

struct Sampling {
  std::string sampler, spacing;
  std::int64_t steps = 1;
  Scalar eta = 0.0;
  std::string final = "one", variance = "fixed_small";
};

// f32 [steps, 16]; throws std::invalid_argument for an unknown name, or steps outside 1..T.
Rows sampler_rows(const Sampling& sampling, const Levels& table);

// The rows with high >= t > low; the first of them has no x0 of a row before it, so its c_prev is
// given to c_x0.
Rows row_range(const Rows& rows, double high, const std::optional<double>& low);

}  // namespace edgereel_runtime
