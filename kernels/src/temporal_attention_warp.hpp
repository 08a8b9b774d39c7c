// The two ways in which a warp computes edgereel::TemporalAttention, as each of its lanes runs
// them.
#pragma once

#include "temporal_attention_lane.hpp"

namespace edgereel::gpu {

// At most 16 frames: one tile. `unit` is a sequence, or two of at most eight frames each.
template <typename T, int kSteps, bool kHalves>
EDGEREEL_LANE void attend_short(const Call<T>& call, std::uint32_t unit, int lane) {
  using L = Lane<T, kSteps, kHalves>;
  const L me(call, lane);
  const bool pair = call.frames <= 8;
  const std::uint32_t sequence = pair ? 2 * unit : unit;
  const Rows<T> rows = pair ? pair_rows(call, sequence) : tile_rows(call, sequence, 0);
  Chunk q[kSteps][2], k[kSteps][2], v[L::kGroups][2][2];
  EDGEREEL_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    EDGEREEL_UNROLL
    for (int half = 0; half < 2; ++half) {
      q[step][half] = me.turned_chunk(rows, half, 0, step);
      k[step][half] = me.turned_chunk(rows, half, 1, step);
    }
  }
  if constexpr (L::kValuesFirst) {
    EDGEREEL_UNROLL
    for (int group = 0; group < L::kGroups; ++group) me.read_values(rows, group, v[group]);
  }
  float s[2][4] = {};
  EDGEREEL_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    EDGEREEL_UNROLL
    for (int half = 0; half < 2; ++half)
      me.turn_chunks(rows, half, step, q[step][half], k[step][half]);
    EDGEREEL_UNROLL
    for (int n = 0; n < 2; ++n) me.add_scores(q[step], k[step][n], s[n]);
  }
  me.finish_scores(rows, rows, pair, s);
  EDGEREEL_UNROLL
  for (int m = 0; m < 2; ++m) {
    const float share = 1.0f / L::over_quad(L::weigh(s, m, L::most(s, m, -infinity())));
    EDGEREEL_UNROLL
    for (int n = 0; n < 2; ++n) {
      s[n][2 * m] *= share;
      s[n][2 * m + 1] *= share;
    }
  }
  EDGEREEL_UNROLL
  for (int group = 0; group < L::kGroups; ++group) {
    if constexpr (!L::kValuesFirst) me.read_values(rows, group, v[group]);
    float sum[L::kWide][4] = {};
    EDGEREEL_UNROLL
    for (int j = 0; j < L::kWide; ++j) L::mix(s, v[group], j, sum[j], T());
    me.write(rows, group, sum);
  }
}

// More frames: sixteen queries, and keys and values sixteen at a time. Of the scores so far a row
// keeps the largest, and all sums relative to it (arXiv:1805.02867).
template <typename T, int kSteps, bool kHalves>
EDGEREEL_LANE void attend_long(const Call<T>& call, std::uint32_t unit, int lane, Chunk* kept) {
  using L = Lane<T, kSteps, kHalves>;
  const L me(call, lane);
  const std::uint32_t sequence = quotient(unit, call.tiles);
  const Rows<T> queries = tile_rows(call, sequence, int(unit - sequence * call.tiles.divisor) * 16);
  EDGEREEL_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    EDGEREEL_UNROLL
    for (int half = 0; half < 2; ++half) {
      Chunk q = me.turned_chunk(queries, half, 0, step);
      me.turn_chunks(queries, half, step, q);
      kept[(step * 2 + half) * 32 + lane] = q;
    }
  }
  float out[L::kGroups][L::kWide][4] = {};
  float largest[2] = {-infinity(), -infinity()}, sum[2] = {0, 0};
  for (int first = 0; first < call.frames; first += 16) {
    const Rows<T> keys = tile_rows(call, sequence, first);
    float s[2][4] = {};
    EDGEREEL_UNROLL_SOME
    for (int step = 0; step < kSteps; ++step) {
      const Chunk q[2] = {kept[step * 64 + lane], kept[step * 64 + 32 + lane]};
      EDGEREEL_UNROLL
      for (int n = 0; n < 2; ++n) {
        Chunk k = me.turned_chunk(keys, n, 1, step);
        me.turn_chunks(keys, n, step, k);
        me.add_scores(q, k, s[n]);
      }
    }
    me.finish_scores(queries, keys, false, s);
    float keep[2];
    EDGEREEL_UNROLL
    for (int m = 0; m < 2; ++m) {
      const float now = L::most(s, m, largest[m]);
      keep[m] = now == -infinity() ? 0.0f : power_of_two(largest[m] - now);
      sum[m] = sum[m] * keep[m] + L::weigh(s, m, now);
      largest[m] = now;
    }
    EDGEREEL_UNROLL
    for (int group = 0; group < L::kGroups; ++group) {
      Chunk v[2][2];
      me.read_values(keys, group, v);
      EDGEREEL_UNROLL
      for (int j = 0; j < L::kWide; ++j) {
        float part[4] = {0, 0, 0, 0};
        L::mix(s, v, j, part, T());
        EDGEREEL_UNROLL
        for (int i = 0; i < 4; ++i) out[group][j][i] = out[group][j][i] * keep[i / 2] + part[i];
      }
    }
  }
  const float share[2] = {1.0f / L::over_quad(sum[0]), 1.0f / L::over_quad(sum[1])};
  EDGEREEL_UNROLL
  for (int group = 0; group < L::kGroups; ++group) {
    EDGEREEL_UNROLL
    for (int j = 0; j < L::kWide; ++j) {
      EDGEREEL_UNROLL
      for (int i = 0; i < 4; ++i) out[group][j][i] *= share[i / 2];
    }
    me.write(queries, group, out[group]);
  }
}

}  // namespace edgereel::gpu
