// The operators' inner loops, made once for each level of vector units; `best` picks one at run
// time.
#pragma once

#include <cstdint>

#include "shapes.hpp"

namespace edgereel::cpu {

// Pixels first .. last - 1 of the S of row b; scratch holds temporal_attention_scratch floats.
template <typename T>
using Attention = void (*)(const TemporalAttentionShape&, const T* qkv, const float* cos,
                           const float* sin, const float* bias, T* out, std::int64_t b,
                           std::int64_t first, std::int64_t last, float* scratch);

// One group of channels, which lie one after the other.
template <typename T>
using Norm = void (*)(const T* x, const T* scale, const T* bias, T* out, std::int64_t channels,
                      std::int64_t size, float epsilon);

struct Level {
  const char* name;
  Attention<float> attention;
  Attention<std::uint16_t> attention_half;
  Norm<float> norm;
  Norm<std::uint16_t> norm_half;
};

extern const Level kBase;
#ifdef EDGEREEL_X86_LEVELS
extern const Level kV3;  // AVX2, FMA
extern const Level kV4;  // AVX-512
#endif

inline const Level& best() {
#ifdef EDGEREEL_X86_LEVELS
  if (__builtin_cpu_supports("x86-64-v4")) return kV4;
  if (__builtin_cpu_supports("x86-64-v3")) return kV3;
#endif
  return kBase;
}

}  // namespace edgereel::cpu
