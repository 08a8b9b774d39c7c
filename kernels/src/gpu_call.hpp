// A call of edgereel::TemporalAttention on a GPU: what is taken, and what a kernel is told.
#pragma once

#include <cstdint>
#include <string>

#include "shapes.hpp"

namespace edgereel::gpu {

using Half = std::uint16_t;  // its bits

constexpr std::int64_t kMostFrames = 128, kMostWidth = 160, kWidthUnit = 8;
constexpr float kLog2E = 1.4426950408889634f;

// T is float or Half. Distances count elements; the channels of a pixel lie one after the other.
template <typename T>
struct Tensors {
  const T* qkv;      // [B, F, S, 3, heads, d]
  const float* cos;  // [F, r/2], packed; null without turning, as is sin
  const float* sin;
  const float* bias;  // [heads, F, F], packed, or null
  T* out;             // [B, F, S, heads, d]
  struct Distances {
    std::int64_t batch, frame, pixel;
  } in, to;
};

// n / divisor for n below 2^31, by a product.
struct Divisor {
  std::uint32_t divisor, factor, shift;
};

inline Divisor divisor_of(std::uint32_t divisor) {
  std::uint32_t bits = 0;
  while (std::uint64_t(1) << bits < divisor) ++bits;
  const std::uint64_t power = std::uint64_t(1) << (31 + bits);
  return {divisor, std::uint32_t((power + divisor - 1) / divisor), 31 + bits};
}

// What a kernel is told: sizes in 32 bits but for distances between elements.
template <typename T>
struct Call {
  Tensors<T> tensors;
  int frames, width, pairs;
  int part;                 // heads * width: distance from queries to keys, and to values
  std::uint32_t sequences;  // B * S * heads
  Divisor heads, pixels, tiles;
  bool wide;    // cosines and sines can be read as many at once as a chunk has pairs
  float scale;  // of scores as powers of two
};

// Why a shape is refused, empty if it is not. A size of -1 is not known yet and passes.
inline std::string unsupported(const TemporalAttentionShape& shape) {
  const auto text = [](std::int64_t n) { return std::to_string(n); };
  if (shape.frames > kMostFrames || shape.frames == 0)
    return text(shape.frames) + " frames; the kernel for GPUs takes 1 to " + text(kMostFrames);
  if (shape.width != -1 &&
      (shape.width < 1 || shape.width > kMostWidth || shape.width % kWidthUnit != 0))
    return "heads of " + text(shape.width) + " channels; the kernel for GPUs takes multiples of " +
           text(kWidthUnit) + " up to " + text(kMostWidth);
  if (shape.batch > 0 && shape.pixels > 0 &&
      shape.batch * shape.pixels * shape.heads >= std::int64_t(1) << 28)
    return text(shape.batch * shape.pixels * shape.heads) +
           " heads of pixels; the kernel for GPUs takes fewer than 268435456";
  return "";
}

// Distances of tensors that lie packed.
template <typename T>
void set_packed(const TemporalAttentionShape& shape, Tensors<T>& tensors) {
  const std::int64_t channels = shape.heads * shape.width;
  tensors.to = {shape.frames * shape.pixels * channels, shape.pixels * channels, channels};
  tensors.in = {3 * tensors.to.batch, 3 * tensors.to.frame, 3 * tensors.to.pixel};
}

// Whether sizes are whole, and tables fit them.
template <typename T>
bool fits(const TemporalAttentionShape& shape, const Tensors<T>& tensors) {
  const bool tables = tensors.cos != nullptr;
  return unsupported(shape).empty() && shape.batch >= 0 && shape.pixels >= 0 && shape.heads > 0 &&
         shape.frames > 0 && shape.width > 0 && tables == (tensors.sin != nullptr) &&
         tables == (shape.turned > 0) && shape.turned % 2 == 0 && shape.turned <= shape.width &&
         (!tables || shape.interleaved || shape.turned == shape.width);
}

// Whether qkv, out and their distances are multiples of 16 bytes.
template <typename T>
bool aligned(const Tensors<T>& tensors) {
  const auto even = [](std::int64_t n) { return n * std::int64_t(sizeof(T)) % 16 == 0; };
  const auto at = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  return at(tensors.qkv) && at(tensors.out) && even(tensors.in.batch) && even(tensors.in.frame) &&
         even(tensors.in.pixel) && even(tensors.to.batch) && even(tensors.to.frame) &&
         even(tensors.to.pixel);
}

// Of a shape that fits.
template <typename T>
Call<T> make_call(const TemporalAttentionShape& shape, const Tensors<T>& tensors) {
  const auto at = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  const std::int64_t pairs = shape.turned / 2;
  Call<T> call = {};
  call.tensors = tensors;
  call.frames = int(shape.frames);
  call.width = int(shape.width);
  call.pairs = int(pairs);
  call.part = int(shape.heads * shape.width);
  call.sequences = std::uint32_t(shape.batch * shape.pixels * shape.heads);
  call.heads = divisor_of(std::uint32_t(shape.heads));
  call.pixels = divisor_of(std::uint32_t(shape.pixels));
  call.tiles = divisor_of(std::uint32_t(shape.frames + 15) / 16);
  call.wide = pairs * 2 * std::int64_t(sizeof(T)) % 16 == 0 && at(tensors.cos) && at(tensors.sin);
  call.scale = shape.scale * kLog2E;
  return call;
}

// Warps that a call takes: one for 16 frames of a head of a pixel, or for two heads of eight.
template <typename T>
std::uint32_t warps_of(const Call<T>& call) {
  return call.frames <= 8 ? (call.sequences + 1) / 2 : call.sequences * call.tiles.divisor;
}

}  // namespace edgereel::gpu
