// The C interface: every call ends here in a status and a sentence.
#include <edgereel.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

#include "errors.hpp"
#include "pipeline.hpp"
#include "video.hpp"

struct edgereel_cascade {
  edgereel_runtime::Cascade cascade;
};

struct edgereel_video {
  edgereel_runtime::Result result;
};

namespace {

using edgereel_runtime::Array;
using edgereel_runtime::DType;
using edgereel_runtime::Kind;

thread_local std::string message;

edgereel_status status_of(Kind kind) {
  switch (kind) {
    case Kind::kPlan:
      return EDGEREEL_PLAN_ERROR;
    case Kind::kInput:
      return EDGEREEL_INPUT_ERROR;
    case Kind::kUnavailable:
      return EDGEREEL_UNAVAILABLE;
    case Kind::kEngine:
      return EDGEREEL_ENGINE_ERROR;
    case Kind::kOutput:
      return EDGEREEL_OUTPUT_ERROR;
    case Kind::kCancelled:
      return EDGEREEL_CANCELLED;
  }
  return EDGEREEL_BUG;
}

edgereel_status failed(edgereel_status status, const char* sentence) noexcept {
  try {
    message = sentence;
  } catch (const std::bad_alloc&) {
    message.clear();
  }
  return status;
}

// What `work` ends in; no exception leaves this.
template <typename Work>
edgereel_status guarded(Work work) noexcept {
  try {
    work();
    return EDGEREEL_OK;
  } catch (const edgereel_runtime::Error& error) {
    return failed(status_of(error.kind), error.what());
  } catch (const std::bad_alloc&) {
    return failed(EDGEREEL_ENGINE_ERROR,
                  "memory ran out; expected room for this call. Close other programs, or ask for "
                  "less.");
  } catch (const std::exception& error) {
    return failed(EDGEREEL_BUG, error.what());
  } catch (...) {
    return failed(EDGEREEL_BUG, "something that is no exception was thrown");
  }
}

std::string text_or(const char* text, const char* fallback) { return text ? text : fallback; }

void check_struct(size_t found, size_t wanted, const char* init) {
  if (found == wanted) return;
  edgereel_runtime::fail(Kind::kInput, "a struct of params has the size " + std::to_string(found) +
                                           "; expected " + std::to_string(wanted) +
                                           ". Begin with " + init +
                                           ", and compile with the edgereel.h of this library.");
}

void check_pointer(const void* pointer, const char* name) {
  if (pointer != nullptr) return;
  edgereel_runtime::fail(Kind::kInput,
                         std::string(name) + " is NULL; expected a pointer. Give one.");
}

Array array_of(const edgereel_array& given, const char* name) {
  check_pointer(given.data, name);
  check_pointer(given.sizes, name);
  const edgereel_runtime::Dims dims(given.sizes, given.sizes + given.rank);
  if (std::any_of(dims.begin(), dims.end(), [](std::int64_t size) { return size < 0; })) {
    edgereel_runtime::fail(Kind::kInput, std::string(name) + " has the sizes " +
                                             edgereel_runtime::listed(dims) +
                                             "; expected none below 0. Correct them.");
  }
  Array array(given.dtype == EDGEREEL_UINT8 ? DType::kUint8 : DType::kFloat32, dims);
  std::memcpy(array.raw(), given.data, array.bytes());
  return array;
}

edgereel_runtime::Value value_of(const edgereel_setting& setting) {
  switch (setting.type) {
    case EDGEREEL_SET_TEXT:
      check_pointer(setting.value.text, setting.name);
      return std::string(setting.value.text);
    case EDGEREEL_SET_INT:
      return static_cast<edgereel_runtime::Int>(setting.value.integer);
    case EDGEREEL_SET_UINT:
      return static_cast<edgereel_runtime::Int>(setting.value.natural);
    case EDGEREEL_SET_FLOAT:
      return setting.value.number;
    case EDGEREEL_SET_FRAMES:
      return array_of(setting.value.frames, setting.name);
  }
  edgereel_runtime::fail(Kind::kInput, std::string(setting.name) + " is of type " +
                                           std::to_string(setting.type) +
                                           "; expected one of edgereel_setting_type. Use one.");
}

edgereel_runtime::Values values_of(const edgereel_call_params& params) {
  edgereel_runtime::Values values;
  for (size_t i = 0; i < params.setting_count; ++i) {
    check_pointer(params.settings[i].name, "the name of a setting");
    const std::string name = params.settings[i].name;
    if (values.has(name)) {
      edgereel_runtime::fail(Kind::kInput,
                             name + " is given twice; expected one value. Drop one of them.");
    }
    values.entries.emplace_back(name, value_of(params.settings[i]));
  }
  return values;
}

edgereel_progress progress_of(const edgereel_runtime::Progress& progress) {
  return {progress.stage.c_str(), progress.stage_index, progress.stages,
          progress.step,          progress.steps,       progress.chunk,
          progress.chunks,        progress.done,        progress.seconds};
}

void stop_if(int asked) {
  if (asked != 0) {
    edgereel_runtime::fail(
        Kind::kCancelled, "The call was cancelled; nothing was written. Call again to start over.");
  }
}

edgereel_runtime::RunOptions options_of(const edgereel_call_params& params) {
  edgereel_runtime::RunOptions options;
  for (size_t i = 0; i < params.noise_count; ++i) {
    check_pointer(params.noise[i].key, "the key of a noise");
    options.noise.entries.emplace_back(params.noise[i].key,
                                       array_of(params.noise[i].array, params.noise[i].key));
  }
  if (params.on_step != nullptr) {
    options.report = [params](const edgereel_runtime::Progress& progress) {
      const edgereel_progress told = progress_of(progress);
      stop_if(params.on_step(&told, params.user));
    };
  }
  if (params.on_preview != nullptr) {
    options.preview = [params](const edgereel_runtime::Progress& progress, const Array& x0) {
      const edgereel_progress told = progress_of(progress);
      const edgereel_array shown = {x0.raw(), EDGEREEL_FLOAT32, x0.dims().data(), x0.dims().size()};
      stop_if(params.on_preview(&told, &shown, params.user));
    };
  }
  return options;
}

edgereel_runtime::CascadeOptions options_of(const edgereel_cascade_params& params) {
  edgereel_runtime::CascadeOptions options;
  options.onnxruntime = text_or(params.onnxruntime, "");
  options.provider = text_or(params.provider, "cpu");
  if (params.kernels != nullptr) options.kernels = params.kernels;
  options.threads = params.threads;
  options.verify_hashes = params.trust_files == 0;
  options.low_vram = params.low_vram != 0;
  return options;
}

}  // namespace

