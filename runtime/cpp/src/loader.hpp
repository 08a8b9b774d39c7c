// A thread that loads engines, one after the other, while others run.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>

#include "backend.hpp"

namespace edgereel_runtime {

class Loader {
 public:
  using Load = std::function<std::unique_ptr<Engine>()>;

  // An engine to come. A std::future of one would be visible outside the shared library.
  class Loaded {
   public:
    std::unique_ptr<Engine> get();  // once; waits for it, and throws what loading it threw

   private:
    friend class Loader;
    std::shared_ptr<std::unique_ptr<Engine>> engine_ = std::make_shared<std::unique_ptr<Engine>>();
    std::future<void> done_;
  };

  Loader() = default;
  ~Loader();  // waits for what is being loaded; what was not begun is not loaded
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  Loaded add(Load load);  // the thread begins with the first

 private:
  void work();

  std::mutex lock_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<void()>> waiting_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace edgereel_runtime
