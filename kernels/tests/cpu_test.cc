// The inner loops at every level of vector units that this machine has, against double precision.
//
// Threads work on parts of one tensor, as in the runtime, and outputs start as NaN, so a value that
// is not written or written twice shows, here or under a sanitizer.
#include "../src/cpu.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <thread>
#include <type_traits>
#include <vector>

#include "../src/half.hpp"

namespace {

using edgereel::TemporalAttentionShape;
using edgereel::cpu::Level;

int failures = 0;
std::mt19937 generator(1);

void check(bool right, const char* level, const char* what, double error) {
  if (right) return;
  std::printf("%s: %s: error %g\n", level, what, error);
  ++failures;
}

std::vector<float> normal(std::size_t count) {
  std::normal_distribution<float> draw;
  std::vector<float> values(count);
  for (float& value : values) value = draw(generator);
  return values;
}

template <typename T>
std::vector<T> typed(const std::vector<float>& values) {
  std::vector<T> result(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) edgereel::store(values[i], &result[i]);
  return result;
}

// One output vector [d] of the formula in temporal_attention.hpp.
std::vector<double> attended(const TemporalAttentionShape& shape, const std::vector<double>& x,
                             const float* cos, const float* sin, const float* bias, std::int64_t b,
                             std::int64_t s, std::int64_t h, std::int64_t f) {
  const std::int64_t F = shape.frames, D = shape.width, C = shape.heads * D, r = shape.turned;
  const auto part = [&](std::int64_t frame, std::int64_t which) {
    const double* from =
        &x[std::size_t(((b * F + frame) * shape.pixels + s) * 3 * C + which * C + h * D)];
    std::vector<double> row(from, from + D);
    for (std::int64_t i = 0; which < 2 && i < r / 2; ++i) {
      const std::int64_t one = shape.interleaved ? 2 * i : i;
      const std::int64_t two = shape.interleaved ? 2 * i + 1 : i + r / 2;
      const double c = cos[frame * r / 2 + i], sine = sin[frame * r / 2 + i];
      row[std::size_t(one)] = from[one] * c - from[two] * sine;
      row[std::size_t(two)] = from[two] * c + from[one] * sine;
    }
    return row;
  };
  const std::vector<double> q = part(f, 0);
  std::vector<double> weights(shape.frames, 0.0), out(shape.width, 0.0);
  double most = -std::numeric_limits<double>::infinity(), sum = 0;
  for (std::int64_t g = 0; g < F; ++g) {
    const std::vector<double> k = part(g, 1);
    double score = bias ? bias[(h * F + f) * F + g] : 0.0;
    for (std::size_t d = 0; d < q.size(); ++d) score += double(shape.scale) * q[d] * k[d];
    weights[std::size_t(g)] = score;
    most = std::max(most, score);
  }
  for (double& weight : weights) sum += weight = std::exp(weight - most);
  for (std::int64_t g = 0; g < F; ++g) {
    const std::vector<double> v = part(g, 2);
    for (std::size_t d = 0; d < out.size(); ++d) out[d] += weights[std::size_t(g)] / sum * v[d];
  }
  return out;
}

template <typename T>
void attention(const Level& level, TemporalAttentionShape shape, bool biased, double bound) {
  const std::int64_t F = shape.frames, C = shape.heads * shape.width;
  const std::size_t count = std::size_t(shape.batch * F * shape.pixels * C);
  const std::vector<T> x = typed<T>(normal(3 * count));
  std::vector<double> exact(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) exact[i] = double(edgereel::load(x[i]));
  std::vector<float> cos = normal(std::size_t(F * shape.turned / 2)), sin = cos;
  for (float& angle : cos) angle = std::cos(angle);
  for (float& angle : sin) angle = std::sin(angle);
  const std::vector<float> bias = normal(std::size_t(shape.heads * F * F));
  const auto by_frame = [F](const std::vector<float>& table, std::int64_t batch, std::int64_t n) {
    std::vector<float> result(std::size_t(batch * n * edgereel::padded(F)));
    edgereel::by_frame(table.data(), batch, F, n, result.data());
    return result;
  };
  const std::vector<float> cosines = by_frame(cos, 1, shape.turned / 2);
  const std::vector<float> sines = by_frame(sin, 1, shape.turned / 2);
  const std::vector<float> biases = by_frame(bias, shape.heads, F);
  std::vector<T> out = typed<T>(std::vector<float>(count, std::nanf("")));
  std::vector<std::thread> threads;
  for (std::int64_t b = 0; b < shape.batch; ++b)
    for (std::int64_t half = 0; half < 2; ++half)
      threads.emplace_back([&, b, half] {
        std::vector<float> scratch(edgereel::temporal_attention_scratch(shape), std::nanf(""));
        const std::int64_t middle = shape.pixels / 2;
        const auto run = [&] {
          if constexpr (std::is_same_v<T, float>)
            return level.attention;
          else
            return level.attention_half;
        }();
        run(shape, x.data(), cosines.data(), sines.data(), biased ? biases.data() : nullptr,
            out.data(), b, half ? middle : 0, half ? shape.pixels : middle, scratch.data());
      });
  for (std::thread& thread : threads) thread.join();
  double worst = 0;
  for (std::int64_t b = 0; b < shape.batch; ++b)
    for (std::int64_t s = 0; s < shape.pixels; ++s)
      for (std::int64_t h = 0; h < shape.heads; ++h)
        for (std::int64_t f = 0; f < F; ++f) {
          const std::vector<double> expected = attended(shape, exact, cos.data(), sin.data(),
                                                        biased ? bias.data() : nullptr, b, s, h, f);
          for (std::int64_t d = 0; d < shape.width; ++d) {
            const T got =
                out[std::size_t(((b * F + f) * shape.pixels + s) * C + h * shape.width + d)];
            const double error = std::abs(double(edgereel::load(got)) - expected[std::size_t(d)]);
            worst = error <= worst ? worst : error;  // NaN counts as worst
          }
        }
  char what[100];
  std::snprintf(what, sizeof what, "attention of %d frames, %d pixels, %d x %d, r %d, %zu bytes",
                int(F), int(shape.pixels), int(shape.heads), int(shape.width), int(shape.turned),
                sizeof(T));
  check(worst <= bound, level.name, what, worst);
}

template <typename T>
void norm(const Level& level, std::int64_t channels, std::int64_t size, float mean, double bound) {
  std::vector<float> values = normal(std::size_t(channels * size));
  for (float& value : values) value = value * (mean > 10 ? 0.01f : 1.0f) + mean;
  const std::vector<T> x = typed<T>(values), scale = typed<T>(normal(std::size_t(channels))),
                       bias = typed<T>(normal(std::size_t(channels)));
  std::vector<T> out = typed<T>(std::vector<float>(x.size(), std::nanf("")));
  if constexpr (std::is_same_v<T, float>)
    level.norm(x.data(), scale.data(), bias.data(), out.data(), channels, size, 1e-5f);
  else
    level.norm_half(x.data(), scale.data(), bias.data(), out.data(), channels, size, 1e-5f);
  double average = 0, variance = 0, worst = 0;
  for (const T& value : x) average += double(edgereel::load(value)) / double(x.size());
  for (const T& value : x)
    variance += std::pow(double(edgereel::load(value)) - average, 2) / double(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t c = i / std::size_t(size);
    const double expected = (double(edgereel::load(x[i])) - average) /
                                std::sqrt(variance + double(1e-5f)) *
                                double(edgereel::load(scale[c])) +
                            double(edgereel::load(bias[c]));
    const double error = std::abs(double(edgereel::load(out[i])) - expected);
    worst = error <= worst ? worst : error;
  }
  char what[100];
  std::snprintf(what, sizeof what, "norm of %d x %d around %g, %zu bytes", int(channels), int(size),
                double(mean), sizeof(T));
  check(worst <= bound, level.name, what, worst);
}

// Every half is a float, and what lies between two halves rounds to the nearer, ties to even.
void halves() {
  for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const auto half = std::uint16_t(bits);
    const double value = double(edgereel::to_float(half)),
                 next =
                     bits == 0x7bff ? 65536.0 : double(edgereel::to_float(std::uint16_t(bits + 1)));
    const int exponent = int(bits >> 10);
    const double exact =
        exponent ? std::ldexp(1024 + int(bits & 1023), exponent - 25) : std::ldexp(int(bits), -24);
    check(value == exact, "half", "value", value - exact);
    const double middle = (value + next) / 2;
    const auto even = std::uint16_t(bits & 1 ? bits + 1 : bits);
    check(edgereel::to_half(float(value)) == half, "half", "own value", value);
    check(edgereel::to_half(float(middle)) == even, "half", "tie", middle);
    check(edgereel::to_half(std::nextafter(float(middle), 0.0f)) == half, "half", "below", middle);
    check(edgereel::to_half(-float(value)) == (half | 0x8000), "half", "negative", value);
  }
  check(edgereel::to_half(1e9f) == 0x7c00, "half", "infinity", 1e9);
  check(std::isnan(edgereel::to_float(edgereel::to_half(std::nanf("")))), "half", "NaN", 0);
}

