// JSON as a tree of values; keys keep their order, and whole numbers all their digits.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "words.hpp"

namespace edgereel_runtime {

struct Json {
  enum class Type { kNull, kBool, kInt, kFloat, kString, kArray, kObject };

  Type type = Type::kNull;
  bool boolean = false;
  Int whole = 0;
  double real = 0;
  std::string string;
  std::vector<Json> array;
  std::vector<std::pair<std::string, Json>> object;

  // The value of a key, or nullptr where there is none or this is no object.
  const Json* find(const std::string& key) const;
};

// Why a text is no JSON, for the middle of a sentence.
class JsonError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Refuses what JSON does not have, doubled keys, numbers that are not finite or have more than 38
// digits, and nesting deeper than 256.
Json parse_json(const std::string& text);

// The text that Python's json.dumps writes with sorted keys, without spaces and in ASCII.
std::string sorted_json(const Json& json);

}  // namespace edgereel_runtime
