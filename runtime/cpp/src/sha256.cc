#include "sha256.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#define EDGEREEL_X86_SHA
#endif

namespace edgereel_runtime {
namespace {

constexpr std::size_t kBlock = 64;  // bytes

alignas(16) constexpr std::uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

std::uint32_t turned(std::uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

void mix_portably(std::uint32_t* state, const unsigned char* bytes) {
  std::uint32_t w[64];
  for (std::size_t i = 0; i < 16; ++i) {
    w[i] = std::uint32_t(bytes[4 * i]) << 24 | std::uint32_t(bytes[4 * i + 1]) << 16 |
           std::uint32_t(bytes[4 * i + 2]) << 8 | bytes[4 * i + 3];
  }
  for (std::size_t i = 16; i < 64; ++i) {
    const std::uint32_t a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + (turned(a, 7) ^ turned(a, 18) ^ (a >> 3)) + w[i - 7] +
           (turned(b, 17) ^ turned(b, 19) ^ (b >> 10));
  }
  std::uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
  std::uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
  for (std::size_t i = 0; i < 64; ++i) {
    const std::uint32_t first = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) +
                                ((e & f) ^ (~e & g)) + kRound[i] + w[i];
    const std::uint32_t second =
        (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = d + first;
    d = c;
    c = b;
    b = a;
    a = first + second;
  }
  const std::uint32_t added[] = {a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < 8; ++i) state[i] += added[i];
}

#ifdef EDGEREEL_X86_SHA

bool has_instructions() {
  unsigned int a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSSE3) || !(c & bit_SSE4_1)) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29));
}

// Two registers hold a, b, e, f and c, d, g, h, each with its last word lowest.
__attribute__((target("sha,sse4.1,ssse3"))) void mix_by_instructions(std::uint32_t* state,
                                                                     const unsigned char* bytes) {
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  auto* const lower = reinterpret_cast<__m128i*>(state);
  auto* const upper = reinterpret_cast<__m128i*>(state + 4);
  const __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128(lower), 0xB1);
  const __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128(upper), 0x1B);
  const __m128i abef_before = _mm_alignr_epi8(badc, hgfe, 8);
  const __m128i cdgh_before = _mm_blend_epi16(hgfe, badc, 0xF0);
  __m128i abef = abef_before, cdgh = cdgh_before, w[16];
  for (int i = 0; i < 16; ++i) {
    if (i < 4) {
      const auto* words = reinterpret_cast<const __m128i*>(bytes + 16 * i);
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128(words), big_endian);
    } else {
      const __m128i seventh = _mm_alignr_epi8(w[i - 1], w[i - 2], 4);
      const __m128i early = _mm_sha256msg1_epu32(w[i - 4], w[i - 3]);
      w[i] = _mm_sha256msg2_epu32(_mm_add_epi32(early, seventh), w[i - 1]);
    }
    const auto* rounds = reinterpret_cast<const __m128i*>(kRound + 4 * i);
    const __m128i added = _mm_add_epi32(w[i], _mm_load_si128(rounds));
    cdgh = _mm_sha256rnds2_epu32(cdgh, abef, added);
    abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(added, 0x0E));
  }
  const __m128i abef_all = _mm_shuffle_epi32(_mm_add_epi32(abef, abef_before), 0x1B);
  const __m128i ghcd = _mm_shuffle_epi32(_mm_add_epi32(cdgh, cdgh_before), 0xB1);
  _mm_storeu_si128(lower, _mm_blend_epi16(abef_all, ghcd, 0xF0));
  _mm_storeu_si128(upper, _mm_alignr_epi8(ghcd, abef_all, 8));
}

#endif

}  // namespace

Sha256::Sha256(bool instructions) : mix_(mix_portably) {
#ifdef EDGEREEL_X86_SHA
  static const bool there = has_instructions();
  if (instructions && there) mix_ = mix_by_instructions;
#else
  static_cast<void>(instructions);
#endif
}

void Sha256::add(const char* chars, std::size_t count) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(chars);
  length_ += count;
  while (count > 0) {
    if (filled_ == 0 && count >= kBlock) {
      mix_(state_.data(), bytes);
      bytes += kBlock;
      count -= kBlock;
      continue;
    }
    const std::size_t part = std::min(count, kBlock - filled_);
    std::memcpy(block_.data() + filled_, bytes, part);
    filled_ += part;
    bytes += part;
    count -= part;
    if (filled_ == kBlock) {
      mix_(state_.data(), block_.data());
      filled_ = 0;
    }
  }
}

std::string Sha256::hex() {
  const std::uint64_t bits = length_ * 8;
  const std::size_t zeros = (2 * kBlock - 9 - filled_) % kBlock;
  std::string end(1, '\x80');
  end.append(zeros, '\0');
  for (int i = 7; i >= 0; --i) end.push_back(static_cast<char>(bits >> (8 * i)));
  add(end.data(), end.size());
  std::string digits;
  for (std::uint32_t word : state_) {
    char buffer[9];
    std::snprintf(buffer, sizeof buffer, "%08x", word);
    digits += buffer;
  }
  return digits;
}

}  // namespace edgereel_runtime
