// edgereel::GroupNorm, version 1, on a CPU.
//
// The channels of an image fall into groups; each group is moved and scaled to mean 0 and variance
// 1 (arXiv:1803.08494), then each channel scaled and moved:
//
//   out = (x - mean(group)) / sqrt(variance(group) + epsilon) * scale[c] + bias[c]
//
//   x, out  T   [N, C, ...]
//   scale   T   [C], bias the same
//
// The mean is subtracted before anything is squared: of a flat picture the difference of the means
// of squares is rounding errors, below zero even.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "half.hpp"

namespace edgereel {

namespace {

// Sum of step(x[i]), in lanes of float that are added up in double every kBlock values.
template <typename T, typename Step>
double sum_of(const T* x, std::int64_t count, Step step) {
  constexpr std::int64_t kSums = 16, kBlock = 1024;
  double total = 0;
  for (std::int64_t start = 0; start < count; start += kBlock) {
    const std::int64_t end = std::min(start + kBlock, count);
    float sums[kSums] = {};
    std::int64_t i = start;
    for (; i + kSums <= end; i += kSums)
      for (std::int64_t lane = 0; lane < kSums; ++lane) sums[lane] += step(load(x[i + lane]));
    for (; i < end; ++i) sums[0] += step(load(x[i]));
    for (float sum : sums) total += double(sum);
  }
  return total;
}

// One group: `channels` rows of `size` values each, one after the other.
template <typename T>
void group_norm(const T* x, const T* scale, const T* bias, T* out, std::int64_t channels,
                std::int64_t size, float epsilon) {
  const std::int64_t count = channels * size;
  const float mean = float(sum_of(x, count, [](float v) { return v; }) / double(count));
  const double squares = sum_of(x, count, [mean](float v) { return (v - mean) * (v - mean); });
  const float share = float(1.0 / std::sqrt(squares / double(count) + double(epsilon)));
  for (std::int64_t c = 0; c < channels; ++c) {
    const float by = share * load(scale[c]), to = load(bias[c]);
    for (std::int64_t i = 0; i < size; ++i)
      store((load(x[c * size + i]) - mean) * by + to, out + c * size + i);
  }
}

}  // namespace
}  // namespace edgereel
