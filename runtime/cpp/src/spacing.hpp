// Which training timesteps a sampler visits: spacing.py has the sources of the rules.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace edgereel_runtime {

// The n timesteps of a named spacing, strictly decreasing in [0, T); throws std::invalid_argument
// if the name is unknown or n does not fit.
std::vector<double> spaced_timesteps(const std::string& spacing, std::int64_t n, std::int64_t T);

}  // namespace edgereel_runtime
