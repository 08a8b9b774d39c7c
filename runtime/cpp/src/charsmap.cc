#include "charsmap.hpp"

#include <cstdint>
#include <memory>
#include <optional>

#include "clusters.hpp"

namespace edgereel_runtime {
namespace {

[[noreturn]] void damaged() { throw JsonError("its precompiled_charsmap is damaged"); }

std::string from_base64(const std::string& digits) {
  static const std::string kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  std::uint32_t bits = 0;
  if (digits.size() % 4 != 0) damaged();
  const std::size_t end = digits.find_last_not_of('=') + 1;
  if (digits.size() - end > 2) damaged();
  for (std::size_t i = 0; i < end; ++i) {
    const std::size_t digit = kDigits.find(digits[i]);
    if (digit == std::string::npos) damaged();
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    if (i % 4 != 0) bytes += static_cast<char>(bits >> (6 - i % 4 * 2) & 255);
  }
  return bytes;
}

// A double-array trie (Aoe 1989) in the form of darts-clone: a node for each prefix of a text. Its
// 32 bits are the last byte of the prefix, from bit 8 whether a text ends here, and the distance
// to its children, by exclusive or; a distance with bit 9 is shifted by 8 more.
class Charsmap {
 public:
  explicit Charsmap(const std::string& bytes) {
    if (bytes.size() < 4) damaged();
    const std::size_t size = word(bytes, 0);
    if (size > bytes.size() - 4 || size < 4) damaged();
    for (std::size_t at = 4; at + 4 <= 4 + size; at += 4) nodes_.push_back(word(bytes, at));
    texts_ = bytes.substr(4 + size);
    for (std::size_t at = 0; at < texts_.size();) {
      if (next_code_point(texts_, at) < 0) damaged();
    }
  }

  Text normalized(const Text& text) const {
    Text out;
    for (const Text& cluster : clusters(text)) {
      const std::string bytes = to_utf8(cluster);
      const std::optional<Text> whole = bytes.size() < kLongest ? instead(bytes) : std::nullopt;
      if (whole) {
        out += *whole;
        continue;
      }
      for (char32_t c : cluster) out += instead(to_utf8(Text(1, c))).value_or(Text(1, c));
    }
    return out;
  }

 private:
  // Clusters of so many bytes are taken character by character.
  static constexpr std::size_t kLongest = 6;

  static std::uint32_t word(const std::string& bytes, std::size_t at) {
    std::uint32_t all = 0;
    for (std::size_t i = 4; i-- > 0;) all = all << 8 | static_cast<std::uint8_t>(bytes[at + i]);
    return all;
  }

  static std::uint32_t distance(std::uint32_t node) {
    return node >> 10 << ((node & 1u << 9) >> 6);
  }

  // What stands for the shortest text that `bytes` begin with; none without one. What is behind
  // that text is lost, as it is in `tokenizers`.
  std::optional<Text> instead(const std::string& bytes) const {
    std::size_t at = distance(nodes_[0]);
    for (char c : bytes) {
      const auto byte = static_cast<std::uint8_t>(c);
      at ^= byte;
      if (byte == 0 || at >= nodes_.size()) return std::nullopt;
      const std::uint32_t node = nodes_[at];
      if ((node & (1u << 31 | 255u)) != byte) return std::nullopt;
      at ^= distance(node);
      if (at >= nodes_.size()) return std::nullopt;
      if (node & 1u << 8) return text_at(nodes_[at] & ~(1u << 31));
    }
    return std::nullopt;
  }

  std::optional<Text> text_at(std::size_t start) const {
    if (start > texts_.size()) return std::nullopt;
    const std::string text = texts_.substr(start, texts_.find('\0', start) - start);
    for (std::size_t at = 0; at < text.size();) {  // `start` may be inside a character
      if (next_code_point(text, at) < 0) return std::nullopt;
    }
    return from_utf8(text);
  }

  std::vector<std::uint32_t> nodes_;
  std::string texts_;  // each ends with a zero byte
};

}  // namespace

Normalizer read_charsmap(const std::string& base64) {
  const auto map = std::make_shared<const Charsmap>(from_base64(base64));
  return [map](const Text& text) { return map->normalized(text); };
}

}  // namespace edgereel_runtime
