// Arrays of a plan's dtypes in C order; a copy shares the numbers, and so does a part of axis 0.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace edgereel_runtime {

enum class DType { kFloat32, kFloat16, kInt64, kInt32, kUint8, kBool };

DType dtype_of(const std::string& name);
const char* name_of(DType dtype);
std::size_t item_bytes(DType dtype);

using Dims = std::vector<std::int64_t>;

std::size_t product(const Dims& dims);  // throws std::bad_alloc where 64 bits do not hold it

class Array {
 public:
  Array() = default;
  Array(DType dtype, Dims dims);  // with undefined contents; throws std::bad_alloc
  Array(DType dtype, Dims dims, std::shared_ptr<char> data)
      : dtype_(dtype), dims_(std::move(dims)), data_(std::move(data)) {}

  DType dtype() const { return dtype_; }
  const Dims& dims() const { return dims_; }
  std::size_t count() const { return product(dims_); }
  std::size_t bytes() const { return count() * item_bytes(dtype_); }

  char* raw() const { return data_.get(); }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }

  Array operator[](std::int64_t index) const;               // axis 0 gone
  Array part(std::int64_t start, std::int64_t stop) const;  // of axis 0
  Array part(std::size_t axis, std::int64_t start, std::int64_t stop) const;

 private:
  Array view(std::int64_t start, Dims dims) const;

  DType dtype_ = DType::kFloat32;
  Dims dims_;
  std::shared_ptr<char> data_;
};

// Arrays of the same sizes but for axis 0, one behind the other.
Array stacked(const Array& one, const Array& other);

// The array repeated along a new axis 0.
Array repeated(const Array& one, std::int64_t times);

std::string described(const Array& array);  // dtype and sizes, for a sentence

float from_half(std::uint16_t half);
std::uint16_t to_half(float number);  // rounded to nearest, halves to even

}  // namespace edgereel_runtime
