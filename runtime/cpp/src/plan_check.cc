#include "plan_check.hpp"

#include <algorithm>
#include <cmath>

#include "errors.hpp"
#include "plan_flow.hpp"
#include "plan_scope.hpp"

namespace edgereel_runtime {
namespace {

bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool digit(char c) { return c >= '0' && c <= '9'; }

bool named_well(const std::string& name) {
  const auto good = [](char c) {
    return letter(c) || digit(c) || c == '.' || c == '+' || c == '-';
  };
  return !name.empty() && (letter(name[0]) || digit(name[0])) &&
         std::all_of(name.begin(), name.end(), good);
}

bool good_symbol(const std::string& symbol) {
  const auto good = [](char c) { return letter(c) || digit(c); };
  return !symbol.empty() && letter(symbol[0]) && std::all_of(symbol.begin(), symbol.end(), good);
}

Words split(const std::string& text, char at) {
  Words parts(1);
  for (char c : text) {
    if (c == at) {
      parts.emplace_back();
    } else {
      parts.back().push_back(c);
    }
  }
  return parts;
}

bool plain_path(const std::string& path) {
  const auto bad = [](char c) {
    const unsigned byte = static_cast<unsigned char>(c);
    return c == '\\' || c == ':' || byte < 0x20 || byte == 0x7F;
  };
  const Words parts = split(path, '/');
  return std::none_of(path.begin(), path.end(), bad) &&
         std::none_of(parts.begin(), parts.end(), [](const std::string& part) {
           return part.empty() || part == "." || part == "..";
         });
}

void check_listed(const Document& plan, const std::string& place, const std::string& file) {
  if (!plan.files.has(file)) {
    wrong(place, shown(file) + " is not listed in files", "its path and sha256 there");
  }
}

void check_files(const Document& plan) {
  for (const auto& [path, hash] : plan.files) {
    const std::string place = "files." + path;
    if (!plain_path(path)) {
      wrong(place, "is not a plain path", "a relative path with '/' that stays in the folder");
    }
    const auto hex = [](char c) { return digit(c) || (c >= 'a' && c <= 'f'); };
    if (hash.size() != 64 || !std::all_of(hash.begin(), hash.end(), hex)) {
      wrong(place, shown(hash) + " is not a sha256", "64 lowercase hex digits");
    }
  }
  for (const auto& [name, graph] : plan.graphs) {
    check_listed(plan, "graphs." + name + ".file", graph.file);
    for (std::size_t i = 0; i < graph.weights.size(); ++i) {
      check_listed(plan, "graphs." + name + ".weights[" + std::to_string(i) + "]",
                   graph.weights[i]);
    }
    if (graph.golden) check_listed(plan, "graphs." + name + ".golden", *graph.golden);
  }
  for (const auto& [name, schedule] : plan.schedules) {
    check_listed(plan, "schedules." + name + ".file", schedule.file);
  }
  for (const auto& [name, tokenizer] : plan.tokenizers) {
    check_listed(plan, "tokenizers." + name + ".file", tokenizer.file);
  }
}

void check_name(const std::string& place, const std::string& name) {
  if (!named_well(name)) {
    wrong(place, shown(name) + " is not a name", "letters, digits, '_', '.', '+', '-'");
  }
}

void check_shape(const std::string& place, const TensorSpec& spec) {
  for (const Axis& axis : spec.shape) {
    if (is_symbol(axis) ? !good_symbol(symbol_of(axis)) : std::get<Int>(axis) <= 0) {
      wrong(place + ".shape", shown(axis) + " is not a size", "ints above 0 and symbols like 'G'");
    }
  }
}

// The terms are products of symbols of the inputs.
void check_polynomial(const std::string& place, const Named<double>& terms, const Set& known) {
  for (const auto& [product, factor] : terms) {
    const Words symbols = product.empty() ? Words() : split(product, '*');
    for (const std::string& symbol : symbols) {
      if (known.count(symbol)) continue;
      wrong(place, shown(product) + " is no product of symbols of the inputs",
            "one like 'F*h*w', or '' for 1");
    }
    if (!(factor >= 0)) wrong(place + "." + product, text(factor), "at least 0");
  }
}

void check_polynomials(const std::string& place, const GraphSpec& graph) {
  Set known;
  for (const auto& entry : graph.inputs) {
    for (const Axis& axis : entry.second.shape) {
      if (is_symbol(axis)) known.insert(symbol_of(axis));
    }
  }
  const auto each = [&](const std::string& name, const std::vector<Named<double>>& all) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      check_polynomial(place + "." + name + "[" + std::to_string(i) + "]", all[i], known);
    }
  };
  each("activations", graph.activations);
  each("activations_kernels", graph.activations_kernels);
  check_polynomial(place + ".flops", graph.flops, known);
  check_polynomial(place + ".traffic", graph.traffic, known);
}

void check_multiple(const std::string& place, const Param& param) {
  if (param.multiple < 1) {
    wrong(place + ".multiple", "is " + text(param.multiple), "at least 1");
  }
  const std::pair<const char*, const std::optional<Scalar>&> fields[] = {
      {"default", param.number}, {"min", param.min}, {"max", param.max}};
  for (const auto& [field, number] : fields) {
    if (number && std::get<Int>(*number) % param.multiple != 0) {
      wrong(place + "." + field, "is " + text(*number), "a multiple of " + text(param.multiple));
    }
  }
}

std::string text_or_none(const std::optional<Scalar>& number) {
  return number ? text(*number) : "None";
}

