// ProtoField numbers are those of onnx.proto (ModelProto.graph 7, GraphProto.initializer 5,
// TensorProto.dims 1 and data_type 2). Weight bytes are skipped, so large files cost nothing.
#include "weights.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>

namespace edgereel_runtime {
namespace {

constexpr std::uint64_t kModelGraph = 7, kGraphInitializer = 5, kTensorDims = 1, kTensorType = 2;
constexpr unsigned kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5;

struct Damaged {};

// Bytes from `at` to `end`.
struct Bytes {
  const unsigned char* at;
  const unsigned char* end;
};

// A base-128 number, which is passed.
std::uint64_t varint(Bytes& piece) {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (piece.at == piece.end) throw Damaged();
    const unsigned byte = *piece.at++;
    value |= std::uint64_t(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  throw Damaged();
}

struct ProtoField {
  std::uint64_t number;
  unsigned wire;
  std::uint64_t value;  // of a varint
  Bytes bytes;          // of a message, text or packed list
};

void each_field(Bytes piece, const std::function<void(const ProtoField&)>& use) {
  while (piece.at < piece.end) {
    const std::uint64_t key = varint(piece);
    ProtoField field{key >> 3, static_cast<unsigned>(key & 7), 0, {piece.at, piece.at}};
    std::uint64_t size = field.wire == kFixed64 ? 8 : field.wire == kFixed32 ? 4 : 0;
    if (field.wire == kVarint) {
      field.value = varint(piece);
    } else if (field.wire == kLength) {
      size = varint(piece);
    } else if (size == 0) {
      throw Damaged();
    }
    if (size > static_cast<std::uint64_t>(piece.end - piece.at)) throw Damaged();
    field.bytes = {piece.at, piece.at + size};
    piece.at += size;
    use(field);
  }
}

// Bytes of an element of a floating-point TensorProto.DataType; others are shapes and indices.
std::int64_t item_bytes_of(std::uint64_t type) {
  switch (type) {
    case 1:
      return 4;
    case 10:
    case 16:
      return 2;
    case 11:
      return 8;
    case 17:
    case 19:
      return 1;
    default:
      return 0;
  }
}

std::int64_t tensor_bytes(Bytes tensor) {
  std::int64_t count = 1, item = 0;
  const auto times = [&](std::uint64_t size) {
    if (__builtin_mul_overflow(count, static_cast<std::int64_t>(size), &count)) throw Damaged();
  };
  each_field(tensor, [&](const ProtoField& field) {
    if (field.number == kTensorType) item = item_bytes_of(field.value);
    if (field.number != kTensorDims) return;
    if (field.wire == kVarint) return times(field.value);
    for (Bytes packed = field.bytes; packed.at < packed.end;) times(varint(packed));
  });
  return item == 0 || count > INT64_MAX / 16 ? 0 : count * item;
}

std::int64_t model_bytes(Bytes model) {
  std::int64_t all = 0;
  each_field(model, [&](const ProtoField& graph) {
    if (graph.number != kModelGraph || graph.wire != kLength) return;
    each_field(graph.bytes, [&](const ProtoField& tensor) {
      if (tensor.number == kGraphInitializer && tensor.wire == kLength) {
        all += tensor_bytes(tensor.bytes);
      }
    });
  });
  return all;
}

// A file in memory while this lives.
class Mapped {
 public:
  explicit Mapped(const std::string& path) : file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat about{};
    if (file_ < 0 || ::fstat(file_, &about) != 0 || about.st_size == 0) return;
    size_ = static_cast<std::size_t>(about.st_size);
    void* memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file_, 0);
    if (memory != MAP_FAILED) memory_ = static_cast<unsigned char*>(memory);
  }
  ~Mapped() {
    if (memory_ != nullptr) ::munmap(memory_, size_);
    if (file_ >= 0) ::close(file_);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;

  Bytes bytes() const { return {memory_, memory_ != nullptr ? memory_ + size_ : nullptr}; }

 private:
  int file_;
  std::size_t size_ = 0;
  unsigned char* memory_ = nullptr;
};

}  // namespace

std::int64_t weight_bytes(const std::string& path) {
  const Mapped file(path);
  try {
    return model_bytes(file.bytes());
  } catch (const Damaged&) {
    return 0;
  }
}

}  // namespace edgereel_runtime
