#include "tokenizer.hpp"

#include <algorithm>
#include <system_error>

#include "errors.hpp"
#include "files.hpp"
#include "tokenizer_model.hpp"
#include "tokenizer_text.hpp"

namespace edgereel_runtime {

using Ids = std::vector<std::int64_t>;

// A word that a text is cut at before anything else, such as one that begins or ends texts.
struct AddedToken {
  Text content;
  std::int64_t id = 0;
  bool normalized = false, left_space = false, right_space = false;
};

// Ids in front of those of a text, and behind.
struct TokenFrame {
  Ids before, after;
};

namespace {

TokenFrame template_frame(const Json& json) {
  TokenFrame frame;
  bool passed = false;
  const Json *single = json.find("single"), *tokens = json.find("special_tokens");
  if (single == nullptr || tokens == nullptr) throw JsonError("its template is damaged");
  for (const Json& piece : single->array) {
    const Json* special = piece.find("SpecialToken");
    if (special == nullptr) {
      if (passed) throw JsonError("its template has two texts");
      passed = true;
      continue;
    }
    const Json* name = special->find("id");
    const Json* token = name != nullptr ? tokens->find(name->string) : nullptr;
    const Json* ids = token != nullptr ? token->find("ids") : nullptr;
    if (ids == nullptr) throw JsonError("its template names a token that it does not have");
    for (const Json& id : ids->array) {
      (passed ? frame.after : frame.before).push_back(static_cast<std::int64_t>(id.whole));
    }
  }
  if (!passed) throw JsonError("its template has no text");
  return frame;
}

// The id in `"sep": [token, id]`.
std::int64_t id_of(const Json& json, const std::string& key) {
  const Json* pair = json.find(key);
  if (pair == nullptr || pair->array.size() != 2)
    throw JsonError("its post-processor lacks " + key);
  return static_cast<std::int64_t>(pair->array[1].whole);
}

TokenFrame read_frame(const Json& json) {
  if (json.type == Json::Type::kNull) return {};
  const std::string type = type_of(json);
  if (type == "ByteLevel") return {};
  if (type == "TemplateProcessing") return template_frame(json);
  if (type == "RobertaProcessing" || type == "BertProcessing") {
    return {{id_of(json, "cls")}, {id_of(json, "sep")}};
  }
  if (type != "Sequence") throw JsonError("its post-processor is a " + type);
  TokenFrame frame;
  const Json* processors = json.find("processors");
  for (const Json& one : processors != nullptr ? processors->array : std::vector<Json>()) {
    const TokenFrame outer = read_frame(one);
    frame.before.insert(frame.before.begin(), outer.before.begin(), outer.before.end());
    frame.after.insert(frame.after.end(), outer.after.begin(), outer.after.end());
  }
  return frame;
}

bool is_space(char32_t c) { return (char_classes(c) & kSpace) != 0; }

}  // namespace

// What a tokenizers JSON file says.
class TokenizerFile {
 public:
  explicit TokenizerFile(const std::string& content);

  // The ids of a text without those of the frame.
  Ids encode(const std::string& text) const;

  TokenFrame frame;

 private:
  // Calls `other` for what lies between the tokens that are cut at, and adds their ids.
  template <typename Other>
  void cut(const Text& text, const std::vector<AddedToken>& tokens, Ids& ids, Other other) const;
  void read_added(const Json& json);

