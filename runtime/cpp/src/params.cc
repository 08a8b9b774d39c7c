#include "params.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "close_words.hpp"
#include "errors.hpp"

namespace edgereel_runtime {
namespace {

// What a param takes, for the middle of a sentence.
std::string kind_of(const Param& param) {
  switch (param.type) {
    case ParamType::kText:
      return "a text";
    case ParamType::kChoice:
      return "one of " + joined(param.choices);
    case ParamType::kVideo:
      return "a video file, a folder of PNG or JPEG pictures, or an .npz of frames";
    case ParamType::kInt:
    case ParamType::kFloat:
      break;
  }
  std::string kind = param.type == ParamType::kInt ? "a whole number" : "a number";
  if (param.type == ParamType::kInt && param.multiple > 1) {
    kind = "a multiple of " + text(param.multiple);
  }
  if (param.min && param.max) return kind + " from " + text(*param.min) + " to " + text(*param.max);
  if (param.min) return kind + " of at least " + text(*param.min);
  return param.max ? kind + " of at most " + text(*param.max) : kind;
}

std::string type_of(const Value& value) {
  static const char* const kTypes[] = {"str", "int", "float", "ndarray"};
  return kTypes[value.index()];
}

std::string shown_value(const Value& value) {
  if (const auto* word = std::get_if<std::string>(&value)) return shown(*word);
  if (const auto* whole = std::get_if<Int>(&value)) return text(*whole);
  if (const auto* real = std::get_if<double>(&value)) return text(*real);
  return "an array " + described(std::get<Array>(value));
}

Value checked_text(const std::string& word, const Param& param, const Value& value) {
  const auto* given = std::get_if<std::string>(&value);
  if (given == nullptr) {
    fail(Kind::kInput,
         word + " is a " + type_of(value) + "; expected a text. Put it into quotation marks.");
  }
  if (!param.word && blank(*given)) {
    fail(Kind::kInput, word +
                           " is empty; expected a description of the video. Say in a few words "
                           "what should be seen, for example 'a red circle moving right'.");
  }
  return value;
}

Value checked_video(const std::string& word, const Param& param, const Value& value) {
  if (std::holds_alternative<Array>(value)) return value;
  const auto* path = std::get_if<std::string>(&value);
  if (path != nullptr && !blank(*path)) return value;
  fail(Kind::kInput, word + " is " + (path ? "empty" : "a " + type_of(value)) + "; expected " +
                         kind_of(param) + ". Give its path, or a numpy array.");
}

Scalar as_number(const Value& value) {
  if (const auto* whole = std::get_if<Int>(&value)) return *whole;
  if (const auto* real = std::get_if<double>(&value)) return *real;
  return std::nan("");
}

Value checked_number(const std::string& word, const Param& param, const Value& value) {
  const std::string kind = kind_of(param);
  const Scalar number = as_number(value);
  const double size = as_double(number);
  const bool wanted_whole = param.type == ParamType::kInt;
  // Whatever is beyond float32 would reach a graph as infinity.
  if (!(std::fabs(size) <= FLT_MAX) || (wanted_whole && std::fmod(size, 1) != 0)) {
    fail(Kind::kInput, word + " is " + shown_value(value) + "; expected " + kind +
                           ". Give a number of that kind.");
  }
  if ((param.min && less(number, *param.min)) || (param.max && less(*param.max, number))) {
    fail(Kind::kInput,
         word + " is " + text(number) + "; expected " + kind + ". Choose a number in that range.");
  }
  if (!wanted_whole) return size;
  const Int* given = std::get_if<Int>(&number);
  const Int whole = given != nullptr ? *given : static_cast<Int>(size);
  if (whole % param.multiple != 0) {
    const Int near = static_cast<Int>(std::nearbyint(static_cast<double>(whole) /
                                                     static_cast<double>(param.multiple))) *
                     param.multiple;
    fail(Kind::kInput, word + " is " + text(number) + "; expected " + kind +
                           ". Choose, for example, " + text(near) + ".");
  }
  return whole;
}

std::optional<Value> fallback(const Param& param) {
  if (param.word) return Value(*param.word);
  if (!param.number) return std::nullopt;
  return std::visit([](auto number) { return Value(number); }, *param.number);
}

Value checked(const std::string& word, const Param& param, const Value* given) {
  std::optional<Value> value = given != nullptr ? std::optional<Value>(*given) : fallback(param);
  if (!value) {
    const std::string about = param.description.empty() ? "" : " (" + param.description + ")";
    fail(Kind::kInput,
         word + about + " is missing; expected " + kind_of(param) + ". Give it a value.");
  }
  if (param.type == ParamType::kText) return checked_text(word, param, *value);
  if (param.type == ParamType::kVideo) return checked_video(word, param, *value);
  if (param.numeric()) return checked_number(word, param, *value);
  const auto* choice = std::get_if<std::string>(&*value);
  if (choice == nullptr ||
      std::find(param.choices.begin(), param.choices.end(), *choice) == param.choices.end()) {
    fail(Kind::kInput, word + " is " + shown_value(*value) + "; expected one of " +
                           joined(param.choices) + ". Choose one.");
  }
  return *value;
}

[[noreturn]] void unknown(const std::string& word, const Mode& mode) {
  Words words = mode.params.keys();
  for (const auto& entry : mode.params) {
    words.insert(words.end(), entry.second.aliases.begin(), entry.second.aliases.end());
  }
  const auto close = closest(word, words);
  fail(Kind::kInput,
       "there is no param " + shown(word) + "; expected one of " + joined(words) + ". " +
           (close ? "Did you mean " + *close + "?" : "Drop it, or use one of these."));
}

// The name of a param from one of its spellings, or nullptr.
const std::string* owner(const Mode& mode, const std::string& word) {
  for (const auto& [name, param] : mode.params) {
    const bool alias =
        std::find(param.aliases.begin(), param.aliases.end(), word) != param.aliases.end();
    if (name == word || alias) return &name;
  }
  return nullptr;
}

}  // namespace

Values fill_params(const Mode& mode, const Values& given) {
  std::map<std::string, std::pair<std::string, const Value*>> spelled;  // name -> as given
  for (const auto& [word, value] : given) {
    const std::string* name = owner(mode, word);
    if (name == nullptr) unknown(word, mode);
    const auto before = spelled.find(*name);
    if (before != spelled.end()) {
      fail(Kind::kInput, word + " and " + before->second.first +
                             " are the same setting and both are given; expected one. Drop one "
                             "of them.");
    }
    spelled[*name] = {word, &value};
  }
  Values filled;
  for (const auto& [name, param] : mode.params) {
    const auto found = spelled.find(name);
    const bool was_given = found != spelled.end();
    filled.entries.emplace_back(name, checked(was_given ? found->second.first : name, param,
                                              was_given ? found->second.second : nullptr));
  }
  return filled;
}

}  // namespace edgereel_runtime
