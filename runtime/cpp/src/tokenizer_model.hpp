// Models: the ids of a word.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "json.hpp"
#include "unicode.hpp"

namespace edgereel_runtime {

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  virtual void append_ids(const Text& word, std::vector<std::int64_t>& ids) const = 0;

  // The id of a token, or -1.
  std::int64_t id_of(const std::string& token) const {
    const auto found = vocabulary.find(token);
    return found != vocabulary.end() ? found->second : -1;
  }

  std::unordered_map<std::string, std::int64_t> vocabulary;
};

// The model of a tokenizers JSON file; throws JsonError where it is damaged, or of a kind that is
// not known here.
std::unique_ptr<const TokenModel> read_token_model(const Json& json);

}  // namespace edgereel_runtime