void check_number(const std::string& place, const Param& param) {
  if (param.min && param.max && less(*param.max, *param.min)) {
    wrong(place, "min " + text(*param.min) + " is above max " + text(*param.max), "min <= max");
  }
  if (param.number && ((param.min && less(*param.number, *param.min)) ||
                       (param.max && less(*param.max, *param.number)))) {
    wrong(place + ".default", text(*param.number) + " is out of range",
          text_or_none(param.min) + " to " + text_or_none(param.max));
  }
  if (param.type == ParamType::kInt) check_multiple(place, param);
}

void check_choice(const std::string& place, const Param& param) {
  const Set different(param.choices.begin(), param.choices.end());
  if (param.choices.empty() || different.size() < param.choices.size()) {
    Words all;
    for (const std::string& choice : param.choices) all.push_back(shown(choice));
    wrong(place + ".choices", "[" + joined(all) + "]", "one or more different words");
  }
  if (param.word && different.count(*param.word) == 0) {
    wrong(place + ".default", shown(*param.word) + " is not a choice",
          "one of " + names(param.choices));
  }
}

std::string described(const std::optional<Whole>& number) {
  if (!number) return "None";
  if (const auto* ref = std::get_if<Ref>(&*number)) return "Ref(param=" + shown(ref->param) + ")";
  return text(std::get<Int>(*number));
}

void check_video(const std::string& place, const Param& param) {
  if (param.height.has_value() != param.width.has_value() || (param.height && param.longest)) {
    wrong(place,
          "has longest " + described(param.longest) + ", height " + described(param.height) +
              " and width " + described(param.width),
          "longest, or both others, or none");
  }
  if (param.multiple < 1 || (param.multiple > 1 && !param.longest)) {
    wrong(place + ".multiple",
          "is " + text(param.multiple) + ", and longest is " + described(param.longest),
          "at least 1, and 1 if nothing is scaled");
  }
}

void check_params(const std::string& place, const Named<Param>& params) {
  static const Set kReserved = {"mode", "callback", "noise", "params"};
  std::map<std::string, std::string> owners;
  for (const auto& [name, param] : params) {
    const std::string at = place + "." + name;
    Words spellings = {name};
    spellings.insert(spellings.end(), param.aliases.begin(), param.aliases.end());
    for (const std::string& word : spellings) {
      check_name(at, word);
      const auto owner = owners.find(word);
      if (kReserved.count(word) || owner != owners.end()) {
        const std::string whose =
            owner != owners.end() ? "param " + shown(owner->second) : "Edgereel itself";
        wrong(at, "the spelling " + shown(word) + " belongs to " + whose, "another one");
      }
      owners[word] = name;
    }
    if (param.numeric()) check_number(at, param);
    if (param.type == ParamType::kChoice) check_choice(at, param);
    if (param.type == ParamType::kVideo) check_video(at, param);
  }
}

void check_row(const std::string& place, const Row& row, const Named<Param>& params) {
  if (row.param.has_value() == row.text.has_value() || (!row.append.empty() && !row.param)) {
    wrong(place, "is not a row", "either param (and append) or text");
  }
  if (!row.param) return;
  const Param* param = params.find(*row.param);
  if (param != nullptr && param->type == ParamType::kText) return;
  Words texts;
  for (const auto& entry : params) {
    if (entry.second.type == ParamType::kText) texts.push_back(entry.first);
  }
  wrong(place + ".param", shown(*row.param) + " is not a text param", "one of " + names(texts));
}

void check_mode(const std::string& place, const Mode& mode) {
  check_params(place + ".params", mode.params);
  for (const auto& [name, spec] : mode.values) {
    check_name(place + ".values." + name, name);
    check_shape(place + ".values." + name, spec);
  }
  for (const auto& entry : mode.sizes) {
    if (!good_symbol(entry.first)) {
      wrong(place + ".sizes", shown(entry.first) + " is not a symbol", "one like 'H'");
    }
  }
  for (const auto& [name, rows] : mode.rows) {
    const std::string at = place + ".rows." + name;
    if (rows.empty()) wrong(at, "is empty", "at least one row");
    for (std::size_t i = 0; i < rows.size(); ++i) {
      check_row(at + "[" + std::to_string(i) + "]", rows[i], mode.params);
    }
  }
  Set stages;
  for (const Stage& stage : mode.stages) stages.insert(stage.name);
  if (stages.size() < mode.stages.size()) {
    wrong(place + ".stages", "two stages have one name", "a name for each stage");
  }
}

}  // namespace

void check_plan(const Document& plan) {
  check_files(plan);
  for (const auto& [name, graph] : plan.graphs) {
    const std::string place = "graphs." + name;
    check_name(place, name);
    for (const auto& [tensor, spec] : graph.inputs) check_shape(place + ".inputs." + tensor, spec);
    for (const auto& [tensor, spec] : graph.outputs) {
      check_shape(place + ".outputs." + tensor, spec);
    }
    check_polynomials(place, graph);
  }
  for (const auto& [name, tokenizer] : plan.tokenizers) {
    if (tokenizer.length < 1 || tokenizer.pad_id < 0) {
      wrong("tokenizers." + name,
            "length " + text(tokenizer.length) + ", pad_id " + text(tokenizer.pad_id),
            "a length of at least 1 and a pad_id of at least 0");
    }
  }
  if (plan.modes.entries.empty()) wrong("modes", "is empty", "at least one mode");
  for (const auto& [name, mode] : plan.modes) {
    check_name("modes." + name, name);
    check_mode("modes." + name, mode);
    check_flow(plan, mode, "modes." + name);
  }
}

}  // namespace edgereel_runtime
