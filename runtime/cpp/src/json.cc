#include "json.hpp"

#include <cmath>
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

}  // namespace

const Json* Json::find(const std::string& key) const {
  for (const auto& [name, value] : object) {
    if (name == key) return &value;
  }
  return nullptr;
}

Json parse_json(const std::string& text) {
  if (starts_with(text, "\xEF\xBB\xBF")) throw JsonError("it begins with a byte order mark");
  Builder builder;
  nlohmann::json::sax_parse(text, &builder);
  return std::move(builder.root);
}

}  // namespace edgereel_runtime
