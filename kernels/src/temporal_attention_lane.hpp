// What one lane of a warp does for edgereel::TemporalAttention; temporal_attention.cu has the
// formula and why it is done like this.
//
// A chunk is 16 bytes of a row: kChunk channels of one frame. Lane (g, t) = (lane / 4, lane % 4).
#pragma once

#include "gpu_lane.hpp"

namespace edgereel::gpu {

// Sixteen frames in two halves of eight: of one sequence, or eight each of two.
template <typename T>
struct Rows {
  const T* from[2];  // row 0 of a half, at the queries of its head
  T* to[2];
  int head[2], frame[2], count[2];  // of a half: its first frame, and how many frames there are
};

EDGEREEL_LANE std::uint32_t quotient(std::uint32_t n, const Divisor& by) {
  return std::uint32_t((std::uint64_t(n) * by.factor) >> by.shift);
}

// One half: frames from `frame` on of a head of a pixel.
template <typename T>
EDGEREEL_LANE void set_half(const Call<T>& call, std::uint32_t pixel, std::uint32_t head, int frame,
                            int half, Rows<T>& rows) {
  const std::uint32_t b = quotient(pixel, call.pixels), s = pixel - b * call.pixels.divisor;
  const auto &in = call.tensors.in, &to = call.tensors.to;
  const int channel = int(head) * call.width;
  rows.from[half] = call.tensors.qkv + b * in.batch + frame * in.frame + s * in.pixel + channel;
  rows.to[half] = call.tensors.out + b * to.batch + frame * to.frame + s * to.pixel + channel;
  rows.head[half] = int(head);
  rows.frame[half] = frame;
  rows.count[half] = larger(smaller(call.frames - frame, 8), 0);
}

// Frames first .. first + 15 of a sequence.
template <typename T>
EDGEREEL_LANE Rows<T> tile_rows(const Call<T>& call, std::uint32_t sequence, int first) {
  const std::uint32_t pixel = quotient(sequence, call.heads);
  const std::uint32_t head = sequence - pixel * call.heads.divisor;
  Rows<T> rows;
  set_half(call, pixel, head, first, 0, rows);
  set_half(call, pixel, head, first + 8, 1, rows);
  return rows;
}

// All frames, at most eight, of a sequence and of the one after it, if there is one.
template <typename T>
EDGEREEL_LANE Rows<T> pair_rows(const Call<T>& call, std::uint32_t sequence) {
  const std::uint32_t pixel = quotient(sequence, call.heads);
  const std::uint32_t head = sequence - pixel * call.heads.divisor;
  const bool over = head + 1 == call.heads.divisor;
  Rows<T> rows;
  set_half(call, pixel, head, 0, 0, rows);
  set_half(call, pixel + over, over ? 0 : head + 1, 0, 1, rows);
  if (sequence + 1 == call.sequences) rows.count[1] = 0;
  return rows;
}

// Cosines and sines of the pairs of a chunk; a channel that is not turned is turned by 0.
template <typename T>
struct Angles {
  float cos[kChunk<T> / 2], sin[kChunk<T> / 2];
};

EDGEREEL_LANE void read_some(const float* from, float (&to)[4]) { unpack(read16(from), to); }

EDGEREEL_LANE void read_some(const float* from, float (&to)[2]) {
  std::uint32_t words[2];
  read8(from, words);
  to[0] = number(words[0]);
  to[1] = number(words[1]);
}

template <typename T>
EDGEREEL_LANE Angles<T> angles(const Call<T>& call, int frame, int chunk) {
  constexpr int kPairs = kChunk<T> / 2;
  const int first = chunk * kPairs, at = frame * call.pairs + first;
  Angles<T> result;
  if (call.wide) {
    read_some(call.tensors.cos + at, result.cos);
    read_some(call.tensors.sin + at, result.sin);
  } else {
    EDGEREEL_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const bool there = first + i < call.pairs;
      result.cos[i] = there ? call.tensors.cos[at + i] : 1.0f;
      result.sin[i] = there ? call.tensors.sin[at + i] : 0.0f;
    }
  }
  return result;
}

