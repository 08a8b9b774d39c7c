#include "backend.hpp"

#include <cstring>

namespace edgereel_runtime {

void HostMemory::copy(const Array& source, const Buffer& target) {
  if (source.bytes() > 0) std::memcpy(target.memory().raw(), source.raw(), source.bytes());
}

}  // namespace edgereel_runtime
