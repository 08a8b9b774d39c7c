// Every operation is numpy's, in its order; logarithms are the C library's in both.
#include "schedule.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "plan_format.hpp"
#include "spacing.hpp"

namespace edgereel_runtime {
namespace {

constexpr double kVarianceFloor = 1e-20;

// A trajectory: timesteps, alphas_cumprod at each, and at the one after.
struct Trajectory {
  std::vector<double> t, now, after;
};

Trajectory trajectory(const Sampling& sampling, const Levels& table, const std::string& final) {
  const auto count = static_cast<std::int64_t>(table.size());
  Trajectory way;
  way.t = spaced_timesteps(sampling.spacing, sampling.steps, count);
  way.now = levels_at(table, way.t);
  way.after.assign(way.now.begin() + 1, way.now.end());
  way.after.push_back(final == "one" ? 1.0 : table[0]);
  return way;
}

// How DDPM's posterior splits the variance 1 - after: what eps supplies, and fresh noise.
double kept_share(double now, double after) { return now * (1 - after) / (after * (1 - now)); }
double fresh_share(double now, double after) { return (1 - now / after) / (1 - now); }

Rows plain_rows(const Trajectory& way) {
  Rows rows(way.t.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].fill(0);
    rows[i][kXScale] = 1;
    rows[i][kT] = static_cast<float>(way.t[i]);
    rows[i][kAlpha] = static_cast<float>(std::sqrt(way.now[i]));
    rows[i][kSigma] = static_cast<float>(std::sqrt(1 - way.now[i]));
  }
  return rows;
}

Rows ddim_rows(const Trajectory& way, const Scalar& eta_given) {
  const double eta = as_double(eta_given), square = power(eta, 2.0);
  Rows rows = plain_rows(way);
  bool good = eta >= 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const double now = way.now[i], after = way.after[i];
    const double kept = (1 - square) + square * kept_share(now, after);
    const double sigma_after = std::sqrt(1 - after);
    good = good && !(kept < 0);
    rows[i][kCX0] = static_cast<float>(std::sqrt(after));
    rows[i][kCEps] = static_cast<float>(sigma_after * std::sqrt(kept));
    rows[i][kCNoise] = static_cast<float>(eta * sigma_after * std::sqrt(fresh_share(now, after)));
  }
  if (!good) {
    throw std::invalid_argument(
        "eta is " + text(eta_given) +
        ". It must be between 0 and 1 (more is possible only while the noise of no step exceeds "
        "what the step may hold). Choose eta from 0 to 1.");
  }
  return rows;
}

Rows ddpm_rows(const Trajectory& way, const std::string& variance) {
  Rows rows = plain_rows(way);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const double now = way.now[i], after = way.after[i];
    const double small = std::max((1 - after) * fresh_share(now, after), kVarianceFloor);
    const double large = 1 - now / after;
    rows[i][kCX0] = static_cast<float>(std::sqrt(after));
    rows[i][kCEps] = static_cast<float>(std::sqrt((1 - after) * kept_share(now, after)));
    if (variance == "learned_range") {
      rows[i][kCNoise] = 1;
      rows[i][kLogvarMin] = static_cast<float>(std::log(small));
      rows[i][kLogvarMax] = static_cast<float>(std::log(large));
    } else {
      rows[i][kCNoise] = static_cast<float>(std::sqrt(variance == "fixed_large" ? large : small));
    }
  }
  rows.back()[kCNoise] = 0;
  return rows;
}

Rows dpmpp_2m_rows(const Trajectory& way) {
  Rows rows = plain_rows(way);
  const std::size_t count = rows.size();
  const auto alpha = [&](std::size_t i) { return std::sqrt(way.now[i]); };
  const auto sigma = [&](std::size_t i) { return std::sqrt(1 - way.now[i]); };
  const auto half_log_snr = [&](std::size_t i) { return std::log(alpha(i)) - std::log(sigma(i)); };
  for (std::size_t i = 0; i < count; ++i) {
    double c_x0 = std::sqrt(way.after[i]);
    const double c_eps = std::sqrt(1 - way.after[i]);
    double c_prev = 0;
    if (i > 0 && i + 1 < count) {
      const double h = half_log_snr(i + 1) - half_log_snr(i);
      const double before = half_log_snr(i) - half_log_snr(i - 1);
      const double gain = c_x0 - c_eps * alpha(i) / sigma(i);
      const double second = 0.5 * gain * (h / before);
      c_prev = -second;
      c_x0 += second;
    }
    rows[i][kCX0] = static_cast<float>(c_x0);
    rows[i][kCEps] = static_cast<float>(c_eps);
    rows[i][kCPrev] = static_cast<float>(c_prev);
  }
  return rows;
}

}  // namespace

Rows sampler_rows(const Sampling& sampling, const Levels& table) {
  const std::string& sampler = sampling.sampler;
  if (std::find(kSamplers.begin(), kSamplers.end(), sampler) == kSamplers.end()) {
    throw std::invalid_argument("Sampler " + shown(sampler) + " is unknown. Known: " +
                                joined(kSamplers) + ". Choose one of these.");
  }
  const Trajectory way =
      trajectory(sampling, table, sampler == "ddim" ? sampling.final : std::string("one"));
  if (sampler == "ddim") return ddim_rows(way, sampling.eta);
  if (sampler == "ddpm") return ddpm_rows(way, sampling.variance);
  if (sampler == "dpmpp_2m") return dpmpp_2m_rows(way);
  Rows rows = ddim_rows(way, sampler == "euler" ? 0.0 : 1.0);
  if (sampling.spacing != "leading" && sampling.spacing != "leading+1") {
    rows[0][kXScale] = rows[0][kSigma];
  }
  return rows;
}

Rows row_range(const Rows& rows, double high, const std::optional<double>& low) {
  Rows part;
  for (const auto& row : rows) {
    const bool above = !low || row[kT] > static_cast<float>(*low);
    if (row[kT] <= static_cast<float>(high) && above) part.push_back(row);
  }
  if (!part.empty()) {
    part[0][kCX0] += part[0][kCPrev];
    part[0][kCPrev] = 0;
  }
  return part;
}

}  // namespace edgereel_runtime
