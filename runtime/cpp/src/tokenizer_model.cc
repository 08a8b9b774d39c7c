#include "tokenizer_model.hpp"

#include <algorithm>
#include <queue>
#include <tuple>

namespace edgereel_runtime {
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

// A unigram model (Kudo 2018): of all ways to cut a word, the one whose pieces score most.
class Unigram : public TokenModel {
 public:
  void append_ids(const Text& text, std::vector<Id>& ids) const override {
    const std::string word = to_utf8(text);
    std::vector<std::string> found;  // from the end
    std::string strange;             // neighbours that are unknown are one
    for (const std::string& piece : pieces_from_end(word)) {
      if (id_of(piece) < 0 || id_of(piece) == unknown) {
        strange = piece + strange;
        continue;
      }
      if (!strange.empty()) found.push_back(std::move(strange));
      strange.clear();
      found.push_back(piece);
    }
    if (!strange.empty()) found.push_back(strange);
    for (auto piece = found.rbegin(); piece != found.rend(); ++piece) {
      const Id id = id_of(*piece);
      ids.push_back(id >= 0 ? id : unknown);
    }
  }

  std::vector<double> scores;  // by id
  double least = 0;            // of all scores
  std::size_t longest = 0;     // bytes of a piece
  Id unknown = -1;

 private:
  static constexpr double kUnknownPenalty = 10;

  // The best way to the end of some bytes: its score, and where its last piece starts.
  struct Way {
    double score = 0;
    std::size_t start = std::string::npos;
  };

  static void offer(Way& way, double score, std::size_t start) {
    if (way.start == std::string::npos || score > way.score) way = {score, start};
  }

  std::vector<std::string> pieces_from_end(const std::string& word) const {
    std::vector<Way> ways(word.size() + 1);
    for (std::size_t start = 0; start < word.size();) {
      std::size_t next = start;
      next_code_point(word, next);
      bool single = false;
      for (std::size_t size = 1; size <= std::min(longest, word.size() - start); ++size) {
        const Id id = id_of(word.substr(start, size));
        if (id < 0) continue;
        offer(ways[start + size], scores[static_cast<std::size_t>(id)] + ways[start].score, start);
        single = single || start + size == next;
      }
      if (!single) offer(ways[next], least - kUnknownPenalty + ways[start].score, start);
      start = next;
    }
    std::vector<std::string> found;
    for (std::size_t end = word.size(); end > 0; end = ways[end].start) {
      found.push_back(word.substr(ways[end].start, end - ways[end].start));
    }
    return found;
  }
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

std::unique_ptr<const TokenModel> read_unigram(const Json& json) {
  auto model = std::make_unique<Unigram>();
  for (const Json& entry : part(json, "vocab", Json::Type::kArray).array) {
    if (entry.array.size() != 2) throw JsonError("a piece of its vocabulary has no score");
    const Json& score = entry.array[1];
    const std::string& piece = entry.array[0].string;
    model->vocabulary[piece] = static_cast<Id>(model->scores.size());
    model->scores.push_back(score.type == Json::Type::kInt ? static_cast<double>(score.whole)
                                                           : score.real);
    model->least = std::min(model->least, model->scores.back());
    model->longest = std::max(model->longest, piece.size());
  }
  const Json& unknown = part(json, "unk_id", Json::Type::kInt);
  if (flag(json, "byte_fallback") || unknown.whole < 0 ||
      unknown.whole >= static_cast<Int>(model->scores.size())) {
    throw JsonError("its Unigram has byte_fallback, or no unknown piece");
  }
  model->unknown = static_cast<Id>(unknown.whole);
  return model;
}

}  // namespace

std::unique_ptr<const TokenModel> read_token_model(const Json& json) {
  const Json* type = json.find("type");
  const std::string kind = type != nullptr ? type->string : "";
  if (kind == "BPE" || (kind.empty() && json.find("merges") != nullptr)) return read_bpe(json);
  if (kind == "Unigram") return read_unigram(json);
  if (kind != "WordLevel") throw JsonError("its model is a " + (kind.empty() ? "riddle" : kind));
  auto model = std::make_unique<WordLevel>();
  read_vocabulary(json, *model);
  model->unknown = model->id_of(word(json, "unk_token"));
  if (model->unknown < 0) throw JsonError("its unk_token is not in its vocabulary");
  return model;
}

}  // namespace edgereel_runtime
