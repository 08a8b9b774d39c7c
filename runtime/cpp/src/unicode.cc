#include "unicode.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <unordered_map>

#include "words.hpp"

namespace edgereel_runtime {
namespace {

struct ClassRange {
  std::uint32_t first, last;
  unsigned classes;
};

struct LowerRange {
  std::uint32_t first, last, step;
  std::int32_t added;
};

struct Decomposition {
  std::uint32_t whole, first, second;
  bool composed;
};

struct CombiningRange {
  std::uint32_t first, last;
  unsigned order;
};

#include "unicode_tables.inc"

// The range of a sorted table that holds a character, or nullptr.
template <typename Range, std::size_t N>
const Range* range_of(const Range (&table)[N], std::uint32_t c) {
  const auto behind = std::upper_bound(std::begin(table), std::end(table), c,
                                       [](std::uint32_t x, const Range& r) { return x < r.first; });
  if (behind == std::begin(table)) return nullptr;
  const Range* range = std::prev(behind);
  return c <= range->last ? range : nullptr;
}

unsigned combining(char32_t c) {
  const CombiningRange* range = range_of(kCombining, c);
  return range != nullptr ? range->order : 0;
}

// Hangul syllables, by the formula of the Unicode standard, section 3.12.
constexpr char32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTrail = 0x11A7;
constexpr std::uint32_t kVowels = 21, kTrails = 28, kSyllables = 11172;

void append_decomposed(Text& out, char32_t c) {
  if (c >= kSyllable && c < kSyllable + kSyllables) {
    const std::uint32_t index = c - kSyllable;
    out += kLead + index / (kVowels * kTrails);
    out += kVowel + index / kTrails % kVowels;
    if (index % kTrails != 0) out += kTrail + index % kTrails;
    return;
  }
  const auto found =
      std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), c,
                       [](const Decomposition& d, std::uint32_t x) { return d.whole < x; });
  if (found == std::end(kDecompositions) || found->whole != c) {
    out += c;
    return;
  }
  append_decomposed(out, found->first);
  if (found->second != 0) append_decomposed(out, found->second);
}

// What two characters are together, or 0.
char32_t composed(char32_t one, char32_t other) {
  static const auto* const kPairs = [] {
    auto* pairs = new std::unordered_map<std::uint64_t, char32_t>();
    for (const Decomposition& d : kDecompositions) {
      if (d.composed) (*pairs)[std::uint64_t(d.first) << 32 | d.second] = d.whole;
    }
    return pairs;
  }();
  if (one >= kLead && one < kLead + 19 && other >= kVowel && other < kVowel + kVowels) {
    return kSyllable + ((one - kLead) * kVowels + (other - kVowel)) * kTrails;
  }
  const bool open =
      one >= kSyllable && one < kSyllable + kSyllables && (one - kSyllable) % kTrails == 0;
  if (open && other > kTrail && other < kTrail + kTrails) return one + (other - kTrail);
  const auto found = kPairs->find(std::uint64_t(one) << 32 | other);
  return found != kPairs->end() ? found->second : 0;
}

Text nfd(const Text& text) {
  Text out;
  for (char32_t c : text) append_decomposed(out, c);
  const auto before = [](char32_t a, char32_t b) { return combining(a) < combining(b); };
  for (auto start = out.begin(); start != out.end();) {
    auto end = start;
    while (end != out.end() && combining(*end) != 0) ++end;
    std::stable_sort(start, end, before);
    start = end == out.end() ? end : std::next(end);
  }
  return out;
}

}  // namespace

unsigned char_classes(char32_t c) {
  const ClassRange* range = range_of(kClasses, c);
  return range != nullptr ? range->classes : 0;
}

Text lower_case(const Text& text) {
  Text out;
  for (char32_t c : text) {
    const LowerRange* range = range_of(kLower, c);
    if (c == 0x130) {
      out += U"i\u0307";
    } else if (range != nullptr && (c - range->first) % range->step == 0) {
      out += static_cast<char32_t>(static_cast<std::int32_t>(c) + range->added);
    } else {
      out += c;
    }
  }
  return out;
}

Text nfc(const Text& text) {
  if (std::all_of(text.begin(), text.end(), [](char32_t c) { return c < 0x300; })) return text;
  Text out;
  std::size_t starter = Text::npos;
  unsigned last = 0;  // order of the mark before, of those that stayed behind the starter
  for (char32_t c : nfd(text)) {
    const unsigned order = combining(c);
    const bool next = starter != Text::npos && out.size() == starter + 1;
    if (starter != Text::npos && (next || (last != 0 && last < order))) {
      if (const char32_t both = composed(out[starter], c)) {
        out[starter] = both;
        continue;
      }
    }
    if (order == 0) starter = out.size();
    last = order;
    out += c;
  }
  return out;
}

Text from_utf8(const std::string& bytes) {
  Text text;
  for (std::size_t at = 0; at < bytes.size();) {
    text += static_cast<char32_t>(next_code_point(bytes, at));
  }
  return text;
}

std::string to_utf8(const Text& text) {
  std::string bytes;
  for (char32_t c : text) append_utf8(bytes, c);
  return bytes;
}

}  // namespace edgereel_runtime
