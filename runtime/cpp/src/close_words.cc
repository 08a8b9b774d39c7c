#include "close_words.hpp"

#include <algorithm>

namespace edgereel_runtime {
namespace {

constexpr double kCutoff = 0.6;

// A part of two texts: the first bytes, and behind the last.
struct Piece {
  std::size_t a_start, a_stop, b_start, b_stop;
};

// The length of what two pieces have in common, by Ratcliff and Obershelp: the longest block (of
// several the first), and then the same on both sides of it.
std::size_t common(const std::string& a, const std::string& b, const Piece& piece) {
  std::size_t best_a = 0, best_b = 0, best = 0;
  for (std::size_t i = piece.a_start; i < piece.a_stop; ++i) {
    for (std::size_t j = piece.b_start; j < piece.b_stop; ++j) {
      std::size_t size = 0;
      while (i + size < piece.a_stop && j + size < piece.b_stop && a[i + size] == b[j + size]) {
        ++size;
      }
      if (size > best) best_a = i, best_b = j, best = size;
    }
  }
  if (best == 0) return 0;
  return best + common(a, b, {piece.a_start, best_a, piece.b_start, best_b}) +
         common(a, b, {best_a + best, piece.a_stop, best_b + best, piece.b_stop});
}

}  // namespace

std::optional<std::string> closest(const std::string& word, const std::vector<std::string>& words) {
  if (word.size() > 200) return std::nullopt;  // names are not that long
  std::optional<std::pair<double, std::string>> best;
  for (const std::string& other : words) {
    const std::size_t all = word.size() + other.size();
    const std::size_t same = common(other, word, {0, other.size(), 0, word.size()});
    const double ratio = all == 0 ? 1 : 2.0 * static_cast<double>(same) / static_cast<double>(all);
    const std::pair<double, std::string> found(ratio, other);
    if (ratio >= kCutoff && (!best || found > *best)) best = found;
  }
  if (!best) return std::nullopt;
  return best->second;
}

}  // namespace edgereel_runtime
