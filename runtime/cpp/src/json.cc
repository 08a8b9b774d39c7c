#include "json.hpp"

#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <unordered_set>

namespace edgereel_runtime {
namespace {

constexpr std::size_t kDeepest = 256;
constexpr std::size_t kDigits = 38;  // of the largest that an Int holds for certain

// Takes what the parser finds; nlohmann/json calls the methods by these names.
class Builder {
 public:
  Json root;

  bool null() { return put({}); }
  bool boolean(bool value) {
    Json json;
    json.type = Json::Type::kBool;
    json.boolean = value;
    return put(std::move(json));
  }
  bool number_integer(std::int64_t value) { return put_whole(value); }
  bool number_unsigned(std::uint64_t value) { return put_whole(static_cast<Int>(value)); }
  bool number_float(double value, const std::string& literal) {
    if (literal.find_first_of(".eE") == std::string::npos) return put_whole(large(literal));
    if (!std::isfinite(value)) throw JsonError("the number " + literal + " is not finite");
    Json json;
    json.type = Json::Type::kFloat;
    json.real = value;
    return put(std::move(json));
  }
  bool string(std::string& value) {
    Json json;
    json.type = Json::Type::kString;
    json.string = std::move(value);
    return put(std::move(json));
  }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool start_object(std::size_t) { return open(Json::Type::kObject); }
  bool start_array(std::size_t) { return open(Json::Type::kArray); }
  bool end_object() {
    keys_.pop_back();
    return close();
  }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    if (!keys_.back().insert(name).second) {
      throw JsonError("the key " + shown(name) + " is there twice");
    }
    open_.back()->object.emplace_back(name, Json());
    return true;
  }
  template <typename Exception>
  bool parse_error(std::size_t, const std::string&, const Exception& error) {
    const std::string told = error.what();
    const std::size_t start = told.find("] ");
    throw JsonError(start == std::string::npos ? told : told.substr(start + 2));
  }

 private:
  static Int large(const std::string& literal) {
    if (literal.size() > kDigits) throw JsonError("a number has more than 38 digits");
    Int value = 0;
    for (char c : literal) {
      if (c != '-') value = value * 10 + (c - '0');
    }
    return literal[0] == '-' ? -value : value;
  }

  bool put_whole(Int value) {
    Json json;
    json.type = Json::Type::kInt;
    json.whole = value;
    return put(std::move(json));
  }

  bool put(Json value) {
    place() = std::move(value);
    return true;
  }

  Json& place() {
    if (open_.empty()) return root;
    Json& parent = *open_.back();
    if (parent.type == Json::Type::kObject) return parent.object.back().second;
    return parent.array.emplace_back();
  }

  bool open(Json::Type type) {
    if (open_.size() == kDeepest) throw JsonError("it is nested more than 256 deep");
    Json& json = place();
    json.type = type;
    open_.push_back(&json);
    if (type == Json::Type::kObject) keys_.emplace_back();
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::vector<Json*> open_;  // what is not finished; an entry is not moved before that
  std::vector<std::unordered_set<std::string>> keys_;
};

std::string quoted(const std::string& text) {
  std::string out = "\"";
  const auto escape = [&](std::uint32_t unit) {
    char digits[7];
    std::snprintf(digits, sizeof digits, "\\u%04x", unit & 0xFFFFu);
    out += digits;
  };
  static const std::string kNamed = "\"\\\b\f\n\r\t", kLetters = "\"\\bfnrt";
  for (std::size_t at = 0; at < text.size();) {
    const std::int32_t read = next_code_point(text, at);
    if (read < 0) throw JsonError("it is not UTF-8");
    const auto c = static_cast<std::uint32_t>(read);
    const std::size_t named = c < 128 ? kNamed.find(static_cast<char>(c)) : std::string::npos;
    if (named != std::string::npos) {
      out += {'\\', kLetters[named]};
    } else if (c >= 0x10000) {
      escape(0xD800 + ((c - 0x10000) >> 10));
      escape(0xDC00 + ((c - 0x10000) & 0x3FF));
    } else if (c < 0x20 || c > 0x7E) {
      escape(c);
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

}  // namespace

const Json* Json::find(const std::string& key) const {
  for (const auto& [name, value] : object) {
    if (name == key) return &value;
  }
  return nullptr;
}

std::string sorted_json(const Json& json) {
  std::vector<std::string> parts;
  switch (json.type) {
    case Json::Type::kNull:
      return "null";
    case Json::Type::kBool:
      return json.boolean ? "true" : "false";
    case Json::Type::kInt:
      return text(json.whole);
    case Json::Type::kFloat:
      return text(json.real);
    case Json::Type::kString:
      return quoted(json.string);
    case Json::Type::kArray:
      for (const Json& part : json.array) parts.push_back(sorted_json(part));
      return "[" + joined(parts, ",") + "]";
    case Json::Type::kObject:
      break;
  }
  std::map<std::string, const Json*> sorted;
  for (const auto& [key, value] : json.object) sorted[key] = &value;
  for (const auto& [key, value] : sorted) parts.push_back(quoted(key) + ":" + sorted_json(*value));
  return "{" + joined(parts, ",") + "}";
}

Json parse_json(const std::string& text) {
  if (starts_with(text, "\xEF\xBB\xBF")) throw JsonError("it begins with a byte order mark");
  Builder builder;
  nlohmann::json::sax_parse(text, &builder);
  return std::move(builder.root);
}

}  // namespace edgereel_runtime
