// What a lane of a warp can do: reads, conversions, and products that lanes make together.
//
// Compiled by nvcc for GPUs and by any C++17 compiler for kernels/tests/gpu_test.cc, which runs 32
// lanes as a warp and has its own of what they do together, `mma` and `from_quad`.
#pragma once

#include <cstdint>

#include "gpu_call.hpp"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define EDGEREEL_LANE __device__ __forceinline__
#define EDGEREEL_UNROLL _Pragma("unroll")
#define EDGEREEL_UNROLL_SOME _Pragma("unroll 2")
#else
#include <algorithm>
#include <cmath>
#include <cstring>

#include "half.hpp"
#define EDGEREEL_LANE inline
#define EDGEREEL_UNROLL
#define EDGEREEL_UNROLL_SOME
#endif

namespace edgereel::gpu {

struct alignas(16) Chunk {
  std::uint32_t word[4];
};

template <typename T>
constexpr int kChunk = int(sizeof(Chunk) / sizeof(T));

#ifdef __CUDACC__

EDGEREEL_LANE Chunk read16(const void* from) {
  const uint4 x = __ldg(static_cast<const uint4*>(from));
  return {{x.x, x.y, x.z, x.w}};
}

EDGEREEL_LANE void read8(const void* from, std::uint32_t* to) {
  const uint2 x = __ldg(static_cast<const uint2*>(from));
  to[0] = x.x;
  to[1] = x.y;
}

EDGEREEL_LANE void write16(const Chunk& x, void* to) {
  *static_cast<uint4*>(to) = make_uint4(x.word[0], x.word[1], x.word[2], x.word[3]);
}

EDGEREEL_LANE std::uint32_t bits(float x) { return __float_as_uint(x); }
EDGEREEL_LANE float number(std::uint32_t x) { return __uint_as_float(x); }
EDGEREEL_LANE float low(std::uint32_t x) { return __half2float(__ushort_as_half(Half(x))); }
EDGEREEL_LANE float high(std::uint32_t x) { return __half2float(__ushort_as_half(Half(x >> 16))); }

EDGEREEL_LANE std::uint32_t pack(float first, float second) {
  const __half2 both = __floats2half2_rn(first, second);
  return std::uint32_t(__half_as_ushort(__low2half(both))) |
         std::uint32_t(__half_as_ushort(__high2half(both))) << 16;
}

// The first (0) or second (1) halves of two words.
EDGEREEL_LANE std::uint32_t zip(std::uint32_t a, std::uint32_t b, int which) {
  return __byte_perm(a, b, which ? 0x7632 : 0x5410);
}

EDGEREEL_LANE float power_of_two(float x) { return exp2f(x); }
EDGEREEL_LANE float larger(float a, float b) { return fmaxf(a, b); }
EDGEREEL_LANE int smaller(int a, int b) { return min(a, b); }
EDGEREEL_LANE int larger(int a, int b) { return max(a, b); }
EDGEREEL_LANE float infinity() { return __int_as_float(0x7f800000); }

// c[16, 8] += a[16, k] b[k, 8] over the warp, of halves (k = 16) or of TF32 numbers (k = 8).
// Volatile, or the compiler may move it to where its result is used, which not all lanes reach.
template <typename T>
EDGEREEL_LANE void mma(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);

template <>
EDGEREEL_LANE void mma<Half>(float (&c)[4], const std::uint32_t (&a)[4],
                             const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
EDGEREEL_LANE void mma<float>(float (&c)[4], const std::uint32_t (&a)[4],
                              const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The value of lane ^ distance, for distances 1 and 2.
EDGEREEL_LANE float from_quad(float value, int distance) {
  return __shfl_xor_sync(0xffffffffu, value, distance);
}

#else

inline Chunk read16(const void* from) {
  Chunk x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
inline void read8(const void* from, std::uint32_t* to) { std::memcpy(to, from, 8); }
inline void write16(const Chunk& x, void* to) { std::memcpy(to, &x, sizeof x); }
inline std::uint32_t bits(float x) {
  std::uint32_t result;
  std::memcpy(&result, &x, sizeof result);
  return result;
}
inline float number(std::uint32_t x) {
  float result;
  std::memcpy(&result, &x, sizeof result);
  return result;
}
inline float low(std::uint32_t x) { return to_float(Half(x)); }
inline float high(std::uint32_t x) { return to_float(Half(x >> 16)); }
inline std::uint32_t pack(float first, float second) {
  return to_half(first) | std::uint32_t(to_half(second)) << 16;
}
inline std::uint32_t zip(std::uint32_t a, std::uint32_t b, int which) {
  return which ? (a >> 16) | (b & 0xffff0000u) : (a & 0xffffu) | (b << 16);
}
inline float power_of_two(float x) { return std::exp2(x); }
inline float larger(float a, float b) { return std::fmax(a, b); }
inline int smaller(int a, int b) { return std::min(a, b); }
inline int larger(int a, int b) { return std::max(a, b); }
inline float infinity() { return HUGE_VALF; }

template <typename T>
void mma(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
float from_quad(float value, int distance);

#endif

EDGEREEL_LANE void unpack(const Chunk& x, float (&to)[4]) {
  EDGEREEL_UNROLL
  for (int i = 0; i < 4; ++i) to[i] = number(x.word[i]);
}

EDGEREEL_LANE void unpack(const Chunk& x, float (&to)[8]) {
  EDGEREEL_UNROLL
  for (int i = 0; i < 8; ++i) to[i] = i % 2 ? high(x.word[i / 2]) : low(x.word[i / 2]);
}

EDGEREEL_LANE Chunk packed(const float (&from)[4]) {
  return {{bits(from[0]), bits(from[1]), bits(from[2]), bits(from[3])}};
}

EDGEREEL_LANE Chunk packed(const float (&from)[8]) {
  return {{pack(from[0], from[1]), pack(from[2], from[3]), pack(from[4], from[5]),
           pack(from[6], from[7])}};
}

// c += a b. Floats are split into two TF32 numbers of 11 bits each: three products keep 22 bits.
EDGEREEL_LANE void multiply(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                            Half) {
  mma<Half>(c, a, b);
}

EDGEREEL_LANE std::uint32_t leading(std::uint32_t x) { return x & 0xffffe000u; }

EDGEREEL_LANE std::uint32_t trailing(std::uint32_t x) {
  return leading(bits(number(x) - number(leading(x))) + 0x1000u);
}

EDGEREEL_LANE void multiply(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                            float) {
  const std::uint32_t a1[4] = {leading(a[0]), leading(a[1]), leading(a[2]), leading(a[3])};
  const std::uint32_t a2[4] = {trailing(a[0]), trailing(a[1]), trailing(a[2]), trailing(a[3])};
  const std::uint32_t b1[2] = {leading(b[0]), leading(b[1])};
  const std::uint32_t b2[2] = {trailing(b[0]), trailing(b[1])};
  mma<float>(c, a2, b1);
  mma<float>(c, a1, b2);
  mma<float>(c, a1, b1);
}

}  // namespace edgereel::gpu
