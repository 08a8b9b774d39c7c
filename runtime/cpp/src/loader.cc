#include "loader.hpp"

#include <utility>

namespace edgereel_runtime {

Loader::~Loader() {
  {
    const std::lock_guard<std::mutex> hold(lock_);
    ends_ = true;
    waiting_.clear();
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

std::unique_ptr<Engine> Loader::Loaded::get() {
  done_.get();
  return std::move(*engine_);
}

Loader::Loaded Loader::add(Load load) {
  Loaded loaded;
  std::packaged_task<void()> task([load = std::move(load), to = loaded.engine_] { *to = load(); });
  loaded.done_ = task.get_future();
  {
    const std::lock_guard<std::mutex> hold(lock_);
    waiting_.push_back(std::move(task));
    if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
  }
  changed_.notify_one();
  return loaded;
}

void Loader::work() {
  std::unique_lock<std::mutex> hold(lock_);
  while (true) {
    changed_.wait(hold, [this] { return ends_ || !waiting_.empty(); });
    if (ends_) return;
    auto task = std::move(waiting_.front());
    waiting_.pop_front();
    hold.unlock();
    task();
    hold.lock();
  }
}

}  // namespace edgereel_runtime
