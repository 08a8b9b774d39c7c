#include "strict_json.hpp"

#include <algorithm>

namespace edgereel_runtime {

using Type = Json::Type;

At At::field(const std::string& key) const {
  return {place.empty() ? key : place + "." + key, path + "." + key, ""};
}

At At::operator/(const std::string& key) const {
  return {place.empty() ? key : place + "." + key, path + "[...]", ""};
}

At At::operator[](std::size_t i) const {
  const std::string index = "[" + std::to_string(i) + "]";
  return {place + index, path + index, ""};
}

void misread(const At& at, const std::string& problem) {
  throw Misread{at.place, at.path, problem};
}

void mistyped(const Json& json, const At& at, const std::string& wanted) {
  static const char* const kKinds[] = {"null", "bool", "int", "float", "str", "array", "object"};
  const std::string kind = kKinds[static_cast<int>(json.type)];
  misread(at, "Expected `" + wanted + at.also + "`, got `" + kind + "`");
}

void read(const Json& json, const At& at, std::string& out) {
  if (json.type != Type::kString) mistyped(json, at, "str");
  out = json.string;
}

void read(const Json& json, const At& at, Int& out) {
  if (json.type != Type::kInt) mistyped(json, at, "int");
  out = json.whole;
}

void read(const Json& json, const At& at, double& out) {
  if (json.type == Type::kInt) {
    out = static_cast<double>(json.whole);
  } else if (json.type == Type::kFloat) {
    out = json.real;
  } else {
    mistyped(json, at, "float");
  }
}

void read(const Json& json, const At& at, bool& out) {
  if (json.type != Type::kBool) mistyped(json, at, "bool");
  out = json.boolean;
}

void read_chosen(const Json& json, const At& at, const Words& words, std::string& out) {
  read(json, at, out);
  if (std::find(words.begin(), words.end(), out) == words.end()) {
    misread(at, "Invalid enum value " + shown(out));
  }
}

void read_fields(const Json& json, const At& at, const std::vector<Field>& fields,
                 const std::string& tag) {
  if (json.type != Type::kObject) mistyped(json, at, "object");
  for (const auto& [key, value] : json.object) {
    if (key == tag && !tag.empty()) continue;
    const auto named = [&, &name = key](const Field& field) { return field.name == name; };
    const auto field = std::find_if(fields.begin(), fields.end(), named);
    if (field == fields.end()) misread(at, "Object contains unknown field `" + key + "`");
    field->read(value, at.field(key));
  }
  for (const Field& field : fields) {
    if (field.required && json.find(field.name) == nullptr) {
      misread(at, "Object missing required field `" + field.name + "`");
    }
  }
}

Field need(const char* name, std::string& out, const Words& words) {
  return {name, true, [&](const Json& json, const At& at) { read_chosen(json, at, words, out); }};
}

Field may(const char* name, std::optional<std::string>& out, const Words& words) {
  return {name, false, [&](const Json& json, const At& at) {
            out.reset();
            if (json.type != Type::kNull) {
              read_chosen(json, at.or_else("null"), words, out.emplace());
            }
          }};
}

}  // namespace edgereel_runtime