const char* edgereel_message(void) { return message.c_str(); }

const char* edgereel_version(void) { return EDGEREEL_VERSION; }

void edgereel_cascade_params_init(edgereel_cascade_params* params) {
  *params = {};
  params->size = sizeof *params;
}

edgereel_status edgereel_cascade_create(const char* folder, const edgereel_cascade_params* params,
                                        edgereel_cascade** cascade) {
  return guarded([&] {
    check_pointer(folder, "folder");
    check_pointer(cascade, "cascade");
    *cascade = nullptr;
    edgereel_cascade_params given;
    edgereel_cascade_params_init(&given);
    if (params != nullptr) given = *params;
    check_struct(given.size, sizeof given, "edgereel_cascade_params_init");
    *cascade = new edgereel_cascade{{folder, options_of(given)}};
  });
}

void edgereel_cascade_destroy(edgereel_cascade* cascade) { delete cascade; }

const char* edgereel_cascade_mode(const edgereel_cascade* cascade, size_t index) {
  const auto& modes = cascade->cascade.plan().modes.entries;
  return index < modes.size() ? modes[index].first.c_str() : nullptr;
}

void edgereel_call_params_init(edgereel_call_params* params) {
  *params = {};
  params->size = sizeof *params;
}

edgereel_status edgereel_generate(edgereel_cascade* cascade, const edgereel_call_params* params,
                                  edgereel_video** video) {
  return guarded([&] {
    check_pointer(cascade, "cascade");
    check_pointer(params, "params");
    check_pointer(video, "video");
    *video = nullptr;
    check_struct(params->size, sizeof *params, "edgereel_call_params_init");
    *video = new edgereel_video{
        cascade->cascade.run(text_or(params->mode, ""), values_of(*params), options_of(*params))};
  });
}

void edgereel_cancel(edgereel_cascade* cascade) { cascade->cascade.cancel(); }

const uint8_t* edgereel_video_frames(const edgereel_video* video) {
  return video->result.frames.as<std::uint8_t>();
}

const int64_t* edgereel_video_sizes(const edgereel_video* video) {
  return video->result.frames.dims().data();
}

double edgereel_video_fps(const edgereel_video* video) { return video->result.fps; }

const char* edgereel_video_warning(const edgereel_video* video, size_t index) {
  const auto& warnings = video->result.warnings;
  return index < warnings.size() ? warnings[index].c_str() : nullptr;
}

edgereel_status edgereel_video_save(const edgereel_video* video, const char* path) {
  return guarded([&] {
    check_pointer(video, "video");
    check_pointer(path, "path");
    edgereel_runtime::save(video->result.frames, video->result.fps, path);
  });
}

void edgereel_video_free(edgereel_video* video) { delete video; }
