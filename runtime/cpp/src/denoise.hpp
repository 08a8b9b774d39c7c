// The sampling loop of one denoise op.
#pragma once

#include <functional>

#include "backend.hpp"
#include "call.hpp"

namespace edgereel_runtime {

// What a loop works with, beside the steps.
struct Sampled {
  const Denoise& op;
  const GraphSpec& graph;
  Buffer x;            // the latents that it starts from
  Buffers conditions;  // by input of the graph
};

// What a loop asks of its caller. The addresses that a graph is given are the same in every other
// step, so that a backend may record two steps and play them again.
struct Stepping {
  std::function<void(const Buffers& inputs, const Buffers& outputs)> run;
  std::function<Array(std::int64_t step)> draw;  // noise of a step of the whole trajectory
  std::function<void(std::int64_t done, std::int64_t steps, const Buffer& x0)> report;
};

// The latents after the last step; throws Error, of the graph or where they are not finite.
Buffer denoised(Backend& backend, const Sampled& sampled, const Steps& steps,
                const Stepping& stepping);

}  // namespace edgereel_runtime
