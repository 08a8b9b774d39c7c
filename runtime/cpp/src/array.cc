#include "array.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "words.hpp"

namespace edgereel_runtime {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr const char* kNames[] = {"float32", "float16", "int64", "int32", "uint8", "bool"};
constexpr std::size_t kItemBytes[] = {4, 2, 8, 4, 1, 1};

std::shared_ptr<char> allocated(std::size_t bytes) {
  char* memory = static_cast<char*>(::operator new(std::max<std::size_t>(bytes, 1), kAlignment));
  return {memory, [](char* data) { ::operator delete(data, kAlignment); }};
}

}  // namespace

DType dtype_of(const std::string& name) {
  const auto found = std::find(std::begin(kNames), std::end(kNames), name);
  return static_cast<DType>(found - std::begin(kNames));
}

const char* name_of(DType dtype) { return kNames[static_cast<int>(dtype)]; }

std::size_t item_bytes(DType dtype) { return kItemBytes[static_cast<int>(dtype)]; }

std::size_t product(const Dims& dims) {
  std::int64_t all = 1;
  for (std::int64_t size : dims) {
    if (__builtin_mul_overflow(all, size, &all) || all > INT64_MAX / 16) throw std::bad_alloc();
  }
  return static_cast<std::size_t>(all);
}

Array::Array(DType dtype, Dims dims) : dtype_(dtype), dims_(std::move(dims)) {
  data_ = allocated(bytes());
}

Array Array::view(std::int64_t start, Dims dims) const {
  Array part;
  part.dtype_ = dtype_;
  const Dims inner(dims_.begin() + 1, dims_.end());
  const std::size_t offset = static_cast<std::size_t>(start) * product(inner) * item_bytes(dtype_);
  part.data_ = std::shared_ptr<char>(data_, data_.get() + offset);
  part.dims_ = std::move(dims);
  return part;
}

Array Array::operator[](std::int64_t index) const {
  return view(index, Dims(dims_.begin() + 1, dims_.end()));
}

Array Array::part(std::int64_t start, std::int64_t stop) const {
  Dims dims = dims_;
  dims[0] = stop - start;
  return view(start, std::move(dims));
}

Array Array::part(std::size_t axis, std::int64_t start, std::int64_t stop) const {
  if (axis == 0) return part(start, stop);
  Dims dims = dims_;
  dims[axis] = stop - start;
  Array out(dtype_, dims);
  const auto middle = dims_.begin() + static_cast<std::ptrdiff_t>(axis);
  const std::size_t outer = product(Dims(dims_.begin(), middle));
  const std::size_t item = product(Dims(middle + 1, dims_.end())) * item_bytes(dtype_);
  const std::size_t row = static_cast<std::size_t>(dims_[axis]) * item;
  const std::size_t kept = static_cast<std::size_t>(stop - start) * item;
  for (std::size_t i = 0; i < outer; ++i) {
    std::memcpy(out.raw() + i * kept, raw() + i * row + static_cast<std::size_t>(start) * item,
                kept);
  }
  return out;
}

Array stacked(const Array& one, const Array& other) {
  Dims dims = one.dims();
  dims[0] += other.dims()[0];
  Array both(one.dtype(), dims);
  std::memcpy(both.raw(), one.raw(), one.bytes());
  std::memcpy(both.raw() + one.bytes(), other.raw(), other.bytes());
  return both;
}

Array repeated(const Array& one, std::int64_t times) {
  Dims dims = one.dims();
  dims.insert(dims.begin(), times);
  Array all(one.dtype(), dims);
  for (std::int64_t i = 0; i < times; ++i) std::memcpy(all[i].raw(), one.raw(), one.bytes());
  return all;
}

std::string described(const Array& array) {
  return std::string(name_of(array.dtype())) + " " + listed(array.dims());
}

float from_half(std::uint16_t half) {
  const int exponent = (half >> 10) & 31, fraction = half & 1023;
  float size = exponent == 31  ? (fraction ? NAN : INFINITY)
               : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                               : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return half & 0x8000 ? -size : size;
}

std::uint16_t to_half(float number) {
  const std::uint16_t sign = std::signbit(number) ? 0x8000 : 0;
  const float size = std::fabs(number);
  if (std::isnan(number)) return static_cast<std::uint16_t>(sign | 0x7E00);
  if (size >= 65520.0f) return static_cast<std::uint16_t>(sign | 0x7C00);
  const int exponent = size < 0x1p-14f ? -14 : std::ilogb(size);
  const int units = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  const int bits = size < 0x1p-14f ? units : ((exponent + 15) << 10) + units - 1024;
  return static_cast<std::uint16_t>(sign | bits);
}

}  // namespace edgereel_runtime
