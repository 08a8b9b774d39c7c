#include "windows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edgereel_runtime {
namespace {

float mixed(float old, float fresh, const Weights& weights) {
  return old * weights.kept + fresh * weights.fresh;
}

std::uint8_t mixed(std::uint8_t old, std::uint8_t fresh, const Weights& weights) {
  return static_cast<std::uint8_t>(
      std::nearbyint(mixed(static_cast<float>(old), static_cast<float>(fresh), weights)));
}

template <typename T>
void fade_in(const Array& whole, const Array& part, const Along& to, const Along& from,
             std::size_t start, std::size_t count) {
  const std::vector<Weights> weights = fade(count);
  for (std::size_t i = 0; i < to.outer; ++i) {
    for (std::size_t j = 0; j < count; ++j) {
      T* old = whole.as<T>() + (i * to.length + start + j) * to.inner;
      const T* fresh = part.as<T>() + (i * from.length + j) * from.inner;
      for (std::size_t k = 0; k < to.inner; ++k) old[k] = mixed(old[k], fresh[k], weights[j]);
    }
  }
}

}  // namespace

Along along(const Dims& dims, std::size_t axis) {
  const auto middle = dims.begin() + static_cast<std::ptrdiff_t>(axis);
  return {product(Dims(dims.begin(), middle)), static_cast<std::size_t>(*middle),
          product(Dims(middle + 1, dims.end()))};
}

std::vector<Span> spans(std::int64_t total, std::int64_t size, std::int64_t overlap,
                        std::int64_t lead) {
  if (size == 0 || size >= total) return {{0, total, 0}};
  std::vector<Span> found = {{0, size, 0}};
  while (found.back().stop < total) {
    const std::int64_t done = found.back().stop;
    if (overlap > 0) {
      const std::int64_t start = std::min(done - overlap, total - size);
      found.push_back({start, start + size, 0});
    } else {
      found.push_back({done, std::min(done + size - lead, total), lead});
    }
  }
  return found;
}

void join(const Array& whole, const Array& part, std::size_t axis, std::int64_t start,
          std::int64_t done) {
  const Along to = along(whole.dims(), axis), from = along(part.dims(), axis);
  const auto begin = static_cast<std::size_t>(start);
  const auto count = static_cast<std::size_t>(std::max<std::int64_t>(done - start, 0));
  const std::size_t item = to.inner * item_bytes(whole.dtype());
  for (std::size_t i = 0; i < to.outer; ++i) {
    std::memcpy(whole.raw() + (i * to.length + begin + count) * item,
                part.raw() + (i * from.length + count) * item, (from.length - count) * item);
  }
  if (whole.dtype() == DType::kFloat32) fade_in<float>(whole, part, to, from, begin, count);
  if (whole.dtype() == DType::kUint8) fade_in<std::uint8_t>(whole, part, to, from, begin, count);
}

std::vector<Weights> fade(std::size_t count) {
  std::vector<Weights> weights;
  for (std::size_t j = 0; j < count; ++j) {
    const float fresh = (static_cast<float>(j) + 0.5f) / static_cast<float>(count);
    weights.push_back({1 - fresh, fresh});
  }
  return weights;
}

}  // namespace edgereel_runtime
