#include "chunks.hpp"

#include "plan_scope.hpp"

namespace edgereel_runtime {
namespace {

using RunChunk = std::function<Arrays(const std::vector<Span>&)>;

// The chunks within the spans `chosen` of the first windows.
Arrays joined_within(const Call& call, std::size_t stage, const RunChunk& run,
                     std::vector<Span> chosen) {
  const Each& each = *call.mode.stages[stage].each;
  const std::size_t depth = chosen.size();
  if (depth == each.windows.size()) return run(chosen);
  const std::vector<Span>& spans = call.spans[stage][depth];
  chosen.emplace_back();
  Arrays whole;
  std::int64_t done = 0;
  for (const Span& span : spans) {
    chosen.back() = span;
    Arrays parts = joined_within(call, stage, run, chosen);
    if (spans.size() == 1) return parts;
    for (const auto& [name, part] : parts) {
      const auto [axis, by] = *cut(call.mode, name, each.windows[depth].symbol);
      const auto times = static_cast<std::int64_t>(by);
      if (!whole.has(name)) {
        Dims dims = part.dims();
        dims[axis] = spans.back().stop * times;
        whole.entries.emplace_back(name, Array(part.dtype(), dims));
      }
      join(whole.at(name), part, axis, span.start * times, done * times);
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
    if (axis != 0) {
      found = backend.put(backend.get(found).part(axis, span.start, span.stop));
      continue;
    }
    const Buffer body = found.part(span.start, span.stop);
    found = span.lead > 0
                ? backend.put(stacked(backend.get(found.part(0, span.lead)), backend.get(body)))
                : body;
  }
  return found;
}

Arrays joined_chunks(const Call& call, std::size_t stage, const RunChunk& run) {
  return joined_within(call, stage, run, {});
}

}  // namespace edgereel_runtime
