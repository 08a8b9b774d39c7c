// Half precision, which C++17 has no type for, and loads and stores that computing in float needs.
#pragma once

#include <cstdint>
#include <cstring>

namespace edgereel {
namespace {

// IEEE half <-> float, exact; rounds to nearest even.
inline float to_float(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t(half & 0x8000u) << 16;
  const std::uint32_t magnitude = std::uint32_t(half & 0x7fffu) << 13;
  std::uint32_t bits;
  if (magnitude >= 0x0f800000u) {  // infinity or NaN
    bits = magnitude + 0x70000000u;
  } else {  // normal and subnormal: scaled by 2^112
    float value;
    std::memcpy(&value, &magnitude, sizeof value);
    value *= 5.192296858534828e33f;
    std::memcpy(&bits, &value, sizeof bits);
  }
  bits |= sign;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline std::uint16_t to_half(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t sign = bits & 0x80000000u;
  bits ^= sign;
  std::uint32_t half;
  if (bits >= 0x47800000u) {  // too large for a half, infinity or NaN
    half = bits > 0x7f800000u ? 0x7e00u : 0x7c00u;
  } else if (bits < 0x38800000u) {  // subnormal
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    std::memcpy(&half, &magnitude, sizeof half);
    half -= 0x3f000000u;
  } else {
    half = (bits + 0xc8000fffu + ((bits >> 13) & 1u)) >> 13;
  }
  return std::uint16_t(half | (sign >> 16));
}

inline float load(float value) { return value; }
inline float load(std::uint16_t value) { return to_float(value); }
inline void store(float value, float* to) { *to = value; }
inline void store(float value, std::uint16_t* to) { *to = to_half(value); }

}  // namespace
}  // namespace edgereel
