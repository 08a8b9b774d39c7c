// The sampling loop: one graph called once per step, while values move between fixed buffers.
//
// Nothing in it needs the results of a step on the host, so a device is never waited for.
#pragma once

#include <functional>
#include <optional>

#include "backend.hpp"
#include "call.hpp"

namespace edgereel_runtime {

// What a denoise op runs with.
struct Loop {
  Backend& backend;
  Engine& engine;
  const Steps& steps;
  Buffer x;                                  // f32, what the first step begins with
  Buffers conditions;                        // by input of the graph, equal in all steps
  bool reads_prev, reads_noise;              // whether the graph does
  std::function<Array(std::int64_t)> noise;  // of a step, where the sampler draws any

  using Before = std::function<void()>;
  using After = std::function<void(std::int64_t done, const Buffer& x0)>;

  // What the last step made, f32 of the shape of x. `before` is called before every step, and may
  // throw; `after` with the number of finished steps and what x0 became; the loop ends at the first
  // step whose result is not `wanted`.
  Buffer run(const Before& before, const After& after,
             const std::function<bool(const Buffer&)>& wanted) const;

  bool is_finite(const Buffer& buffer) const;  // waits for it

  // The step, from 1, whose result is not finite; 0 for x; none if all are. Runs the loop once
  // more, as far as that, and waits after each step.
  std::optional<std::int64_t> first_not_finite(const Before& before) const;
};

}  // namespace edgereel_runtime
