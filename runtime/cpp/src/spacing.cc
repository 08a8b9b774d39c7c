// Every operation is numpy's, in its order, so that the results are equal to the last bit.
#include "spacing.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "plan_format.hpp"

namespace edgereel_runtime {
namespace {

using Timesteps = std::vector<double>;

void check_count(std::int64_t n, std::int64_t T) {
  if (n >= 1 && n <= T) return;
  throw std::invalid_argument("The number of steps is " + std::to_string(n) +
                              ". It must be between 1 and " + std::to_string(T) +
                              ", the number of training timesteps. Change the steps.");
}

template <typename Rule>
Timesteps filled(std::int64_t n, Rule rule) {
  Timesteps t(static_cast<std::size_t>(n));
  for (std::size_t k = 0; k < t.size(); ++k) t[k] = rule(static_cast<double>(k));
  return t;
}

Timesteps leading(std::int64_t n, std::int64_t T, double plus) {
  const double stride = static_cast<double>(T / n), last = static_cast<double>(n - 1);
  return filled(n, [=](double k) { return (last - k) * stride + plus; });
}

Timesteps trailing(std::int64_t n, std::int64_t T) {
  const double all = static_cast<double>(T), stride = (all - all / static_cast<double>(n)) - all;
  return filled(n, [=](double k) { return std::nearbyint(all + k * stride) - 1.0; });
}

Timesteps linspace(std::int64_t n, std::int64_t T) {
  const double last = static_cast<double>(T - 1), step = last / static_cast<double>(n - 1);
  Timesteps t = filled(n, [=](double k) { return k * step; });
  t.back() = last;
  std::reverse(t.begin(), t.end());
  return t;
}

Timesteps adm(std::int64_t n, std::int64_t T) {
  const double stride = static_cast<double>(T - 1) / static_cast<double>(n - 1);
  double sum = 0;
  Timesteps t = filled(n, [&](double k) { return std::nearbyint(k == 0 ? 0 : sum += stride); });
  std::reverse(t.begin(), t.end());
  return t;
}

Timesteps unclip(std::int64_t n, std::int64_t T) {
  const double stride = static_cast<double>(T - 1) / static_cast<double>(n - 1);
  const double last = static_cast<double>(n - 1);
  return filled(n, [=](double k) { return std::nearbyint((last - k) * stride); });
}

}  // namespace

std::vector<double> spaced_timesteps(const std::string& spacing, std::int64_t n, std::int64_t T) {
  if (std::find(kSpacings.begin(), kSpacings.end(), spacing) == kSpacings.end()) {
    throw std::invalid_argument("Timestep spacing " + shown(spacing) + " is unknown. Known: " +
                                joined(kSpacings) + ". Choose one of these in the plan.");
  }
  if (spacing == "leading+1" && n == T) {
    throw std::invalid_argument(
        "Spacing 'leading+1' with " + std::to_string(n) + " steps would start at timestep " +
        std::to_string(T) + ". The last training timestep is " + std::to_string(T - 1) +
        ". Use at most " + std::to_string(T - 1) + " steps, or spacing 'leading'.");
  }
  check_count(n, T);
  if (spacing == "leading") return leading(n, T, 0);
  if (spacing == "leading+1") return leading(n, T, 1);
  if (spacing == "trailing") return trailing(n, T);
  if (n == 1) return {static_cast<double>(T - 1)};
  if (spacing == "linspace") return linspace(n, T);
  return spacing == "adm" ? adm(n, T) : unclip(n, T);
}

}  // namespace edgereel_runtime