void run(const Level& level) {
  const auto shape = [](std::int64_t b, std::int64_t f, std::int64_t s, std::int64_t h,
                        std::int64_t d, std::int64_t r, bool interleaved) {
    return TemporalAttentionShape{b, f, s, h, d, r, interleaved, 1 / std::sqrt(float(d))};
  };
  const TemporalAttentionShape shapes[] = {
      shape(1, 1, 1, 1, 1, 0, true),      shape(2, 16, 5, 2, 40, 32, true),
      shape(1, 17, 3, 3, 8, 8, false),    shape(1, 61, 2, 1, 80, 32, true),
      shape(1, 128, 2, 2, 16, 0, true),   shape(1, 7, 331, 2, 6, 4, true),
      shape(1, 31, 1, 2, 160, 160, false)};
  for (const TemporalAttentionShape& one : shapes)
    for (bool biased : {false, true}) {
      // sums of at most 160 products of normal numbers, each rounded to 2^-24 of its size
      attention<float>(level, one, biased, 1e-5);
      // the result is a mean of values below 5, rounded to 2^-11 of its size
      attention<std::uint16_t>(level, one, biased, 2.5e-3);
    }
  for (std::int64_t size : {1, 7, 1024, 4099}) {
    norm<float>(level, 3, size, 0.5f, 2e-5);
    // 1000 is rounded to 6e-5, which a deviation of 0.01 makes 6e-3
    norm<float>(level, 3, size, 1000.0f, 5e-2);
    norm<std::uint16_t>(level, 3, size, 0.5f, 1e-2);
  }
}

}  // namespace

int main() {
  halves();
  run(edgereel::cpu::kBase);
#ifdef EDGEREEL_X86_LEVELS
  if (__builtin_cpu_supports("x86-64-v3")) run(edgereel::cpu::kV3);
  if (__builtin_cpu_supports("x86-64-v4")) run(edgereel::cpu::kV4);
#endif
  std::printf("%s with %s, %d failures\n", failures ? "FAILED" : "passed",
              edgereel::cpu::best().name, failures);
  return failures != 0;
}
