// edgereel::TemporalAttention, version 1, on a CPU.
//
// Every pixel of a video attends to itself in all frames. Per row b, pixel s and head h, with q, k,
// v of head size d cut from the packed projections, and P turning pairs of channels by angles that
// grow with the frame (RoPE, arXiv:2104.09864; left out without tables):
//
//   out[f] = sum_g softmax_g(scale * (P_f q[f]) . (P_g k[g]) + bias[h, f, g]) v[g]
//
//   qkv   T   [B, F, S, 3, heads, d]   the layout that layers within frames leave; S pixels
//   cos   f32 [F, r/2], sin the same   r <= d channels of a head are turned
//   bias  f32 [heads, F, F]
//   out   T   [B, F, S, heads, d]
//
// It reads 3 and writes 1 tensor of B*F*S*C values and computes 2*B*S*F*F*C multiply-adds; with
// standard operators the same takes 20 more passes over such tensors. Here a few neighbouring
// pixels are read at once, frame after frame, all heads together, since the frames of a pixel lie
// far apart, often at distances that share a place in the caches.
//
// Loops are written for the vector units of any machine. Queries and keys of a head are transposed
// first, so that a vector holds a channel, and then a key's score, of all query frames: turning,
// softmax and both products then need no sum within a vector.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "half.hpp"
#include "shapes.hpp"

namespace edgereel {

namespace {

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));  // of GCC and Clang
typedef std::int32_t Integers __attribute__((vector_size(kLanes * sizeof(float))));

