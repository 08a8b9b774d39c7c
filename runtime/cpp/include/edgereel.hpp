// edgereel.h for C++17: objects that free themselves, and errors as exceptions.
//
//   edgereel::Cascade cascade("engines/shapes");
//   edgereel::Call call;
//   call.set("prompt", "a red circle moving right").set("seed", 7);
//   cascade.generate(call).save("out.mp4");
#pragma once

#include <edgereel.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace edgereel {

// What edgereel_message says, with the status.
class Failure : public std::runtime_error {
 public:
  explicit Failure(edgereel_status status)
      : std::runtime_error(edgereel_message()), status(status) {}

  edgereel_status status;
};

inline void check(edgereel_status status) {
  if (status != EDGEREEL_OK) throw Failure(status);
}

// Frames uint8 [F, H, W, 3], sRGB 0..255, which live as long as this.
class Video {
 public:
  explicit Video(edgereel_video* video) : video_(video) {}

  const std::uint8_t* frames() const { return edgereel_video_frames(video_.get()); }
  std::int64_t count() const { return edgereel_video_sizes(video_.get())[0]; }
  std::int64_t height() const { return edgereel_video_sizes(video_.get())[1]; }
  std::int64_t width() const { return edgereel_video_sizes(video_.get())[2]; }
  double fps() const { return edgereel_video_fps(video_.get()); }
  void save(const std::string& path) const {
    check(edgereel_video_save(video_.get(), path.c_str()));
  }

  std::vector<std::string> warnings() const {
    std::vector<std::string> all;
    while (const char* one = edgereel_video_warning(video_.get(), all.size()))
      all.emplace_back(one);
    return all;
  }

 private:
  struct Free {
    void operator()(edgereel_video* video) const { edgereel_video_free(video); }
  };
  std::unique_ptr<edgereel_video, Free> video_;
};

// What is asked for: a mode, params by name, and who is told.
class Call {
 public:
  std::string mode;                                       // "": the first of the plan
  std::function<bool(const edgereel_progress&)> on_step;  // false cancels, as below
  std::function<bool(const edgereel_progress&, const edgereel_array&)> on_preview;

  Call& set(const std::string& name, const std::string& text) {
    return add(name, text, edgereel_text(nullptr, nullptr));
  }
  Call& set(const std::string& name, const char* text) { return set(name, std::string(text)); }
  // The frames must live until the call is done.
  Call& set(const std::string& name, const edgereel_array& frames) {
    return add(name, "", edgereel_frames(nullptr, frames));
  }
  template <typename Number, typename = std::enable_if_t<std::is_arithmetic_v<Number>>>
  Call& set(const std::string& name, Number number) {
    if constexpr (std::is_floating_point_v<Number>) {
      return add(name, "", edgereel_float(nullptr, static_cast<double>(number)));
    } else if constexpr (std::is_unsigned_v<Number>) {
      return add(name, "", edgereel_uint(nullptr, number));
    } else {
      return add(name, "", edgereel_int(nullptr, number));
    }
  }

 private:
  friend class Cascade;

  struct Entry {
    std::string name, text;
    edgereel_setting setting;
  };

  Call& add(const std::string& name, const std::string& text, const edgereel_setting& setting) {
    entries_.push_back({name, text, setting});
    return *this;
  }

  std::vector<Entry> entries_;
};

class Cascade {
 public:
  explicit Cascade(const std::string& folder, const edgereel_cascade_params* params = nullptr) {
    edgereel_cascade* cascade = nullptr;
    check(edgereel_cascade_create(folder.c_str(), params, &cascade));
    cascade_.reset(cascade);
  }

  std::vector<std::string> modes() const {
    std::vector<std::string> all;
    while (const char* one = edgereel_cascade_mode(cascade_.get(), all.size()))
      all.emplace_back(one);
    return all;
  }

  Video generate(const Call& call) {
    std::vector<edgereel_setting> settings;
    for (const Call::Entry& entry : call.entries_) {
      edgereel_setting setting = entry.setting;
      setting.name = entry.name.c_str();
      if (setting.type == EDGEREEL_SET_TEXT) setting.value.text = entry.text.c_str();
      settings.push_back(setting);
    }
    edgereel_call_params params;
    edgereel_call_params_init(&params);
    params.mode = call.mode.empty() ? nullptr : call.mode.c_str();
    params.settings = settings.data();
    params.setting_count = settings.size();
    Told told{call, nullptr};
    params.user = &told;
    if (call.on_step) params.on_step = step;
    if (call.on_preview) params.on_preview = preview;
    edgereel_video* video = nullptr;
    const edgereel_status status = edgereel_generate(cascade_.get(), &params, &video);
    if (told.thrown) std::rethrow_exception(told.thrown);
    check(status);
    return Video(video);
  }

  void cancel() { edgereel_cancel(cascade_.get()); }

 private:
  // Whom the callbacks of a call tell, and what one of them threw.
  struct Told {
    const Call& call;
    std::exception_ptr thrown;
  };

  template <typename Ask>
  static int asked(Told& told, Ask ask) {
    try {
      return ask(told.call) ? 0 : 1;
    } catch (...) {  // must not cross the C interface
      told.thrown = std::current_exception();
      return 1;
    }
  }
  static int step(const edgereel_progress* progress, void* user) {
    return asked(*static_cast<Told*>(user),
                 [&](const Call& call) { return call.on_step(*progress); });
  }
  static int preview(const edgereel_progress* progress, const edgereel_array* x0, void* user) {
    return asked(*static_cast<Told*>(user),
                 [&](const Call& call) { return call.on_preview(*progress, *x0); });
  }

  struct Destroy {
    void operator()(edgereel_cascade* cascade) const { edgereel_cascade_destroy(cascade); }
  };
  std::unique_ptr<edgereel_cascade, Destroy> cascade_;
};

}  // namespace edgereel
