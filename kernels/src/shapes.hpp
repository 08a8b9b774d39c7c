// Sizes that an operator is called with.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgereel {

struct TemporalAttentionShape {
  std::int64_t batch, frames, pixels, heads, width;  // B, F, S, heads, d
  std::int64_t turned;                               // r, 0 without RoPE
  bool interleaved;                                  // pairs (2i, 2i + 1), else (i, i + r/2)
  float scale;
};

// Columns of a tile, in registers; rows of scratch memory are padded to a multiple of it.
constexpr int kLanes = 16;

constexpr std::int64_t padded(std::int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Rows of a product that are computed together, in registers; F is padded to a multiple.
constexpr int kRows = 8;

constexpr std::int64_t rows_of(std::int64_t frames) { return (frames + kRows - 1) / kRows * kRows; }

// Neighbouring pixels that a thread holds at once.
constexpr std::int64_t tile_of(const TemporalAttentionShape& shape) {
  const std::int64_t tile = 640 / (shape.heads * shape.width);
  return tile < 1 ? 1 : tile;
}

// Number of floats that a thread needs beside the tensors.
constexpr std::size_t temporal_attention_scratch(const TemporalAttentionShape& shape) {
  const std::int64_t columns = padded(shape.frames), wide = padded(shape.width);
  const std::int64_t channels = tile_of(shape) * shape.heads * shape.width;
  return std::size_t(shape.frames * (3 * channels + kLanes) +
                     rows_of(shape.frames) * (channels + kLanes + columns) + 2 * wide * columns);
}

// Tables f32 [batch, F, n] as [batch, n, columns of F], which is how the kernel reads angles
// (n = r/2) and biases (query frames, then keys); `to` holds batch * n * padded(F) floats.
inline void by_frame(const float* from, std::int64_t batch, std::int64_t frames, std::int64_t n,
                     float* to) {
  const std::int64_t columns = padded(frames);
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t f = 0; f < columns; ++f)
        to[(b * n + i) * columns + f] = f < frames ? from[(b * frames + f) * n + i] : 0.0f;
}

}  // namespace edgereel
