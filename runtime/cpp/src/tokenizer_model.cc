#include "tokenizer_model.hpp"

#include <queue>
#include <tuple>

namespace edgereel {
namespace {

using Id = std::int64_t;

// Byte pair encoding (Sennrich et al. 2016): neighbours are merged, the most frequent pair first.
class Bpe : public TokenModel {
 public:
  struct Merge {
    std::size_t rank;
    Id id;
  };

  void append_ids(const Text& word, std::vector<Id>& ids) const override {
    if (ignore_merges) {
      const Id whole = id_of(to_utf8(word));
      if (whole >= 0) return ids.push_back(whole);
    }
    for (Id id : merged(symbols(word))) ids.push_back(id);
  }

  std::unordered_map<std::uint64_t, Merge> merges;  // by both ids
  std::string suffix;                               // behind the last character of a word
  Id unknown = -1;
  bool fuse_unknown = false, ignore_merges = false;

 private:
  static std::uint64_t pair(Id one, Id other) {
    return static_cast<std::uint64_t>(one) << 32 | static_cast<std::uint64_t>(other);
  }

  // The characters as ids; those that the vocabulary lacks are unknown, or left out.
  std::vector<Id> symbols(const Text& word) const {
    std::vector<Id> found;
    bool fusing = false;
    for (std::size_t i = 0; i < word.size(); ++i) {
      std::string token = to_utf8(word.substr(i, 1));
      if (i + 1 == word.size()) token += suffix;
      const Id id = id_of(token);
      if (id < 0 && unknown >= 0 && !(fuse_unknown && fusing)) found.push_back(unknown);
      fusing = id < 0;
      if (id >= 0) found.push_back(id);
    }
    return found;
  }

  // A list in which neighbours are found after merges, and the merges that may come next.
  struct Symbols {
    std::vector<Id> ids;
    std::vector<std::size_t> next, previous;  // of a merged symbol, the id is -1
  };
  using Candidate = std::tuple<std::size_t, std::size_t, Id>;  // rank, place, id of both
  using Queue = std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>>;

  void consider(const Symbols& all, std::size_t at, Queue& queue) const {
    if (at >= all.ids.size() || all.next[at] >= all.ids.size()) return;
    const auto found = merges.find(pair(all.ids[at], all.ids[all.next[at]]));
    if (found != merges.end()) queue.emplace(found->second.rank, at, found->second.id);
  }

  std::vector<Id> merged(std::vector<Id> ids) const {
    Symbols all{std::move(ids), {}, {}};
    const std::size_t count = all.ids.size();
    for (std::size_t i = 0; i < count; ++i) {
      all.next.push_back(i + 1);
      all.previous.push_back(i == 0 ? count : i - 1);
    }
    Queue queue;
    for (std::size_t i = 0; i < count; ++i) consider(all, i, queue);
    while (!queue.empty()) {
      const auto [rank, at, id] = queue.top();
      queue.pop();
      const std::size_t other = all.next[at];
      if (all.ids[at] < 0 || other >= count) continue;
      const auto still = merges.find(pair(all.ids[at], all.ids[other]));
      if (still == merges.end() || still->second.id != id) continue;  // a neighbour has changed
      all.ids[at] = id;
      all.ids[other] = -1;
      all.next[at] = all.next[other];
      if (all.next[other] < count) all.previous[all.next[other]] = at;
      consider(all, all.previous[at], queue);
      consider(all, at, queue);
    }
    std::vector<Id> left;
    for (Id id : all.ids) {
      if (id >= 0) left.push_back(id);
    }
    return left;
  }
};

// A word is a token.
class WordLevel : public TokenModel {
 public:
  void append_ids(const Text& word, std::vector<Id>& ids) const override {
    const Id id = id_of(to_utf8(word));
    ids.push_back(id >= 0 ? id : unknown);
  }

  Id unknown = -1;
};

const Json& part(const Json& json, const std::string& key, Json::Type type) {
  const Json* found = json.find(key);
  if (found == nullptr || found->type != type) throw JsonError("its model has no " + key);
  return *found;
}

// A text that may be left out, be null or be empty.
std::string word(const Json& json, const std::string& key) {
  const Json* found = json.find(key);
  return found != nullptr ? found->string : "";
}

bool flag(const Json& json, const std::string& key) {
  const Json* found = json.find(key);
  return found != nullptr && found->boolean;
}

void read_vocabulary(const Json& json, TokenModel& model) {
  for (const auto& [token, id] : part(json, "vocab", Json::Type::kObject).object) {
    if (id.type != Json::Type::kInt || id.whole < 0 || id.whole > INT32_MAX) {
      throw JsonError("the id of " + shown(token) + " is none");
    }
    model.vocabulary[token] = static_cast<Id>(id.whole);
  }
}

// Both halves of a merge, written as a list or with a space between.
std::pair<std::string, std::string> halves(const Json& merge) {
  if (merge.array.size() == 2) return {merge.array[0].string, merge.array[1].string};
  const std::size_t space = merge.string.find(' ');
  if (space == std::string::npos) throw JsonError("a merge is no pair");
  return {merge.string.substr(0, space), merge.string.substr(space + 1)};
}

std::unique_ptr<const TokenModel> read_bpe(const Json& json) {
  auto model = std::make_unique<Bpe>();
  read_vocabulary(json, *model);
  const Json* dropout = json.find("dropout");
  const bool random = dropout != nullptr && dropout->real > 0;
  if (random || !word(json, "continuing_subword_prefix").empty() || flag(json, "byte_fallback")) {
    throw JsonError("its BPE has dropout, a prefix or byte_fallback");
  }
  model->suffix = word(json, "end_of_word_suffix");
  model->fuse_unknown = flag(json, "fuse_unk");
  model->ignore_merges = flag(json, "ignore_merges");
  const std::string unknown = word(json, "unk_token");
  if (!unknown.empty()) model->unknown = model->id_of(unknown);
  for (const Json& merge : part(json, "merges", Json::Type::kArray).array) {
    const auto [one, other] = halves(merge);
    const Id first = model->id_of(one), second = model->id_of(other);
    const Id both = model->id_of(one + other);
    if (first < 0 || second < 0 || both < 0) {
      throw JsonError("the merge of " + shown(one) + " and " + shown(other) +
                      " is not in its vocabulary");
    }
    const std::uint64_t key =
        static_cast<std::uint64_t>(first) << 32 | static_cast<std::uint64_t>(second);
    model->merges[key] = {model->merges.size(), both};
  }
  return model;
}

}  // namespace

std::unique_ptr<const TokenModel> read_token_model(const Json& json) {
  const Json* type = json.find("type");
  const std::string kind = type != nullptr ? type->string : "";
  if (kind == "BPE" || (kind.empty() && json.find("merges") != nullptr)) return read_bpe(json);
  if (kind != "WordLevel") throw JsonError("its model is a " + (kind.empty() ? "riddle" : kind));
  auto model = std::make_unique<WordLevel>();
  read_vocabulary(json, *model);
  model->unknown = model->id_of(word(json, "unk_token"));
  if (model->unknown < 0) throw JsonError("its unk_token is not in its vocabulary");
  return model;
}

}  // namespace edgereel
