#include "kernel_library.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace edgereel_runtime {

std::string kernel_library() {
  if (const char* named = std::getenv("EDGEREEL_KERNELS")) return named;
  Dl_info here{};
  if (dladdr(reinterpret_cast<const void*>(&kernel_library), &here) == 0) return "";
  const auto beside = std::filesystem::path(here.dli_fname).parent_path() / "libedgereel_ort.so";
  std::error_code ignored;
  return std::filesystem::is_regular_file(beside, ignored) ? beside.string() : "";
}

}  // namespace edgereel_runtime