EDGEREEL_LANE void turn(float& a, float& b, float cos, float sin) {
  const float first = a * cos - b * sin;
  b = b * cos + a * sin;
  a = first;
}

template <typename T, bool kHalves>
EDGEREEL_LANE void turn(Chunk& x, const Angles<T>& by) {
  constexpr int kPairs = kChunk<T> / 2;
  float v[kChunk<T>];
  unpack(x, v);
  EDGEREEL_UNROLL
  for (int i = 0; i < kPairs; ++i)
    turn(v[kHalves ? i : 2 * i], v[kHalves ? kPairs + i : 2 * i + 1], by.cos[i], by.sin[i]);
  x = packed(v);
}

// One lane's part of a warp that computes sixteen rows of a head of at most kSteps * 64 bytes.
// kHalves: pairs that turn together lie half a head apart.
template <typename T, int kSteps, bool kHalves>
struct Lane {
  static constexpr int kGroups = (kSteps + 1) / 2;  // of 128 bytes
  static constexpr int kWide = kChunk<T>;
  // All that is read of one tile is on its way at once, as far as registers go.
  static constexpr bool kValuesFirst = kSteps < (sizeof(T) == 2 ? 6 : 5);

  const Call<T>& call;
  int g, t, chunks;

  EDGEREEL_LANE Lane(const Call<T>& call, int lane)
      : call(call), g(lane / 4), t(lane % 4), chunks(call.width / kWide) {}

  // Row g of a half: queries (part 0) or keys (1) of this lane's chunk of a step. Which channels a
  // chunk has does not matter to a sum over all of them: pairs that turn together lie in one.
  EDGEREEL_LANE Chunk turned_chunk(const Rows<T>& rows, int half, int part, int step) const {
    Chunk x = {{0, 0, 0, 0}};
    const int chunk = step * 4 + t;
    if (g < rows.count[half] && chunk < chunks) {
      const T* from = rows.from[half] + g * call.tensors.in.frame + part * call.part;
      if constexpr (kHalves) {
        read8(from + chunk * (kWide / 2), x.word);
        read8(from + call.width / 2 + chunk * (kWide / 2), x.word + 2);
      } else {
        x = read16(from + chunk * kWide);
      }
    }
    return x;
  }

  // Turns what `turned_chunk` gave.
  template <typename... Chunks>
  EDGEREEL_LANE void turn_chunks(const Rows<T>& rows, int half, int step, Chunks&... x) const {
    const int chunk = step * 4 + t;
    if (chunk * (kWide / 2) < call.pairs && g < rows.count[half]) {
      const Angles<T> by = angles(call, rows.frame[half] + g, chunk);
      (turn<T, kHalves>(x, by), ...);
    }
  }

  // Scores of 16 rows and 8 keys, summed over the channels of a step.
  EDGEREEL_LANE void add_scores(const Chunk (&q)[2], const Chunk& k, float (&sum)[4]) const {
    float part[4] = {0, 0, 0, 0};  // tensor cores round sums towards zero, so floats add few there
    constexpr bool kApart = sizeof(T) == sizeof(float);
    EDGEREEL_UNROLL
    for (int i = 0; i < 4; i += 2) {
      const std::uint32_t a[4] = {q[0].word[i], q[1].word[i], q[0].word[i + 1], q[1].word[i + 1]};
      const std::uint32_t b[2] = {k.word[i], k.word[i + 1]};
      multiply(kApart ? part : sum, a, b, T());
    }
    EDGEREEL_UNROLL
    for (int i = 0; kApart && i < 4; ++i) sum[i] += part[i];
  }

