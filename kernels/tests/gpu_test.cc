// The kernel for GPUs as it is written, on a CPU, against double precision.
//
// Inputs and output lie in memory of their exact sizes, with rows of other tensors between theirs;
// outputs and what lies between start as NaN.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include "../src/temporal_attention_warp.hpp"
#include "warp.hpp"

namespace {

using edgereel::TemporalAttentionShape;
using edgereel::gpu::Call;
using edgereel::gpu::Chunk;
using edgereel::gpu::Half;

int failures = 0;
std::mt19937 generator(1);

std::vector<float> normal(std::size_t count) {
  std::normal_distribution<float> draw;
  std::vector<float> values(count);
  for (float& value : values) value = draw(generator);
  return values;
}

// A tensor [B, F, S, n] with distances: `pad` elements after each frame and each row, all NaN.
template <typename T>
struct Spaced {
  Spaced(const TemporalAttentionShape& shape, std::int64_t n, std::int64_t pad)
      : pixel(n), frame(shape.pixels * n + pad), batch(shape.frames * frame + pad) {
    count = std::size_t((shape.batch - 1) * batch + (shape.frames - 1) * frame + shape.pixels * n);
    data.reset(static_cast<T*>(std::aligned_alloc(16, count * sizeof(T))));
    for (std::size_t i = 0; i < count; ++i) edgereel::store(std::nanf(""), &data.get()[i]);
  }
  T* at(std::int64_t b, std::int64_t f, std::int64_t s) const {
    return data.get() + b * batch + f * frame + s * pixel;
  }
  struct Free {
    void operator()(T* pointer) const { std::free(pointer); }
  };
  std::int64_t pixel, frame, batch;
  std::size_t count;
  std::unique_ptr<T, Free> data;
};

// out[f] of one pixel and head, in double precision.
template <typename T>
std::vector<double> attended(const TemporalAttentionShape& shape, const Spaced<T>& qkv,
                             const edgereel::gpu::Tensors<T>& call, std::int64_t b, std::int64_t s,
                             std::int64_t h, std::int64_t f) {
  const std::int64_t F = shape.frames, D = shape.width, C = shape.heads * D, r = shape.turned;
  const auto part = [&](std::int64_t frame, std::int64_t which) {
    const T* from = qkv.at(b, frame, s) + which * C + h * D;
    std::vector<double> row(std::size_t(D), 0.0);
    for (std::int64_t d = 0; d < D; ++d) row[std::size_t(d)] = double(edgereel::load(from[d]));
    for (std::int64_t i = 0; which < 2 && i < r / 2; ++i) {
      double& one = row[std::size_t(shape.interleaved ? 2 * i : i)];
      double& two = row[std::size_t(shape.interleaved ? 2 * i + 1 : i + r / 2)];
      const double c = call.cos[frame * r / 2 + i], sine = call.sin[frame * r / 2 + i], a = one;
      one = a * c - two * sine;
      two = two * c + a * sine;
    }
    return row;
  };
  const std::vector<double> q = part(f, 0);
  std::vector<double> weights(std::size_t(F), 0.0), out(std::size_t(D), 0.0);
  double most = -std::numeric_limits<double>::infinity(), sum = 0;
  for (std::int64_t key = 0; key < F; ++key) {
    const std::vector<double> k = part(key, 1);
    double score = call.bias ? call.bias[(h * F + f) * F + key] : 0.0;
    for (std::size_t d = 0; d < q.size(); ++d) score += double(shape.scale) * q[d] * k[d];
    weights[std::size_t(key)] = score;
    most = std::max(most, score);
  }
  for (double& weight : weights) sum += weight = std::exp(weight - most);
  for (std::int64_t key = 0; key < F; ++key) {
    const std::vector<double> v = part(key, 2);
    for (std::size_t d = 0; d < out.size(); ++d) out[d] += weights[std::size_t(key)] / sum * v[d];
  }
  return out;
}

// All warps of a launch, and one more, which has nothing to do.
template <typename T, int kSteps, bool kHalves>
void launch(Warp& warp, const Call<T>& call) {
  for (std::uint32_t unit = 0; unit < edgereel::gpu::warps_of(call); ++unit) {
    std::vector<Chunk> kept(std::size_t(kSteps * 64), {{~0u, ~0u, ~0u, ~0u}});
    warp.run([&](int lane) {
      if (call.frames <= 16)
        edgereel::gpu::attend_short<T, kSteps, kHalves>(call, unit, lane);
      else
        edgereel::gpu::attend_long<T, kSteps, kHalves>(call, unit, lane, kept.data());
    });
  }
}

template <typename T, bool kHalves>
void dispatch(Warp& warp, const Call<T>& call) {
  const int steps = (call.width * int(sizeof(T)) + 63) / 64;
  if (std::is_same_v<T, Half> && steps <= 1) return launch<T, 1, kHalves>(warp, call);
  if (steps <= 2) return launch<T, 2, kHalves>(warp, call);
  if (steps <= 3) return launch<T, 3, kHalves>(warp, call);
  if (steps <= 5) return launch<T, 5, kHalves>(warp, call);
  launch<T, 10, kHalves>(warp, call);
}

template <typename T>
void attention(Warp& warp, const TemporalAttentionShape& shape, const std::vector<float>& bias,
               double bound) {
  const std::int64_t F = shape.frames, C = shape.heads * shape.width;
  Spaced<T> qkv(shape, 3 * C, 16), out(shape, C, 8);
  std::vector<float> cos = normal(std::size_t(F * shape.turned / 2)), sin = cos;
  for (float& angle : cos) angle = std::cos(angle);
  for (float& angle : sin) angle = std::sin(angle);
  for (std::int64_t b = 0; b < shape.batch; ++b)
    for (std::int64_t f = 0; f < F; ++f)
      for (std::int64_t s = 0; s < shape.pixels; ++s) {
        const std::vector<float> row = normal(std::size_t(3 * C));
        for (std::size_t i = 0; i < row.size(); ++i) edgereel::store(row[i], qkv.at(b, f, s) + i);
      }
  edgereel::gpu::Tensors<T> tensors = {};
  tensors.qkv = qkv.data.get();
  tensors.cos = shape.turned ? cos.data() : nullptr;
  tensors.sin = shape.turned ? sin.data() : nullptr;
  tensors.bias = bias.empty() ? nullptr : bias.data();
  tensors.out = out.data.get();
  tensors.in = {qkv.batch, qkv.frame, qkv.pixel};
  tensors.to = {out.batch, out.frame, out.pixel};
  const Call<T> call = make_call(shape, tensors);
  if (!fits(shape, tensors) || !aligned(tensors)) std::abort();
  if (shape.turned && !shape.interleaved)
    dispatch<T, true>(warp, call);
  else
    dispatch<T, false>(warp, call);
  double worst = 0;
  std::size_t written = 0;
  for (std::size_t i = 0; i < out.count; ++i)
    written += !std::isnan(edgereel::load(out.data.get()[i]));
  for (std::int64_t b = 0; b < shape.batch; ++b)
    for (std::int64_t s = 0; s < shape.pixels; ++s)
      for (std::int64_t h = 0; h < shape.heads; ++h)
        for (std::int64_t f = 0; f < F; ++f) {
          const std::vector<double> expected = attended(shape, qkv, tensors, b, s, h, f);
          for (std::int64_t d = 0; d < shape.width; ++d) {
            const double found = double(edgereel::load(out.at(b, f, s)[h * shape.width + d]));
            const double error = std::abs(found - expected[std::size_t(d)]);
            worst = error <= worst ? worst : error;  // NaN counts as worst
          }
        }
  const bool between = written != std::size_t(shape.batch * F * shape.pixels * C);
  if (worst <= bound && !between) return;
  ++failures;
  std::printf("%d frames, %d pixels, %d x %d, r %d %s, bias %d, %zu bytes: error %g%s\n", int(F),
              int(shape.pixels), int(shape.heads), int(shape.width), int(shape.turned),
              shape.interleaved ? "interleaved" : "halves", !bias.empty(), sizeof(T), worst,
              between ? ", and wrote between the rows" : "");
}

void both(Warp& warp, const TemporalAttentionShape& shape, const std::vector<float>& bias) {
  // sums of at most 160 products of normal numbers, each rounded to 2^-22 of its size
  attention<float>(warp, shape, bias, 1e-5);
  // turned queries and keys, weights and results are rounded to 2^-12 of their size
  attention<Half>(warp, shape, bias, 2.5e-3);
}

// One row of odd numbers of pixels, two of even ones.
TemporalAttentionShape shape(std::int64_t f, std::int64_t s, std::int64_t h, std::int64_t d,
                             std::int64_t r, bool interleaved) {
  return {s % 2 ? 1 : 2, f, s, h, d, r, interleaved, 1 / std::sqrt(float(d))};
}

// Every head size in both kernels; then frames that are one, prime, or one past half a tile or a
// tile, with as many heads and pixels as leave the second half of a warp without work.
void shapes(Warp& warp) {
  for (std::int64_t d = 8; d <= 160; d += 8) {
    const auto r = d % 16 ? d / 4 * 2 : d;  // pairs that end inside a chunk, or with the head
    both(warp, shape(7, 1, 1, d, r, true), {});
    both(warp, shape(11, 1, 1, d, d, false), normal(11 * 11));
    both(warp, shape(17, 1, 1, d, r, true), normal(17 * 17));
    both(warp, shape(17, 1, 1, d, d, false), {});
  }
  for (std::int64_t f : {1, 2, 8, 9, 13, 16, 31, 33}) {
    both(warp, shape(f, 3, 3, 40, 0, true), {});
    both(warp, shape(f, 1, 3, 8, 6, true), normal(std::size_t(3 * f * f)));
  }
  both(warp, shape(5, 2, 3, 24, 24, false), normal(3 * 5 * 5));
  both(warp, shape(14, 2, 3, 24, 24, true), {});
  both(warp, shape(61, 1, 2, 40, 32, true), normal(2 * 61 * 61));
  both(warp, shape(76, 1, 1, 160, 32, true), normal(76 * 76));
  both(warp, shape(128, 2, 1, 16, 16, false), {});
}

// A bias that hides keys: whole tiles of them, and the tile that is read first.
void hidden(Warp& warp) {
  for (std::int64_t f : {6, 12, 50}) {
    std::vector<float> bias(std::size_t(2 * f * f), 0.0f);
    for (std::int64_t i = 0; i < 2 * f * f; ++i)
      if (i % f < i / f % f) bias[std::size_t(i)] = -HUGE_VALF;
    both(warp, shape(f, 1, 2, 24, 0, true), bias);
  }
}

void limits() {
  const auto refused = [](std::int64_t frames, std::int64_t width, const char* told) {
    const auto text = edgereel::gpu::unsupported(shape(frames, 1, 1, width, 0, true));
    if ((*told == 0) == text.empty() && text.find(told) != std::string::npos) return;
    std::printf("%d frames of %d channels: '%s', expected '%s'\n", int(frames), int(width),
                text.c_str(), told);
    ++failures;
  };
  refused(128, 160, "");
  refused(-1, -1, "");
  refused(129, 40, "129 frames; the kernel for GPUs takes 1 to 128");
  refused(0, 40, "0 frames");
  refused(16, 36, "heads of 36 channels");
  refused(16, 168, "heads of 168 channels");
}

}  // namespace

int main() {
  Warp warp;
  limits();
  shapes(warp);
  hidden(warp);
  std::printf("%s, %d failures\n", failures ? "FAILED" : "passed", failures);
  return failures != 0;
}
