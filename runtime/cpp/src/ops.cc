#include "ops.hpp"

namespace edgereel_runtime {
namespace {

Words values_of(const Named<std::string>& names) {
  Words all;
  for (const auto& entry : names) all.push_back(entry.second);
  return all;
}

}  // namespace

Words reads(const Op& op) {
  return std::visit(Match{[](const Run& run) { return values_of(run.inputs); },
                          [](const Denoise& denoise) {
                            Words all = values_of(denoise.conditions);
                            all.push_back(denoise.x);
                            return all;
                          },
                          [](const Renoise& renoise) { return Words{renoise.x}; },
                          [](const auto&) { return Words(); }},
                    op);
}

Words writes(const Op& op) {
  return std::visit(Match{[](const Run& run) { return values_of(run.outputs); },
                          [](const Tokenize& tokenize) {
                            Words all = {tokenize.ids};
                            if (tokenize.mask) all.push_back(*tokenize.mask);
                            if (tokenize.row) all.push_back(*tokenize.row);
                            return all;
                          },
                          [](const Noise& noise) { return Words{noise.value}; },
                          [](const auto& other) { return Words{other.out}; }},
                    op);
}

const std::string* graph_of(const Op& op) {
  if (const auto* run = std::get_if<Run>(&op)) return &run->graph;
  const auto* denoise = std::get_if<Denoise>(&op);
  return denoise != nullptr ? &denoise->graph : nullptr;
}

}  // namespace edgereel_runtime
