#include "backend.hpp"

#include <cstring>

namespace edgereel_runtime {

void HostMemory::copy(const Buffer& source, const Buffer& target) {
  if (source.bytes() > 0) {
    std::memcpy(target.memory().raw(), source.memory().raw(), source.bytes());
  }
}

}  // namespace edgereel_runtime
