// Texts to ids, as Hugging Face `tokenizers` makes them, without the padding of its file.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "array.hpp"
#include "plan_format.hpp"

namespace edgereel_runtime {

struct Tokens {
  Array ids, mask;               // i64 [G, L]; mask is 1 for tokens of the text
  std::vector<std::size_t> cut;  // indices of texts cut short
};

class TokenizerFile;

// One tokenizer of a plan. A text that is too long loses its end, never its special tokens; one
// that is too short is filled with the plan's pad_id.
class Tokenizer {
 public:
  // Throws Error if the file is none, or is of a kind that is not known here.
  Tokenizer(const std::string& path, const TokenizerSpec& spec);
  Tokenizer(const std::string& content, const TokenizerSpec& spec, bool is_content);
  ~Tokenizer();

  Tokens encode(const std::vector<std::string>& texts) const;  // throws Error for what is no UTF-8

 private:
  TokenizerSpec spec_;
  std::unique_ptr<const TokenizerFile> file_;
};

}  // namespace edgereel_runtime
