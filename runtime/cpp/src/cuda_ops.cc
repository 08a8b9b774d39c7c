// What is computed on values between graphs, so that they stay on the GPU.
#include <algorithm>

#include "cuda.hpp"
#include "device_ops.hpp"
#include "windows.hpp"

namespace edgereel_runtime {
namespace {

char* entry(const Buffer& buffer, std::size_t axis, std::int64_t index) {
  const std::size_t bytes = along(buffer.dims(), axis).inner * item_bytes(buffer.dtype());
  return buffer.memory().raw() + static_cast<std::size_t>(index) * bytes;
}

Array numbers(const std::vector<float>& from) {
  Array array(DType::kFloat32, {static_cast<std::int64_t>(from.size())});
  std::copy(from.begin(), from.end(), array.as<float>());
  return array;
}

void launched() { cuda_done(cudaGetLastError(), "start a kernel"); }

void launch(DType dtype, const Mix& mix, cudaStream_t stream) {
  if (mix.count == 0) return;
  dtype == DType::kUint8 ? launch_mix_uint8(mix, stream) : launch_mix_float32(mix, stream);
  launched();
}

}  // namespace

Buffer CudaMemory::put(const Array& array) {
  const Buffer buffer = empty(array.dtype(), array.dims());
  copy(array, buffer);
  return buffer;
}

bool CudaMemory::is_finite(const Buffer& buffer) {
  const auto count = static_cast<long long>(product(buffer.dims()));
  if (count == 0) return true;
  Array none(DType::kInt32, {1});
  *none.as<std::int32_t>() = 0;
  const Buffer found = put(none);
  launch_find_not_finite(found.memory().as<int>(), buffer.memory().as<float>(), count, stream());
  launched();
  return *get(found).as<std::int32_t>() == 0;
}

Buffer CudaMemory::mixed(const Buffer& x, float c_x, const Array& z, float c_z) {
  const Buffer out = empty(DType::kFloat32, x.dims()), noise = put(z);
  const Buffer a = put(numbers({c_x})), b = put(numbers({c_z}));
  const auto size = static_cast<long long>(product(x.dims()));
  launch(DType::kFloat32,
         {out.memory().raw(), x.memory().raw(), noise.memory().raw(), a.memory().as<float>(),
          b.memory().as<float>(), size, size, 1, size, size},
         stream());
  return out;
}

Buffer CudaMemory::cut(const Buffer& buffer, std::size_t axis, std::int64_t start,
                       std::int64_t stop) {
  if (axis == 0) return buffer.part(start, stop);
  Dims dims = buffer.dims();
  dims[axis] = stop - start;
  const Buffer part = empty(buffer.dtype(), dims);
  copy_along(axis, {buffer, start}, {part, 0}, stop - start);
  return part;
}

void CudaMemory::join(const Buffer& whole, const Buffer& part, std::size_t axis, std::int64_t start,
                      std::int64_t done) {
  const std::int64_t count = std::max<std::int64_t>(done - start, 0);
  copy_along(axis, {part, count}, {whole, start + count}, part.dims()[axis] - count);
  if (count == 0) return;
  std::vector<float> kept, fresh;
  for (const Weights& weights : fade(static_cast<std::size_t>(count))) {
    kept.push_back(weights.kept);
    fresh.push_back(weights.fresh);
  }
  const Buffer a = put(numbers(kept)), b = put(numbers(fresh));
  const Along to = along(whole.dims(), axis), from = along(part.dims(), axis);
  const auto fading = static_cast<std::size_t>(count);
  char* old = entry(whole, axis, start);
  launch(whole.dtype(),
         {old, old, part.memory().raw(), a.memory().as<float>(), b.memory().as<float>(),
          static_cast<long long>(to.length * to.inner),
          static_cast<long long>(from.length * from.inner), count, static_cast<long long>(to.inner),
          static_cast<long long>(to.outer * fading * to.inner)},
         stream());
}

// Copies `count` entries of an axis, each side from its index on; other axes are equal.
void CudaMemory::copy_along(std::size_t axis, const std::pair<Buffer, std::int64_t>& source,
                            const std::pair<Buffer, std::int64_t>& target, std::int64_t count) {
  const auto& [one, start] = source;
  const auto& [two, place] = target;
  const Along from = along(one.dims(), axis), to = along(two.dims(), axis);
  const std::size_t bytes = from.inner * item_bytes(one.dtype());
  const std::size_t width = static_cast<std::size_t>(count) * bytes;
  if (width * from.outer == 0) return;
  cuda_done(
      cudaMemcpy2DAsync(entry(two, axis, place), to.length * bytes, entry(one, axis, start),
                        from.length * bytes, width, from.outer, cudaMemcpyDeviceToDevice, stream()),
      "copy on the device");
}

}  // namespace edgereel_runtime