inline Lanes lanes(const float* from) {
  Lanes value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline void keep(Lanes value, float* to) { std::memcpy(to, &value, sizeof value); }

// e^x for x <= 0, relative error below 2e-7; NaN stays NaN.
inline Lanes exp_negative(Lanes x) {
  const Lanes least = Lanes{} - 87.0f;
  x = x < least ? least : x;
  const Lanes shifted = x * 1.44269504f + 12582912.0f;  // rounds to an integer
  const Lanes n = shifted - 12582912.0f;
  const Lanes r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Lanes p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  Integers power;  // the integer lies in the lowest bits of `shifted`
  std::memcpy(&power, &shifted, sizeof power);
  power = (power - 0x4b400000 + 127) << 23;
  Lanes scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

// A row of 16 that takes lane i where (i & bit) is 0 from a, else from b, moved by bit.
#ifdef __clang__
#define EDGEREEL_MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define EDGEREEL_MIX(a, b, ...) __builtin_shuffle(a, b, Integers{__VA_ARGS__})
#endif

// Exchanges lane i of row j with lane j of row i, one bit of the indices after the other.
inline void transpose(Lanes* rows) {
  for (int i = 0; i < kLanes; i += 2) {
    const Lanes a = rows[i], b = rows[i + 1];
    rows[i] = EDGEREEL_MIX(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
    rows[i + 1] = EDGEREEL_MIX(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  }
  for (int i = 0; i < kLanes; i += (i & 1) ? 3 : 1) {
    const Lanes a = rows[i], b = rows[i + 2];
    rows[i] = EDGEREEL_MIX(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    rows[i + 2] = EDGEREEL_MIX(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
  for (int i = 0; i < kLanes; i += (i & 3) == 3 ? 5 : 1) {
    const Lanes a = rows[i], b = rows[i + 4];
    rows[i] = EDGEREEL_MIX(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
    rows[i + 4] = EDGEREEL_MIX(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  }
  for (int i = 0; i < kLanes / 2; ++i) {
    const Lanes a = rows[i], b = rows[i + 8];
    rows[i] = EDGEREEL_MIX(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    rows[i + 8] = EDGEREEL_MIX(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  }
}

// from [frames, width], rows `step` apart, as to [padded(width), columns of frames]; values after
// the last of a row are read, and rows after the last are zeros.
inline void transposed(const float* from, std::int64_t step, std::int64_t frames,
                       std::int64_t width, std::int64_t columns, float* to) {
  for (std::int64_t frame = 0; frame < columns; frame += kLanes)
    for (std::int64_t d = 0; d < width; d += kLanes) {
      Lanes rows[kLanes];
      for (std::int64_t i = 0; i < kLanes; ++i)
        rows[i] = frame + i < frames ? lanes(from + (frame + i) * step + d) : Lanes{};
      transpose(rows);
      for (std::int64_t i = 0; i < kLanes; ++i) keep(rows[i], to + (d + i) * columns + frame);
    }
}

// x [d, columns of frames]: pairs of channels turned by the angles of the frames, f32
// [r/2, columns]; then all of them scaled.
inline void turn(const TemporalAttentionShape& shape, const float* cos, const float* sin,
                 float scale, std::int64_t columns, float* x) {
  const std::int64_t half = shape.turned / 2;
  const std::int64_t next = shape.interleaved ? 1 : half, step = shape.interleaved ? 2 : 1;
  for (std::int64_t i = 0; i < half; ++i)
    for (std::int64_t column = 0; column < columns; column += kLanes) {
      float* one = x + i * step * columns + column;
      float* two = one + next * columns;
      const Lanes a = lanes(one) * scale, b = lanes(two) * scale;
      const Lanes c = lanes(cos + i * columns + column), s = lanes(sin + i * columns + column);
      keep(a * c - b * s, one);
      keep(b * c + a * s, two);
    }
  if (scale == 1.0f) return;
  for (std::int64_t at = shape.turned * columns; at < shape.width * columns; at += kLanes)
    keep(lanes(x + at) * scale, x + at);
}

// out[rows, columns] = sum over depth of a[depth, rows] b[depth, columns], for whole vectors of
// columns and whole tiles of rows; the distances from row to row are given.
inline void multiply(const float* a, std::int64_t a_step, const float* b, std::int64_t b_step,
                     std::int64_t rows, std::int64_t depth, std::int64_t columns, float* out,
                     std::int64_t out_step) {
  for (std::int64_t row = 0; row < rows; row += kRows)
    for (std::int64_t column = 0; column < columns; column += kLanes) {
      Lanes sum[kRows] = {};
      for (std::int64_t d = 0; d < depth; ++d) {
        const Lanes line = lanes(b + d * b_step + column);
        for (int r = 0; r < kRows; ++r) sum[r] += a[d * a_step + row + r] * line;
      }
      for (int r = 0; r < kRows; ++r) keep(sum[r], out + (row + r) * out_step + column);
    }
}

// scores [F keys, columns of queries]: what is e^score, divided by its sum over keys.
inline void softmax(const float* bias, std::int64_t keys, std::int64_t columns, float* scores) {
  for (std::int64_t column = 0; column < columns; column += kLanes) {
    float* line = scores + column;
    if (bias)
      for (std::int64_t g = 0; g < keys; ++g)
        keep(lanes(line + g * columns) + lanes(bias + g * columns + column), line + g * columns);
    Lanes most = lanes(line);
    for (std::int64_t g = 1; g < keys; ++g) {
      const Lanes score = lanes(line + g * columns);
      most = most < score ? score : most;
    }
    Lanes sum = {};
    for (std::int64_t g = 0; g < keys; ++g) {
      const Lanes power = exp_negative(lanes(line + g * columns) - most);
      sum += power;
      keep(power, line + g * columns);
    }
    const Lanes share = 1.0f / sum;
    for (std::int64_t g = 0; g < keys; ++g)
      keep(lanes(line + g * columns) * share, line + g * columns);
  }
}

// Computes pixels first .. last - 1 of the S of row b. cos, sin f32 [r/2, columns of frames] and
// bias f32 [heads, F keys, columns of queries] are as the functions of shapes.hpp make them.
template <typename T>
void temporal_attention(const TemporalAttentionShape& shape, const T* qkv, const float* cos,
                        const float* sin, const float* bias, T* out, std::int64_t b,
                        std::int64_t first, std::int64_t last, float* scratch) {
  const std::int64_t F = shape.frames, D = shape.width, S = shape.pixels, H = shape.heads;
  const std::int64_t C = H * D, columns = padded(F), wide = padded(D), tile = tile_of(shape);
  const std::int64_t given = tile * 3 * C + kLanes, made = tile * C + kLanes;
  const std::int64_t rows = rows_of(F);
  float* frames = scratch;             // [F, tile * 3C], and a vector more to read
  float* result = frames + F * given;  // [rows, tile * C], and a vector more to write
  float* q = result + rows * made;     // [wide, columns]
  float* k = q + wide * columns;       // as q
  float* scores = k + wide * columns;  // [rows, columns]
  std::fill(frames, result, 0.0f);
  for (std::int64_t start = first; start < last; start += tile) {
    const std::int64_t count = std::min(tile, last - start);
    for (std::int64_t f = 0; f < F; ++f) {
      const T* from = qkv + ((b * F + f) * S + start) * 3 * C;
      for (std::int64_t i = 0; i < count * 3 * C; ++i) frames[f * given + i] = load(from[i]);
    }
    for (std::int64_t p = 0; p < count; ++p)
      for (std::int64_t h = 0; h < H; ++h) {
        const float* head = frames + p * 3 * C + h * D;
        transposed(head, given, F, D, columns, q);
        transposed(head + C, given, F, D, columns, k);
        turn(shape, cos, sin, shape.scale, columns, q);
        turn(shape, cos, sin, 1.0f, columns, k);
        multiply(k, columns, q, columns, rows, D, columns, scores, columns);
        softmax(bias ? bias + h * F * columns : nullptr, F, columns, scores);
        // writes a part of the head after it, whose turn comes later
        multiply(scores, columns, head + 2 * C, given, rows, F, wide, result + p * C + h * D, made);
      }
    for (std::int64_t f = 0; f < F; ++f) {
      T* to = out + ((b * F + f) * S + start) * C;
      for (std::int64_t i = 0; i < count * C; ++i) store(result[f * made + i], to + i);
    }
  }
}

}  // namespace
}  // namespace edgereel
