#include "sampling.hpp"

#include <cstring>

namespace edgereel_runtime {
namespace {

Array zeros(const Dims& dims) {
  Array array(DType::kFloat32, dims);
  std::memset(array.raw(), 0, array.bytes());
  return array;
}

Array floats(const float* from, Dims dims) {
  Array array(DType::kFloat32, std::move(dims));
  if (array.bytes() > 0) std::memcpy(array.raw(), from, array.bytes());
  return array;
}

Buffers with(Buffers buffers, const std::string& name, const Buffer& buffer) {
  buffers.entries.emplace_back(name, buffer);
  return buffers;
}

}  // namespace

Buffer Loop::run(const Before& before, const After& after,
                 const std::function<bool(const Buffer&)>& wanted) const {
  const auto count = static_cast<std::int64_t>(steps.rows.size());
  const auto guided = static_cast<std::int64_t>(steps.weights.size());
  const auto width = static_cast<std::int64_t>(kRowWidth);
  if (count == 0) return x;
  const Buffer rows = backend.put(floats(steps.rows.data()->data(), {count, width}));
  const Buffer row = backend.empty(DType::kFloat32, {width});
  const Buffer weights = backend.put(floats(steps.weights.data(), {guided}));
  const Buffers fixed = with(with(conditions, "weights", weights), "row", row);
  Buffer now = x, drawn, prev;
  if (reads_noise) drawn = backend.put(zeros(x.dims()));
  if (reads_prev) prev = backend.put(zeros(x.dims()));
  Buffer pairs[2][2];
  for (auto& pair : pairs) {
    for (Buffer& buffer : pair) buffer = backend.empty(DType::kFloat32, x.dims());
  }
  for (std::int64_t k = 0; k < count; ++k) {
    before();
    backend.copy(rows[k], row);
    if (noise && steps.rows[static_cast<std::size_t>(k)][kCNoise] != 0) {
      backend.copy(noise(steps.first + k), drawn);
    }
    Buffers inputs = with(fixed, "x", now), outputs;
    if (reads_prev) inputs = with(inputs, "prev", prev);
    if (reads_noise) inputs = with(inputs, "noise", drawn);
    auto& [next, x0] = pairs[k % 2];
    outputs.entries = {{"x_next", next}, {"x0", x0}};
    engine.run(inputs, outputs);
    now = next;
    prev = x0;
    after(k + 1, x0);
    if (!wanted(now)) break;
  }
  return now;
}

bool Loop::is_finite(const Buffer& buffer) const { return backend.is_finite(buffer); }

std::optional<std::int64_t> Loop::first_not_finite(const Before& before) const {
  if (!is_finite(x)) return 0;
  std::int64_t steps_done = 0;
  const auto note = [&](std::int64_t done, const Buffer&) { steps_done = done; };
  const Buffer last = run(before, note, [&](const Buffer& made) { return is_finite(made); });
  return is_finite(last) ? std::nullopt : std::optional(steps_done);
}

}  // namespace edgereel_runtime
