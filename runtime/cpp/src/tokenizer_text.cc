#include "tokenizer_text.hpp"

#include <algorithm>
#include <array>

#include "charsmap.hpp"

namespace edgereel_runtime {
namespace {

// The patterns that CLIP's tokenizers split with, and how they begin in some files.
const std::string kClip = R"('s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)";
const std::string kClipSpecial = R"(<\|startoftext\|>|<\|endoftext\|>|)";

bool flag(const Json& json, const std::string& key, bool fallback) {
  const Json* found = json.find(key);
  return found != nullptr && found->type == Json::Type::kBool ? found->boolean : fallback;
}

const Json& part(const Json& json, const std::string& key) {
  const Json* found = json.find(key);
  if (found == nullptr) throw JsonError("there is no " + key);
  return *found;
}

bool is(char32_t c, unsigned classes) { return (char_classes(c) & classes) != 0; }

// The end of a run of characters that have one of some classes, or none of them.
std::size_t run(const Text& text, std::size_t at, unsigned classes, bool having) {
  while (at < text.size() && is(text[at], classes) == having) ++at;
  return at;
}

// The end of 's, 't, 're, 've, 'm, 'll or 'd, or where it would begin.
std::size_t contraction(const Text& text, std::size_t at) {
  if (text[at] != U'\'') return at;
  for (const Text& ending :
       {Text(U"s"), Text(U"t"), Text(U"re"), Text(U"ve"), Text(U"m"), Text(U"ll"), Text(U"d")}) {
    if (text.compare(at + 1, ending.size(), ending) == 0) return at + 1 + ending.size();
  }
  return at;
}

// The end of a run of letters, of numbers or of signs, or where it would begin.
std::size_t same_kind(const Text& text, std::size_t at) {
  if (at >= text.size()) return at;
  if (is(text[at], kLetter)) return run(text, at, kLetter, true);
  if (is(text[at], kNumber)) return run(text, at, kNumber, true);
  return run(text, at, kLetter | kNumber | kSpace, false);
}

// GPT-2's pattern, which ByteLevel splits with:
// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
std::size_t gpt2_end(const Text& text, std::size_t at) {
  std::size_t end = contraction(text, at);
  if (end > at) return end;
  const std::size_t start = text[at] == U' ' ? at + 1 : at;
  end = same_kind(text, start);
  if (end > start) return end;
  end = run(text, at, kSpace, true);
  return end == text.size() || end == at + 1 ? end : end - 1;
}

std::size_t clip_end(const Text& text, std::size_t at, bool special) {
  for (const Text& word : {Text(U"<|startoftext|>"), Text(U"<|endoftext|>")}) {
    if (special && text.compare(at, word.size(), word) == 0) return at + word.size();
  }
  const std::size_t end = contraction(text, at);
  if (end > at) return end;
  return is(text[at], kNumber) ? at + 1 : same_kind(text, at);
}

std::size_t whitespace_end(const Text& text, std::size_t at) {
  if (is(text[at], kWordPart)) return run(text, at, kWordPart, true);
  return run(text, at, kWordPart | kSpace, false);
}

std::size_t space_end(const Text& text, std::size_t at) { return run(text, at, kSpace, false); }

// The pieces that `end_of` finds from each place; what it does not match is left out.
template <typename EndOf>
std::vector<Text> pieces(const Text& text, EndOf end_of) {
  std::vector<Text> found;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = end_of(text, at);
    if (end > at) found.push_back(text.substr(at, end - at));
    at = end > at ? end : at + 1;
  }
  return found;
}

// The characters that stand for bytes: themselves if they can be printed, others from U+0100 on.
const std::array<char32_t, 256>& byte_characters() {
  static const std::array<char32_t, 256> kCharacters = [] {
    std::array<char32_t, 256> all{};
    char32_t next = 0x100;
    for (std::size_t b = 0; b < 256; ++b) {
      const bool shown = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      all[b] = shown ? static_cast<char32_t>(b) : next++;
    }
    return all;
  }();
  return kCharacters;
}

Text as_bytes(const Text& text) {
  Text out;
  for (char byte : to_utf8(text)) out += byte_characters()[static_cast<unsigned char>(byte)];
  return out;
}

std::vector<Text> byte_level(Text text, bool prefix_space, bool split) {
  if (prefix_space && !text.empty() && text[0] != U' ') text.insert(text.begin(), U' ');
  std::vector<Text> found = split ? pieces(text, gpt2_end) : std::vector<Text>{text};
  for (Text& piece : found) piece = as_bytes(piece);
  return found;
}

PreTokenizer read_split(const Json& json) {
  const Json* regex = part(json, "pattern").find("Regex");
  const std::string pattern = regex != nullptr ? regex->string : "another kind";
  const bool special = pattern == kClipSpecial + kClip;
  const bool kept = flag(json, "invert", false) && part(json, "behavior").string == "Removed";
  if ((pattern != kClip && !special) || !kept) {
    throw JsonError("it splits by the pattern " + shown(pattern));
  }
  return [special](const Text& text) {
    return pieces(text,
                  [&](const Text& all, std::size_t at) { return clip_end(all, at, special); });
  };
}

Text replaced(const Text& text, const Text& wanted, const Text& by);

// Spaces become marks, one in front too, and every mark begins a word.
std::vector<Text> marked(const Text& text, char32_t mark, bool prefix, bool split) {
  Text all = replaced(text, U" ", Text(1, mark));
  if (prefix && all.front() != mark) all.insert(all.begin(), mark);
  if (!split) return {all};
  std::vector<Text> words;
  for (char32_t c : all) {
    if (words.empty() || c == mark) words.emplace_back();
    words.back() += c;
  }
  return words;
}

PreTokenizer read_metaspace(const Json& json) {
  const Text mark = from_utf8(part(json, "replacement").string);
  const Json* scheme = json.find("prepend_scheme");
  const bool prefix = scheme ? scheme->string == "always" : flag(json, "add_prefix_space", true);
  const bool first = scheme != nullptr && scheme->string == "first";
  if (first || mark.size() != 1) throw JsonError("its Metaspace marks only the first word");
  const bool split = flag(json, "split", true);
  return [=](const Text& text) {
    return text.empty() ? std::vector<Text>() : marked(text, mark[0], prefix, split);
  };
}

Text replaced(const Text& text, const Text& wanted, const Text& by) {
  Text out;
  for (std::size_t at = 0; at < text.size();) {
    if (text.compare(at, wanted.size(), wanted) == 0) {
      out += by;
      at += wanted.size();
    } else {
      out += text[at++];
    }
  }
  return out;
}

Text with_spaces_replaced(const Text& text, const Text& by) {
  Text out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = run(text, at, kSpace, true);
    if (end > at) {
      out += by;
      at = end;
    } else {
      out += text[at++];
    }
  }
  return out;
}

