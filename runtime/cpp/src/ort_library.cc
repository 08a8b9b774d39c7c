#include "ort_library.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <filesystem>
#include <mutex>

#include "errors.hpp"
#include "words.hpp"

namespace edgereel_runtime {
namespace {

namespace fs = std::filesystem;

std::string& version() {
  static std::string found;
  return found;
}

constexpr const char* kInstall =
    "Install one, for example `pip install onnxruntime`, and give the path of its libonnxruntime: "
    "EDGEREEL_ONNXRUNTIME, or `onnxruntime` in edgereel_cascade_params.";

// The library in a folder, such as onnxruntime/capi of the wheel from PyPI.
std::string in_folder(const std::string& place) {
  std::error_code ignored;
  if (!fs::is_directory(place, ignored)) return place;
  for (const auto& entry : fs::directory_iterator(place, ignored)) {
    const std::string name = entry.path().filename().string();
    if (starts_with(name, "libonnxruntime.so")) return entry.path().string();
  }
  return place + "/libonnxruntime.so";
}

// Opens the library and takes its functions.
void open_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    fail(Kind::kUnavailable, "ONNX Runtime does not load (" + std::string(dlerror()) +
                                 "); expected its shared library. " + kInstall);
  }
  using Base = const OrtApiBase* (*)();
  const auto base = reinterpret_cast<Base>(dlsym(library, "OrtGetApiBase"));
  const OrtApi* api = base != nullptr ? base()->GetApi(ORT_API_VERSION) : nullptr;
  if (api == nullptr) {
    const std::string found = base != nullptr ? base()->GetVersionString() : "another library";
    fail(Kind::kUnavailable, path + " is " + found + "; expected ONNX Runtime 1." +
                                 std::to_string(ORT_API_VERSION) + " or newer. " + kInstall);
  }
  version() = base()->GetVersionString();
  Ort::InitApi(api);
}

}  // namespace

const std::string& ort_version() { return version(); }

std::string first_line(const std::exception& error) {
  const std::string all = error.what();
  return all.substr(0, std::min<std::size_t>(all.find('\n'), 300));
}

void load_ort(const std::string& place) {
  static std::mutex lock;
  static std::string loaded;
  const std::lock_guard<std::mutex> hold(lock);
  if (!loaded.empty() && (place.empty() || in_folder(place) == loaded)) return;
  if (!loaded.empty()) {
    fail(Kind::kInput, "onnxruntime is " + place + ", but " + loaded +
                           " is in use already; expected one for the whole process. Give the same "
                           "path to every cascade.");
  }
  const std::string path = place.empty() ? "libonnxruntime.so.1" : in_folder(place);
  open_library(path);
  loaded = path;
}

// What ONNX Runtime keeps for the process, to its end: sessions may still be there then.
Ort::Env& ort_environment() {
  static Ort::Env& env = *[] {
    // Errors only: warnings of the graph optimiser are no use to a user.
    auto* made = new Ort::Env(ORT_LOGGING_LEVEL_ERROR, "edgereel");
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    // One arena for all sessions, grown by what is asked; backends/ort.py has the measurements.
    made->CreateAndRegisterAllocator(memory, Ort::ArenaCfg(0, 1, -1, -1));
    return made;
  }();
  return env;
}

}  // namespace edgereel_runtime
