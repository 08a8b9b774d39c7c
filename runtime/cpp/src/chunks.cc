#include "chunks.hpp"

#include "plan_scope.hpp"

namespace edgereel_runtime {
namespace {

using RunChunk = std::function<Buffers(const std::vector<Span>&)>;

// The chunks within the spans `chosen` of the first windows.
Buffers joined_within(Backend& backend, const Call& call, std::size_t stage, const RunChunk& run,
                      std::vector<Span> chosen) {
  const Each& each = *call.mode.stages[stage].each;
  const std::size_t depth = chosen.size();
  if (depth == each.windows.size()) return run(chosen);
  const std::vector<Span>& spans = call.spans[stage][depth];
  chosen.emplace_back();
  Buffers whole;
  std::int64_t done = 0;
  for (const Span& span : spans) {
    chosen.back() = span;
    Buffers parts = joined_within(backend, call, stage, run, chosen);
    if (spans.size() == 1) return parts;
    for (const auto& [name, part] : parts) {
      const auto [axis, by] = *cut(call.mode, name, each.windows[depth].symbol);
      const auto times = static_cast<std::int64_t>(by);
      if (!whole.has(name)) {
        Dims dims = part.dims();
        dims[axis] = spans.back().stop * times;
        whole.entries.emplace_back(name, backend.empty(part.dtype(), dims));
      }
      backend.join(whole.at(name), part, axis, span.start * times, done * times);
    }
    done = span.stop;
  }
  return whole;
}

}  // namespace

Buffer part_of(Backend& backend, const Buffer& whole,
               const std::vector<std::pair<std::size_t, Span>>& cuts) {
  Buffer found = whole;
  for (const auto& [axis, span] : cuts) {
    Buffer body = backend.cut(found, axis, span.start, span.stop);
    if (span.lead > 0) {  // of axis 0
      Dims dims = body.dims();
      dims[0] += span.lead;
      const Buffer both = backend.empty(found.dtype(), dims);
      backend.copy(found.part(0, span.lead), both.part(0, span.lead));
      backend.copy(body, both.part(span.lead, dims[0]));
      body = both;
    }
    found = body;
  }
  return found;
}

Buffers joined_chunks(Backend& backend, const Call& call, std::size_t stage, const RunChunk& run) {
  return joined_within(backend, call, stage, run, {});
}

}  // namespace edgereel_runtime