// Two spaces or more become one text.
Text with_wide_gaps_replaced(const Text& text, const Text& by) {
  Text out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find_first_not_of(U' ', at), text.size());
    if (end > at + 1) out += by;
    if (end == at + 1) out += U' ';
    at = end;
    if (at < text.size()) out += text[at++];
  }
  return out;
}

Normalizer read_strip(const Json& json) {
  const bool left = flag(json, "strip_left", true), right = flag(json, "strip_right", true);
  return [=](const Text& text) {
    const std::size_t start = left ? run(text, 0, kSpace, true) : 0;
    std::size_t end = text.size();
    while (right && end > start && is(text[end - 1], kSpace)) --end;
    return text.substr(start, end - start);
  };
}

Normalizer read_replace(const Json& json) {
  const Json& pattern = part(json, "pattern");
  const Text by = from_utf8(part(json, "content").string);
  const Json *word = pattern.find("String"), *regex = pattern.find("Regex");
  if (regex != nullptr && regex->string == R"(\s+)") {
    return [by](const Text& text) { return with_spaces_replaced(text, by); };
  }
  if (regex != nullptr && regex->string == " {2,}") {
    return [by](const Text& text) { return with_wide_gaps_replaced(text, by); };
  }
  if (word == nullptr || word->string.empty()) {
    throw JsonError("it replaces the pattern " + shown(regex ? regex->string : ""));
  }
  return [wanted = from_utf8(word->string), by](const Text& text) {
    return replaced(text, wanted, by);
  };
}

}  // namespace

std::string type_of(const Json& json) { return part(json, "type").string; }

Normalizer read_normalizer(const Json& json) {
  if (json.type == Json::Type::kNull) return [](const Text& text) { return text; };
  const std::string type = type_of(json);
  if (type == "Lowercase") return lower_case;
  if (type == "NFC") return nfc;
  if (type == "Replace") return read_replace(json);
  if (type == "Strip") return read_strip(json);
  if (type == "Precompiled") return read_charsmap(part(json, "precompiled_charsmap").string);
  if (type != "Sequence") throw JsonError("its normalizer is a " + type);
  std::vector<Normalizer> steps;
  for (const Json& one : part(json, "normalizers").array) steps.push_back(read_normalizer(one));
  return [steps](Text text) {
    for (const Normalizer& step : steps) text = step(text);
    return text;
  };
}

PreTokenizer read_pre_tokenizer(const Json& json) {
  if (json.type == Json::Type::kNull) {
    return [](const Text& text) { return std::vector<Text>{text}; };
  }
  const std::string type = type_of(json);
  if (type == "Whitespace") return [](const Text& text) { return pieces(text, whitespace_end); };
  if (type == "WhitespaceSplit") return [](const Text& text) { return pieces(text, space_end); };
  if (type == "Metaspace") return read_metaspace(json);
  if (type == "Split") return read_split(json);
  if (type == "ByteLevel") {
    const bool prefix = flag(json, "add_prefix_space", true), split = flag(json, "use_regex", true);
    return [=](const Text& text) { return byte_level(text, prefix, split); };
  }
  if (type != "Sequence") throw JsonError("its pre-tokenizer is a " + type);
  std::vector<PreTokenizer> steps;
  for (const Json& one : part(json, "pretokenizers").array) {
    steps.push_back(read_pre_tokenizer(one));
  }
  return [steps](const Text& text) {
    std::vector<Text> words = {text};
    for (const PreTokenizer& step : steps) {
      std::vector<Text> next;
      for (const Text& word : words) {
        for (Text& piece : step(word)) next.push_back(std::move(piece));
      }
      words = std::move(next);
    }
    return words;
  };
}

}  // namespace edgereel_runtime
