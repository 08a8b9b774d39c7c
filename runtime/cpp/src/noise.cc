#include "noise.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace edgereel_runtime {
namespace {

constexpr double kPi = 3.14159265358979323846;

// Two pairs of normals from the words of a block, by Box and Muller in float64.
std::array<float, 4> box_muller(const Four& words) {
  std::array<float, 4> z{};
  for (std::size_t k = 0; k < 4; k += 2) {
    // u is exact in float64 and never 0 or 1, so the logarithm is finite.
    const double u = (words[k] + 0.5) * 0x1p-32, v = (words[k + 1] + 0.5) * 0x1p-32;
    const double radius = std::sqrt(-2 * std::log(u)), angle = 2 * kPi * v;
    z[k] = static_cast<float>(radius * std::cos(angle));
    z[k + 1] = static_cast<float>(radius * std::sin(angle));
  }
  return z;
}

}  // namespace

Four philox4x32(Four c, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t(c[0]) * 0xD2511F53u;
    const std::uint64_t p1 = std::uint64_t(c[2]) * 0xCD9E8D57u;
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ key[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ key[1], static_cast<std::uint32_t>(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return c;
}

std::uint32_t fnv1a32(const std::string& text) {
  std::uint32_t value = 0x811C9DC5u;
  for (char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x01000193u;
  return value;
}

Four noise_words(const Draw& draw, std::uint32_t block) {
  const auto low = static_cast<std::uint32_t>(draw.seed);
  const auto high = static_cast<std::uint32_t>(draw.seed >> 32);
  return philox4x32({block, draw.step, draw.chunk, fnv1a32(draw.name)}, {low, high});
}

void normal(const Draw& draw, float* out, std::size_t count) {
  if (count > (std::size_t(1) << 34)) {
    throw std::invalid_argument("The noise number of elements is " + std::to_string(count) +
                                ". It must be between 0 and 2^34 - 1. Choose one there.");
  }
  for (std::size_t done = 0; done < count; done += 4) {
    const auto z = box_muller(noise_words(draw, static_cast<std::uint32_t>(done / 4)));
    std::copy_n(z.begin(), std::min<std::size_t>(4, count - done), out + done);
  }
}

}  // namespace edgereel_runtime
