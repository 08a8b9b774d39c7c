// The rules of how a denoise op samples: its schedule, its steps, and its guidance.
#pragma once

#include "plan_chunks.hpp"

namespace edgereel_runtime {

class SamplingRules : public Chunks {
 public:
  SamplingRules(const Document& plan, const Mode& mode) : Chunks(mode), plan(plan) {}

  void check_sampling(const std::string& place, const Denoise& op);
  TensorSpec check_guidance(const std::string& place, const std::optional<Guidance>& guidance);

  const Document& plan;
  Sizes rows_size;  // rows name -> size of its axis

 private:
  void check_range(const std::string& place, const Range& range);
};

}  // namespace edgereel_runtime