  // s[key half][row half * 2 + key]: scaled, with bias, as powers of two; -infinity where there is
  // no such key. Keys of the other sequence of a pair are none.
  EDGEREEL_LANE void finish_scores(const Rows<T>& queries, const Rows<T>& keys, bool pair,
                                   float (&s)[2][4]) const {
    EDGEREEL_UNROLL
    for (int n = 0; n < 2; ++n) {
      EDGEREEL_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int m = i / 2, key = 2 * t + i % 2;
        const bool there = key < keys.count[n] && !(pair && m != n);
        float score = s[n][i] * call.scale;
        if (there && call.tensors.bias != nullptr && g < queries.count[m]) {
          const int row = queries.head[m] * call.frames + queries.frame[m] + g;
          score += kLog2E * call.tensors.bias[row * call.frames + keys.frame[n] + key];
        }
        s[n][i] = there ? score : -infinity();
      }
    }
  }

  // The largest score of row g of a half, at least `least`.
  EDGEREEL_LANE static float most(const float (&s)[2][4], int m, float least) {
    float value =
        larger(larger(s[0][2 * m], s[0][2 * m + 1]), larger(s[1][2 * m], s[1][2 * m + 1]));
    value = larger(value, least);
    value = larger(value, from_quad(value, 1));
    return larger(value, from_quad(value, 2));
  }

  // Scores of row g of a half become weights; their sum over this lane's keys.
  EDGEREEL_LANE static float weigh(float (&s)[2][4], int m, float largest) {
    const float zero = largest == -infinity() ? 0.0f : largest;
    float sum = 0;
    EDGEREEL_UNROLL
    for (int n = 0; n < 2; ++n) {
      EDGEREEL_UNROLL
      for (int i = 2 * m; i < 2 * m + 2; ++i) sum += s[n][i] = power_of_two(s[n][i] - zero);
    }
    return sum;
  }

  EDGEREEL_LANE static float over_quad(float sum) {
    sum += from_quad(sum, 1);
    return sum + from_quad(sum, 2);
  }

  // Values of chunk g of a group: rows 2t and 2t + 1 of both halves.
  EDGEREEL_LANE void read_values(const Rows<T>& rows, int group, Chunk (&v)[2][2]) const {
    const int chunk = group * 8 + g;
    EDGEREEL_UNROLL
    for (int n = 0; n < 2; ++n) {
      EDGEREEL_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int row = 2 * t + i;
        v[n][i] = {{0, 0, 0, 0}};
        if (row < rows.count[n] && chunk < chunks)
          v[n][i] =
              read16(rows.from[n] + row * call.tensors.in.frame + 2 * call.part + chunk * kWide);
      }
    }
  }

  // Weights times channel j of all eight chunks of a group.
  EDGEREEL_LANE static void mix(const float (&s)[2][4], const Chunk (&v)[2][2], int j,
                                float (&sum)[4], Half) {
    const std::uint32_t a[4] = {pack(s[0][0], s[0][1]), pack(s[0][2], s[0][3]),
                                pack(s[1][0], s[1][1]), pack(s[1][2], s[1][3])};
    const std::uint32_t b[2] = {zip(v[0][0].word[j / 2], v[0][1].word[j / 2], j % 2),
                                zip(v[1][0].word[j / 2], v[1][1].word[j / 2], j % 2)};
    multiply(sum, a, b, Half());
  }

  EDGEREEL_LANE static void mix(const float (&s)[2][4], const Chunk (&v)[2][2], int j,
                                float (&sum)[4], float) {
    EDGEREEL_UNROLL
    for (int n = 0; n < 2; ++n) {
      const std::uint32_t a[4] = {bits(s[n][0]), bits(s[n][2]), bits(s[n][1]), bits(s[n][3])};
      const std::uint32_t b[2] = {v[n][0].word[j], v[n][1].word[j]};
      multiply(sum, a, b, float());
    }
  }

  // Row g of both halves, chunks 2t and 2t + 1 of a group, from sum[channel of a chunk][...].
  EDGEREEL_LANE void write(const Rows<T>& rows, int group, const float (&sum)[kWide][4]) const {
    EDGEREEL_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int m = i / 2, chunk = group * 8 + 2 * t + i % 2;
      float row[kWide];
      EDGEREEL_UNROLL
      for (int j = 0; j < kWide; ++j) row[j] = sum[j][i];
      if (g < rows.count[m] && chunk < chunks)
        write16(packed(row), rows.to[m] + g * call.tensors.to.frame + chunk * kWide);
    }
  }
};

}  // namespace edgereel::gpu
