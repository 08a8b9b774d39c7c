// The part of a call that fixes the steps of its loops.
#include <algorithm>
#include <stdexcept>

#include "call.hpp"
#include "errors.hpp"

namespace edgereel_runtime {

template <typename T>
void Call::check_order(const std::optional<T>& clean, const T& noisy) const {
  if (!clean) return;
  const Scalar low = number_of(*clean, params), high = number_of(noisy, params);
  if (less(low, high)) return;
  const auto said = [&](const T& field, const Scalar& number) {
    const auto* ref = std::get_if<Ref>(&field);
    return (ref ? ref->param : "the plan's timestep") + " is " + general(as_double(number));
  };
  throw std::invalid_argument(said(*clean, low) + " and " + said(noisy, high) +
                              "; expected the first to be the lower timestep, as it has less "
                              "noise. Change one of them.");
}

void Call::resolve(const Op& op, const Tables& tables) {
  if (const auto* denoise = std::get_if<Denoise>(&op)) {
    steps[denoise->out] = steps_of(*denoise, tables.at(denoise->schedule));
  }
  if (const auto* again = std::get_if<Renoise>(&op)) {
    check_order(again->from, again->to);
    std::optional<Scalar> start, end = number_of(again->to, params);
    if (again->from) start = number_of(*again->from, params);
    if (again->along) {
      start = lowered(start, *again->along);
      end = lowered(end, *again->along);
    }
    renoise[again->out] = renoise_coefficients(tables.at(again->schedule), start, *end);
  }
}

std::vector<double> Call::weights(const Guidance& guidance) const {
  std::vector<double> all;
  for (const Weight& weight : guidance.weights) {
    double sum = 0;
    for (const auto& [name, factor] : weight.params) {
      sum += factor * as_double(number_of(Number(Ref{name}), params));
    }
    all.push_back(weight.constant + sum);
  }
  return all;
}

// Indices of the rows that some denoise op gives a weight, or of all if none guides.
std::vector<std::size_t> Call::kept_rows(const std::string& rows) const {
  std::vector<std::vector<double>> guided;
  for (const Stage& stage : mode.stages) {
    for (const Op& op : stage.ops) {
      const auto* denoise = std::get_if<Denoise>(&op);
      if (denoise != nullptr && denoise->guidance && denoise->guidance->rows == rows) {
        guided.push_back(weights(*denoise->guidance));
      }
    }
  }
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < mode.rows.at(rows).size(); ++i) {
    const auto counts = [&](const std::vector<double>& of_op) { return of_op[i] != 0; };
    if (guided.empty() || std::any_of(guided.begin(), guided.end(), counts)) found.push_back(i);
  }
  if (found.empty()) {
    fail(Kind::kInput, "the guidance gives every one of the " + rows +
                           " rows the weight 0; expected one that counts. Change the guidance.");
  }
  return found;
}

std::optional<Scalar> Call::lowered(const std::optional<Scalar>& t,
                                    const std::string& along) const {
  if (!t) return std::nullopt;
  const std::vector<float>& visited = steps.at(along).trajectory;
  const float limit = static_cast<float>(as_double(*t));
  std::optional<float> highest;
  for (float timestep : visited) {
    if (timestep <= limit && (!highest || timestep > *highest)) highest = timestep;
  }
  if (!highest) {
    const float last = *std::min_element(visited.begin(), visited.end());
    throw std::invalid_argument("timestep " + general(as_double(*t)) + " is below " +
                                general(last) +
                                ", the last that is visited; expected a higher one. Raise it, or "
                                "take more steps.");
  }
  return Scalar(static_cast<double>(*highest));
}

Steps Call::steps_of(const Denoise& op, const Levels& table) const {
  const std::string& sampler = word_of(op.sampler, params);
  const std::string* own = op.spacings.find(sampler);
  Sampling sampling{sampler,  own != nullptr ? *own : word_of(op.spacing, params),
                    0,        number_of(op.eta, params),
                    op.final, op.variance};
  sampling.steps = static_cast<std::int64_t>(
      std::min<Int>(std::get<Int>(number_of(op.steps, params)), INT64_MAX));
  Steps found;
  found.rows = sampler_rows(sampling, table);
  for (const auto& row : found.rows) found.trajectory.push_back(row[kT]);
  if (op.range) {
    check_order(op.range->to, op.range->from);
    const double high = as_double(number_of(op.range->from, params));
    std::optional<double> low;
    if (op.range->to) low = as_double(number_of(*op.range->to, params));
    const auto above = [&](float t) { return t > static_cast<float>(high); };
    found.first = std::count_if(found.trajectory.begin(), found.trajectory.end(), above);
    found.rows = row_range(found.rows, high, low);
  }
  check_inputs(op, sampler, found.rows);
  if (!op.guidance) {
    found.weights = {1};
    return found;
  }
  const std::vector<double> every = weights(*op.guidance);
  for (std::size_t index : kept.at(op.guidance->rows)) {
    found.weights.push_back(static_cast<float>(every[index]));
  }
  return found;
}

void Call::check_inputs(const Denoise& op, const std::string& sampler, const Rows& rows) const {
  for (const auto& [column, name] : {std::pair(kCPrev, "prev"), std::pair(kCNoise, "noise")}) {
    const auto used = [&, &at = column](const auto& row) { return row[at] != 0; };
    if (plan.graphs.at(op.graph).inputs.has(name) || std::none_of(rows.begin(), rows.end(), used)) {
      continue;
    }
    fail(Kind::kInput, "sampler " + shown(sampler) + " with eta " +
                           text(number_of(op.eta, params)) + " needs an input '" + name +
                           "' that graph " + shown(op.graph) +
                           " does not have; expected a sampler it was exported for. Choose "
                           "another, or export the cascade with that input.");
  }
}

}  // namespace edgereel_runtime
