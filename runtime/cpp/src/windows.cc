#include "windows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edgereel_runtime {
namespace {

// An axis of an array: what is around it, how long it is, and what is inside an entry.
struct Along {
  std::size_t outer, length, inner;
};

Along along(const Array& array, std::size_t axis) {
  const Dims& dims = array.dims();
  const auto middle = dims.begin() + static_cast<std::ptrdiff_t>(axis);
  return {product(Dims(dims.begin(), middle)), static_cast<std::size_t>(*middle),
          product(Dims(middle + 1, dims.end()))};
}

// Both mixed as numpy does: 64-bit and 32-bit integers in float64, others in float32.
template <typename T, typename Float>
T mixed(T old, T fresh, float weight) {
  const Float sum = static_cast<Float>(old) * static_cast<Float>(1 - weight) +
                    static_cast<Float>(fresh) * static_cast<Float>(weight);
  return static_cast<T>(std::is_integral<T>::value ? std::nearbyint(sum) : sum);
}

std::uint16_t mixed_half(std::uint16_t old, std::uint16_t fresh, float weight) {
  return to_half(from_half(old) * (1 - weight) + from_half(fresh) * weight);
}

template <typename T, typename Mix>
void fade(const Array& whole, const Array& part, const Along& to, const Along& from,
          std::size_t start, std::size_t count, Mix mix) {
  for (std::size_t i = 0; i < to.outer; ++i) {
    for (std::size_t j = 0; j < count; ++j) {
      const float weight = (static_cast<float>(j) + 0.5f) / static_cast<float>(count);
      T* old = whole.as<T>() + (i * to.length + start + j) * to.inner;
      const T* fresh = part.as<T>() + (i * from.length + j) * from.inner;
      for (std::size_t k = 0; k < to.inner; ++k) old[k] = mix(old[k], fresh[k], weight);
    }
  }
}

}  // namespace

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
  const Along to = along(whole, axis), from = along(part, axis);
  const auto begin = static_cast<std::size_t>(start);
  const auto count = static_cast<std::size_t>(std::max<std::int64_t>(done - start, 0));
  const std::size_t item = to.inner * item_bytes(whole.dtype());
  for (std::size_t i = 0; i < to.outer; ++i) {
    std::memcpy(whole.raw() + (i * to.length + begin + count) * item,
                part.raw() + (i * from.length + count) * item, (from.length - count) * item);
  }
  switch (whole.dtype()) {
    case DType::kFloat32:
      return fade<float>(whole, part, to, from, begin, count, mixed<float, float>);
    case DType::kFloat16:
      return fade<std::uint16_t>(whole, part, to, from, begin, count, mixed_half);
    case DType::kInt64:
      return fade<std::int64_t>(whole, part, to, from, begin, count, mixed<std::int64_t, double>);
    case DType::kInt32:
      return fade<std::int32_t>(whole, part, to, from, begin, count, mixed<std::int32_t, double>);
    case DType::kUint8:
    case DType::kBool:
      return fade<std::uint8_t>(whole, part, to, from, begin, count, mixed<std::uint8_t, float>);
  }
}

}  // namespace edgereel_runtime
