#include "levels.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "files.hpp"

namespace edgereel_runtime {
namespace {

constexpr double kAlphaFloor = 1.0 / (1 << 24);  // what 0 counts as, to interpolate; levels.py

[[noreturn]] void damaged(const std::string& what) {
  throw std::runtime_error(what + ", which is no .npy file of float64");
}

// What stands behind a key of the header, a Python dict written by numpy.
std::string field(const std::string& header, const std::string& key) {
  const std::size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) damaged("it has no " + key);
  const std::size_t start = header.find_first_not_of(' ', at + key.size() + 3);
  return start == std::string::npos ? "" : header.substr(start);
}

void check_table(const Levels& table) {
  bool good = !table.empty() && table.front() < 1 && table.back() >= 0;
  for (std::size_t i = 1; i < table.size(); ++i) good = good && table[i] - table[i - 1] < 0;
  if (good) return;
  throw std::runtime_error(
      "The alphas_cumprod table of shape (" + std::to_string(table.size()) +
      ",) is not a noise schedule. It must be one-dimensional, strictly decreasing, below 1 and "
      "never negative. Export it again.");
}

}  // namespace

Levels read_levels(const std::string& path) {
  const std::string file = read_file(path);
  if (file.size() < 12 || !starts_with(file, "\x93NUMPY")) damaged("it begins otherwise");
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(file[i]); };
  const std::size_t wide = byte(6) == 1 ? 2 : 4;
  std::size_t length = 0;
  for (std::size_t i = 0; i < wide; ++i) length |= std::size_t(byte(8 + i)) << (8 * i);
  const std::size_t start = 8 + wide + length;
  if (start > file.size()) damaged("its header is cut");
  const std::string header = file.substr(8 + wide, length);
  if (!starts_with(field(header, "descr"), "'<f8'")) damaged("it has another type");
  const std::string shape = field(header, "shape");
  if (shape.empty() || shape[0] != '(' || shape.find(",)") != shape.find(',')) {
    damaged("it has another shape");
  }
  std::size_t count = 0;
  for (std::size_t i = 1; i < shape.size() && shape[i] >= '0' && shape[i] <= '9'; ++i) {
    if (count > file.size()) break;
    count = count * 10 + static_cast<std::size_t>(shape[i] - '0');
  }
  if (count > (file.size() - start) / sizeof(double)) damaged("it is cut");
  Levels table(count);
  if (count > 0) std::memcpy(table.data(), &file[start], count * sizeof(double));
  check_table(table);
  return table;
}

Levels levels_at(const Levels& table, const std::vector<double>& timesteps) {
  const double last = static_cast<double>(table.size() - 1);
  const auto [low, high] = std::minmax_element(timesteps.begin(), timesteps.end());
  if (!(*low >= 0 && *high <= last)) {
    throw std::invalid_argument("Timesteps " + text(*low) + " to " + text(*high) +
                                " leave the schedule. Each must be between 0 and " +
                                std::to_string(table.size() - 1) + ". Change the timesteps.");
  }
  const auto sigma_ve = [&](std::size_t i) {
    const double level = table[i] == 0 ? kAlphaFloor : table[i];
    return std::sqrt((1 - level) / level);
  };
  Levels levels;
  for (double t : timesteps) {
    const std::size_t below = static_cast<std::size_t>(std::floor(t));
    const std::size_t above = std::min(below + 1, table.size() - 1);
    const double mixed =
        sigma_ve(below) + (t - static_cast<double>(below)) * (sigma_ve(above) - sigma_ve(below));
    levels.push_back(t == static_cast<double>(below) ? table[below] : 1 / (1 + mixed * mixed));
  }
  return levels;
}

std::pair<double, double> renoise_coefficients(const Levels& table,
                                               const std::optional<Scalar>& from,
                                               const Scalar& to) {
  const double start = from ? levels_at(table, {as_double(*from)})[0] : 1.0;
  const double end = levels_at(table, {as_double(to)})[0];
  if (start == 0 || (from && less(to, *from))) {
    throw std::invalid_argument(
        "Cannot add noise from timestep " + (from ? text(*from) : "None") + " to " + text(to) +
        ". The second must not be lower, and the first must not be pure noise. Swap or change the "
        "two timesteps.");
  }
  const double ratio = end / start;
  return {power(ratio, 0.5), power(1 - ratio, 0.5)};
}

double power(double x, double y) {
  const volatile double exponent = y;
  return std::pow(x, exponent);
}

}  // namespace edgereel_runtime
