#include "words.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace edgereel_runtime {
namespace {

// What Python's str.strip takes away.
bool is_space(std::int32_t c) {
  return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::string escaped(std::int32_t c) {
  char buffer[16];
  const char* form = c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x";
  std::snprintf(buffer, sizeof buffer, form, static_cast<unsigned>(c));
  return buffer;
}

bool printable(std::int32_t c) {
  if (c < 0x20 || (c >= 0x7F && c <= 0xA0) || c == 0xAD) return false;
  return c == ' ' ||
         !(is_space(c) || (c >= 0x200B && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) ||
           (c >= 0x2060 && c <= 0x206F) || (c >= 0xD800 && c <= 0xF8FF) || c == 0xFEFF ||
           (c & 0xFFFE) == 0xFFFE || c >= 0xE0000);
}

}  // namespace

std::string text(Int number) {
  if (number == 0) return "0";
  const bool negative = number < 0;
  std::string digits;
  for (Int rest = number; rest != 0; rest /= 10) {
    const int digit = static_cast<int>(rest % 10);
    digits.push_back(static_cast<char>('0' + std::abs(digit)));
  }
  if (negative) digits.push_back('-');
  std::reverse(digits.begin(), digits.end());
  return digits;
}

std::string text(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  char buffer[32];
  const double size = std::fabs(number);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto form = fixed ? std::chars_format::fixed : std::chars_format::scientific;
  std::string digits(buffer, std::to_chars(buffer, buffer + sizeof buffer, number, form).ptr);
  if (fixed && digits.find('.') == std::string::npos) digits += ".0";
  return digits;
}

std::string text(const Scalar& number) {
  return std::visit([](auto value) { return text(value); }, number);
}

std::string general(double number) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%g", number);
  return buffer;
}

std::string shown(const std::string& text) {
  const bool single = text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
  const char mark = single ? '"' : '\'';
  std::string out(1, mark);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    const std::int32_t c = next_code_point(text, at);
    if (c == mark || c == '\\') {
      out += {'\\', static_cast<char>(c)};
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += {'\\', c == '\n' ? 'n' : c == '\r' ? 'r' : 't'};
    } else if (c < 0) {
      out += escaped(static_cast<unsigned char>(text[start]));
    } else {
      out += printable(c) ? text.substr(start, at - start) : escaped(c);
    }
  }
  return out + mark;
}

std::string joined(const std::vector<std::string>& parts, const std::string& between) {
  std::string all;
  for (const std::string& part : parts) all += (all.empty() ? "" : between) + part;
  return all;
}

std::string names(std::vector<std::string> words) {
  std::sort(words.begin(), words.end());
  return words.empty() ? "(there are none)" : joined(words);
}

std::string listed(const std::vector<std::int64_t>& numbers) {
  std::vector<std::string> parts;
  for (std::int64_t number : numbers) parts.push_back(std::to_string(number));
  return "[" + joined(parts) + "]";
}

double as_double(const Scalar& number) {
  return std::visit([](auto value) { return static_cast<double>(value); }, number);
}

bool less(const Scalar& one, const Scalar& other) {
  const auto both = [](auto a, auto b) {
    return static_cast<long double>(a) < static_cast<long double>(b);
  };
  if (std::holds_alternative<Int>(one) && std::holds_alternative<Int>(other)) {
    return std::get<Int>(one) < std::get<Int>(other);
  }
  return std::visit(both, one, other);
}

bool blank(const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    if (!is_space(next_code_point(text, at))) return false;
  }
  return true;
}

bool starts_with(const std::string& text, const std::string& start) {
  return text.compare(0, start.size(), start) == 0;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::int32_t next_code_point(const std::string& text, std::size_t& at) {
  const auto byte = [&](std::size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const unsigned first = byte(at++);
  if (first < 0x80) return static_cast<std::int32_t>(first);
  const int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
  if (first < 0xC2 || first > 0xF4) return -1;
  std::uint32_t c = first & (0x3Fu >> more);
  for (int k = 0; k < more; ++k) {
    const unsigned next = byte(at + static_cast<std::size_t>(k));
    if ((next & 0xC0) != 0x80) return -1;
    c = (c << 6) | (next & 0x3F);
  }
  const std::uint32_t least = more == 3 ? 0x10000 : more == 2 ? 0x800 : 0x80;
  if (c < least || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) return -1;
  at += static_cast<std::size_t>(more);
  return static_cast<std::int32_t>(c);
}

void append_utf8(std::string& text, std::uint32_t c) {
  const auto put = [&](std::uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | (c >> 6));
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3F));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

}  // namespace edgereel_runtime
