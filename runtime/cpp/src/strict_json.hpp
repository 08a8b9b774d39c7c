// Reads JSON into structs strictly, field by field. Messages are msgspec's, which Python reads the
// same files with.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "json.hpp"
#include "named.hpp"

namespace edgereel_runtime {

// What does not fit, and where: as a person names the place, and as msgspec does.
struct Misread {
  std::string place, path, problem;
};

// A place and how it is to be read; `also` names the other types that may stand there.
struct At {
  std::string place;
  std::string path = "$";
  std::string also;

  At here() const { return {place, path, ""}; }
  At field(const std::string& key) const;      // of a struct
  At operator/(const std::string& key) const;  // of an object with any keys
  At operator[](std::size_t i) const;
  At or_else(const std::string& type) const { return {place, path, " | " + type + also}; }
};

[[noreturn]] void misread(const At& at, const std::string& problem);  // throws Misread
[[noreturn]] void mistyped(const Json& json, const At& at, const std::string& wanted);

void read(const Json& json, const At& at, std::string& out);
void read(const Json& json, const At& at, Int& out);
void read(const Json& json, const At& at, double& out);
void read(const Json& json, const At& at, bool& out);
void read_chosen(const Json& json, const At& at, const Words& words, std::string& out);

struct Field {
  std::string name;
  bool required;
  std::function<void(const Json&, const At&)> read;
};

// All fields of a struct; a key `tag` is passed over.
void read_fields(const Json& json, const At& at, const std::vector<Field>& fields,
                 const std::string& tag = "");

// The overload for a struct is found beside it when these are used.
template <typename T>
void read(const Json& json, const At& at, std::optional<T>& out) {
  if (json.type == Json::Type::kNull) {
    out.reset();
  } else {
    read(json, at.or_else("null"), out.emplace());
  }
}

template <typename T>
void read(const Json& json, const At& at, std::vector<T>& out) {
  if (json.type != Json::Type::kArray) mistyped(json, at, "array");
  out.clear();
  for (std::size_t i = 0; i < json.array.size(); ++i) {
    read(json.array[i], at[i], out.emplace_back());
  }
}

template <typename T>
void read(const Json& json, const At& at, Named<T>& out) {
  if (json.type != Json::Type::kObject) mistyped(json, at, "object");
  out.entries.clear();
  for (const auto& [key, value] : json.object) {
    read(value, at / key, out.entries.emplace_back(key, T()).second);
  }
}

template <typename T>
Field need(const char* name, T& out) {
  return {name, true, [&out](const Json& json, const At& at) { read(json, at, out); }};
}

template <typename T>
Field may(const char* name, T& out) {
  return {name, false, [&out](const Json& json, const At& at) { read(json, at, out); }};
}

Field need(const char* name, std::string& out, const Words& words);
Field may(const char* name, std::optional<std::string>& out, const Words& words);

}  // namespace edgereel_runtime
