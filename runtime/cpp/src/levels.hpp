// How much noise there is at each training timestep: tables of alphas_cumprod, f64 [T].
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "words.hpp"

namespace edgereel_runtime {

using Levels = std::vector<double>;

// The table in an .npy file, checked: strictly decreasing, in [0, 1). Throws std::runtime_error.
Levels read_levels(const std::string& path);

// alphas_cumprod at the timesteps, by linear interpolation of sigma / alpha; throws
// std::invalid_argument where one leaves the table.
Levels levels_at(const Levels& table, const std::vector<double>& timesteps);

// (c_x, c_z) of the forward process from one timestep (none = clean) to another: x -> c_x x + c_z
// z. Throws std::invalid_argument.
std::pair<double, double> renoise_coefficients(const Levels& table,
                                               const std::optional<Scalar>& from, const Scalar& to);

// x to the power y by the C library, which Python's ** is; compilers would make x * x of some.
double power(double x, double y);

}  // namespace edgereel_runtime
