#include "backend.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "windows.hpp"

namespace edgereel_runtime {

void HostMemory::copy(const Array& source, const Buffer& target) {
  if (source.bytes() > 0) std::memcpy(target.memory().raw(), source.raw(), source.bytes());
}

bool HostMemory::is_finite(const Buffer& buffer) {
  const float* numbers = buffer.memory().as<float>();
  return std::all_of(numbers, numbers + buffer.memory().count(),
                     [](float x) { return std::isfinite(x); });
}

Buffer HostMemory::mixed(const Buffer& x, float c_x, const Array& z, float c_z) {
  const Array out(DType::kFloat32, x.dims());
  for (std::size_t i = 0; i < out.count(); ++i) {
    out.as<float>()[i] = c_x * x.memory().as<float>()[i] + c_z * z.as<float>()[i];
  }
  return Buffer(out);
}

void HostMemory::join(const Buffer& whole, const Buffer& part, std::size_t axis, std::int64_t start,
                      std::int64_t done) {
  edgereel_runtime::join(whole.memory(), part.memory(), axis, start, done);
}

}  // namespace edgereel_runtime
