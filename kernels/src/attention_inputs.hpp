// The sizes of a call of edgereel::TemporalAttention, from the shapes of its inputs.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "shapes.hpp"

namespace edgereel {

using Sizes = std::vector<std::int64_t>;  // -1: not known yet; none at all: not even how many

struct AttentionAttributes {
  std::int64_t heads;
  bool interleaved;
  float scale;
};

// Null is an input that is not there.
struct AttentionInputs {
  const Sizes* qkv;
  const Sizes* cos;
  const Sizes* sin;
  const Sizes* bias;
};

inline std::string text(const Sizes& sizes) {
  std::ostringstream out;
  out << '[';
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    out << (i ? ", " : "");
    sizes[i] == -1 ? out << '?' : out << sizes[i];
  }
  out << ']';
  return out.str();
}

template <typename... Parts>
std::string sentence(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

namespace inputs {

inline bool same(std::int64_t a, std::int64_t b) { return a == -1 || b == -1 || a == b; }

inline bool same(const Sizes& a, const Sizes& b) {
  bool all = a.size() == b.size();
  for (std::size_t i = 0; all && i < a.size(); ++i) all = same(a[i], b[i]);
  return all;
}

// As read_shape, of the tables; `shape` has the other sizes.
inline std::string read_tables(const AttentionInputs& given, TemporalAttentionShape& shape) {
  if ((given.cos == nullptr) != (given.sin == nullptr))
    return "expected both of cos and sin, or none";
  if (given.cos == nullptr || given.cos->empty() || given.sin->empty()) return "";
  const Sizes &cos = *given.cos, &sin = *given.sin;
  const bool flat = cos.size() == 2 && same(cos[0], shape.frames) && same(cos, sin);
  const std::int64_t pairs = !flat ? 0 : cos[1] == -1 ? sin[1] : cos[1];
  const bool known = pairs != -1 && shape.width != -1;
  if (!flat || pairs == 0 ||
      (known && (shape.interleaved ? 2 * pairs > shape.width : 2 * pairs != shape.width)))
    return sentence("cos is ", text(cos), " and sin ", text(sin), "; expected both [", shape.frames,
                    " frames, ", shape.interleaved ? "at most " : "", shape.width / 2, "]");
  shape.turned = pairs == -1 ? 0 : 2 * pairs;
  return "";
}

}  // namespace inputs

// Fills `shape`, -1 for a size that is not known, or says why the inputs do not fit; "" if they do.
inline std::string read_shape(const AttentionAttributes& node, const AttentionInputs& given,
                              TemporalAttentionShape& shape) {
  shape = {-1, -1, -1, node.heads, -1, 0, node.interleaved, node.scale};
  if (node.heads < 1) return sentence("heads is ", node.heads, "; expected 1 or more");
  const Sizes& qkv = *given.qkv;
  if (!qkv.empty()) {
    if (qkv.size() != 4 || (qkv[3] != -1 && (qkv[3] % (3 * node.heads) != 0 || qkv[3] == 0)))
      return sentence("qkv is ", text(qkv), "; expected [B, F, S, 3 * C] with C a multiple of ",
                      node.heads, " heads");
    shape.batch = qkv[0];
    shape.frames = qkv[1];
    shape.pixels = qkv[2];
    shape.width = qkv[3] == -1 ? -1 : qkv[3] / 3 / node.heads;
  }
  const std::string refusal = inputs::read_tables(given, shape);
  if (!refusal.empty()) return refusal;
  const Sizes wanted = {node.heads, shape.frames, shape.frames};
  if (given.bias != nullptr && !given.bias->empty() && !inputs::same(*given.bias, wanted))
    return sentence("bias is ", text(*given.bias), "; expected ", text(wanted));
  return "";
}

}  // namespace edgereel