  Normalizer normalize_;
  PreTokenizer split_;
  std::unique_ptr<const TokenModel> model_;
  std::vector<AddedToken> plain_, normalized_;  // found in the text, or in what is made of it
};

TokenizerFile::TokenizerFile(const std::string& content) {
  const Json json = parse_json(content);
  const Json nothing;
  const auto part = [&](const std::string& key) -> const Json& {
    const Json* found = json.find(key);
    return found != nullptr ? *found : nothing;
  };
  model_ = read_token_model(part("model"));
  normalize_ = read_normalizer(part("normalizer"));
  split_ = read_pre_tokenizer(part("pre_tokenizer"));
  frame = read_frame(part("post_processor"));
  for (const Json& token : part("added_tokens").array) read_added(token);
}

void TokenizerFile::read_added(const Json& json) {
  const auto flag = [&](const std::string& key) {
    const Json* found = json.find(key);
    return found != nullptr && found->boolean;
  };
  const Json *content = json.find("content"), *id = json.find("id");
  if (content == nullptr || id == nullptr) throw JsonError("an added token is damaged");
  if (flag("single_word")) throw JsonError("an added token is a single_word");
  AddedToken token;
  token.content = from_utf8(content->string);
  const std::int64_t known = model_->id_of(content->string);
  token.id = known >= 0 ? known : static_cast<std::int64_t>(id->whole);
  token.left_space = flag("lstrip");
  token.right_space = flag("rstrip");
  token.normalized = flag("normalized");
  if (token.normalized) token.content = normalize_(token.content);
  if (!token.content.empty()) (token.normalized ? normalized_ : plain_).push_back(token);
}

template <typename Other>
void TokenizerFile::cut(const Text& text, const std::vector<AddedToken>& tokens, Ids& ids,
                        Other other) const {
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* longest = nullptr;
    for (const AddedToken& token : tokens) {
      const bool here = text.compare(at, token.content.size(), token.content) == 0;
      if (here && (longest == nullptr || token.content.size() > longest->content.size())) {
        longest = &token;
      }
    }
    if (longest == nullptr) {
      ++at;
      continue;
    }
    std::size_t start = at, stop = at + longest->content.size();
    while (longest->left_space && start > done && is_space(text[start - 1])) --start;
    while (longest->right_space && stop < text.size() && is_space(text[stop])) ++stop;
    if (start > done) other(text.substr(done, start - done));
    ids.push_back(longest->id);
    done = at = stop;
  }
  if (done < text.size()) other(text.substr(done));
}

Ids TokenizerFile::encode(const std::string& text) const {
  Ids ids;
  const auto words = [&](const Text& piece) {
    for (const Text& word : split_(piece)) {
      if (!word.empty()) model_->append_ids(word, ids);
    }
  };
  cut(from_utf8(text), plain_, ids,
      [&](const Text& piece) { cut(normalize_(piece), normalized_, ids, words); });
  return ids;
}

namespace {

std::string content_of(const std::string& path, const TokenizerSpec& spec) {
  try {
    return read_file(path);
  } catch (const std::system_error& error) {
    wrong("files." + spec.file, "cannot be read (" + error.code().message() + ")",
          "a tokenizers JSON file");
  }
}

}  // namespace

Tokenizer::Tokenizer(const std::string& path, const TokenizerSpec& spec)
    : Tokenizer(content_of(path, spec), spec, true) {}

Tokenizer::Tokenizer(const std::string& content, const TokenizerSpec& spec, bool) : spec_(spec) {
  const std::string place = "files." + spec.file;
  try {
    file_ = std::make_unique<TokenizerFile>(content);
  } catch (const JsonError& error) {
    wrong(place, "cannot be read (" + std::string(error.what()) + ")", "a tokenizers JSON file");
  }
  const std::size_t special = file_->frame.before.size() + file_->frame.after.size();
  if (static_cast<Int>(special) >= spec.length) {
    wrong(place, "adds " + std::to_string(special) + " tokens of its own",
          "below " + text(spec.length));
  }
}

Tokenizer::~Tokenizer() = default;

Tokens Tokenizer::encode(const std::vector<std::string>& texts) const {
  const auto count = static_cast<std::int64_t>(texts.size());
  const auto length = static_cast<std::int64_t>(std::min<Int>(spec_.length, INT64_MAX));
  Tokens tokens{Array(DType::kInt64, {count, length}), Array(DType::kInt64, {count, length}), {}};
  std::fill_n(tokens.ids.as<std::int64_t>(), tokens.ids.count(),
              static_cast<std::int64_t>(spec_.pad_id));
  std::fill_n(tokens.mask.as<std::int64_t>(), tokens.mask.count(), 0);
  const TokenFrame& frame = file_->frame;
  const std::size_t room =
      static_cast<std::size_t>(length) - frame.before.size() - frame.after.size();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    for (std::size_t at = 0, before = 0; at < texts[i].size(); before = at) {
      if (next_code_point(texts[i], at) >= 0) continue;
      fail(Kind::kInput, "the text " + shown(texts[i]) + " is not UTF-8 at byte " +
                             std::to_string(before) +
                             "; expected Unicode text. Type it again, or read it as UTF-8.");
    }
    Ids ids = file_->encode(texts[i]);
    if (ids.size() > room) {
      ids.resize(room);
      tokens.cut.push_back(i);
    }
    ids.insert(ids.begin(), frame.before.begin(), frame.before.end());
    ids.insert(ids.end(), frame.after.begin(), frame.after.end());
    const std::size_t start = i * static_cast<std::size_t>(length);
    std::copy(ids.begin(), ids.end(), tokens.ids.as<std::int64_t>() + start);
    std::fill_n(tokens.mask.as<std::int64_t>() + start, ids.size(), 1);
  }
  return tokens;
}

}  // namespace edgereel_runtime
