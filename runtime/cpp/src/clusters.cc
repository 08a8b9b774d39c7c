#include "clusters.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace edgereel_runtime {
namespace {

enum ClusterClass : unsigned {
  kFollows = 1,     // belongs to what is in front of it: extends it, or is a spacing mark
  kExtends = 2,     // of these, what also may stand between the pictures of one
  kControls = 4,    // is by itself
  kPrecedes = 8,    // belongs to what is behind it
  kPicture = 16,    // may be joined to another
  kConsonant = 32,  // of the scripts whose consonants are joined
  kLinker = 64      // which joins them
};

struct ClusterRange {
  std::uint32_t first, last;
  unsigned classes;
};

#include "cluster_tables.inc"

constexpr char32_t kJoiner = 0x200D, kNonJoiner = 0x200C;

unsigned classes_of(char32_t c) {
  const auto* behind =
      std::upper_bound(std::begin(kClusters), std::end(kClusters), c,
                       [](std::uint32_t x, const ClusterRange& r) { return x < r.first; });
  if (behind == std::begin(kClusters)) return 0;
  const ClusterRange& range = *std::prev(behind);
  return c <= range.last ? range.classes : 0;
}

bool within(char32_t c, char32_t first, char32_t last) { return first <= c && c <= last; }

// The parts of a Korean syllable: begins one, goes on, ends it, or is a whole one without or with
// an end.
enum class Hangul { kNone, kLead, kVowel, kTrail, kOpen, kClosed };

Hangul hangul(char32_t c) {
  if (c < 0x1100) return Hangul::kNone;
  if (within(c, 0x1100, 0x115F) || within(c, 0xA960, 0xA97C)) return Hangul::kLead;
  if (within(c, 0x1160, 0x11A7) || within(c, 0xD7B0, 0xD7C6)) return Hangul::kVowel;
  if (within(c, 0x11A8, 0x11FF) || within(c, 0xD7CB, 0xD7FB)) return Hangul::kTrail;
  if (within(c, 0xAC00, 0xD7A3)) return (c - 0xAC00) % 28 == 0 ? Hangul::kOpen : Hangul::kClosed;
  // Vowel signs of another script, Kirat Rai, are joined in the same way.
  return c == 0x16D63 || within(c, 0x16D67, 0x16D6A) ? Hangul::kVowel : Hangul::kNone;
}

bool one_syllable(Hangul before, Hangul c) {
  switch (before) {
    case Hangul::kNone:
      return false;
    case Hangul::kLead:
      return c != Hangul::kNone && c != Hangul::kTrail;
    case Hangul::kVowel:
    case Hangul::kOpen:
      return c == Hangul::kVowel || c == Hangul::kTrail;
    case Hangul::kTrail:
    case Hangul::kClosed:
      return c == Hangul::kTrail;
  }
  return false;
}

// What of the text so far decides whether the next character belongs to the last cluster.
class Cutter {
 public:
  bool joins(char32_t c) const {
    const unsigned classes = classes_of(c);
    if (last_ == U'\r' && c == U'\n') return true;
    if ((last_classes_ | classes) & kControls) return false;
    if (classes & kFollows || last_classes_ & kPrecedes) return true;
    if (picture_ && last_ == kJoiner && classes & kPicture) return true;
    if (linked_ && classes & kConsonant) return true;
    return one_syllable(hangul(last_), hangul(c));
  }

  void take(char32_t c) {
    const unsigned classes = classes_of(c);
    const bool joined = last_ == kJoiner;
    picture_ = classes & kPicture || (picture_ && !joined && (classes & kExtends || c == kJoiner));
    const bool within_conjunct = (classes & kExtends && c != kNonJoiner) || c == kJoiner;
    linked_ = consonant_ && (classes & kLinker || (linked_ && within_conjunct));
    consonant_ = classes & kConsonant || (consonant_ && (classes & kLinker || within_conjunct));
    last_ = c;
    last_classes_ = classes;
  }

 private:
  char32_t last_ = 0;
  unsigned last_classes_ = kControls;
  bool picture_ = false;    // behind a picture and what extends it
  bool consonant_ = false;  // behind a consonant and what extends it
  bool linked_ = false;     // and a linker
};

}  // namespace

std::vector<Text> clusters(const Text& text) {
  std::vector<Text> found;
  Cutter cutter;
  for (char32_t c : text) {
    if (!cutter.joins(c)) found.emplace_back();
    found.back() += c;
    cutter.take(c);
  }
  return found;
}

}  // namespace edgereel_runtime
