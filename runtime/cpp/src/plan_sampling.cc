#include "plan_sampling.hpp"

#include <algorithm>

namespace edgereel_runtime {

void SamplingRules::check_sampling(const std::string& place, const Denoise& op) {
  find(place + ".schedule", op.schedule, plan.schedules, "schedule");
  choice(place + ".sampler", op.sampler, kSamplers);
  choice(place + ".spacing", op.spacing, kSpacings);
  Words choices;
  if (const auto* ref = std::get_if<Ref>(&op.sampler)) {
    choices = mode.params.at(ref->param).choices;
  }
  Words extra;
  for (const auto& entry : op.spacings) {
    if (std::find(choices.begin(), choices.end(), entry.first) == choices.end()) {
      extra.push_back(entry.first);
    }
  }
  if (!extra.empty()) {
    wrong(place + ".spacings." + *std::min_element(extra.begin(), extra.end()),
          "nobody can choose it", "choices of the sampler");
  }
  number(place + ".steps", op.steps, {Scalar(Int(1)), true});
  number(place + ".eta", op.eta, {Scalar(Int(0)), false});
  if (op.range) check_range(place + ".range", *op.range);
}

void SamplingRules::check_range(const std::string& place, const Range& range) {
  number(place + ".from", range.from, {Scalar(Int(0)), false});
  if (range.to) number(place + ".to", *range.to, {Scalar(Int(0)), false});
  const double* high = std::get_if<double>(&range.from);
  const double* low = range.to ? std::get_if<double>(&*range.to) : nullptr;
  if (high != nullptr && low != nullptr && *high <= *low) {
    wrong(place + ".to", text(*low) + " >= from", "a less noisy timestep");
  }
}

// The spec of the weights; unguided there is one row of weight 1.
TensorSpec SamplingRules::check_guidance(const std::string& op,
                                         const std::optional<Guidance>& guidance) {
  if (!guidance) return {"float32", {Int(1)}};
  const std::string place = op + ".guidance";
  const auto& rows = find(place + ".rows", guidance->rows, mode.rows, "rows list");
  const Axis* size = rows_size.find(guidance->rows);
  if (size == nullptr || !is_symbol(*size)) {
    wrong(place + ".rows", shown(guidance->rows) + " has the axis " + (size ? text(*size) : "None"),
          "rows tokenized before, with a symbol as axis 0 of ids, since rows can be dropped");
  }
  if (guidance->weights.size() != rows.size()) {
    wrong(place + ".weights", "there are " + std::to_string(guidance->weights.size()),
          std::to_string(rows.size()) + ", one per row");
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (const auto& entry : guidance->weights[i].params) {
      referred(place + ".weights[" + std::to_string(i) + "].params." + entry.first, entry.first,
               {});
    }
  }
  return {"float32", {*size}};
}

}  // namespace edgereel_runtime
