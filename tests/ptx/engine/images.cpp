#include "images.hpp"

#include <cstdint>
#include <cstring>

#include "module.hpp"

namespace cottention::ptx {
namespace {

// The layout of fat binaries is documented in part, by cuda_runtime's fatbinary_section.h (the wrapper); the
// rest is as nvcc 13.0 writes it.
struct Wrapper {
  std::uint32_t magic, version;
  const std::uint8_t* data;
  void* unused;
};
struct Header {
  std::uint32_t magic;
  std::uint16_t version, header_bytes;
  std::uint64_t bytes;  // of the entries
};
struct Entry {
  std::uint16_t kind, version;
  std::uint32_t header_bytes;
  std::uint64_t bytes;
};
constexpr std::uint32_t wrapper_magic = 0x466243b1, header_magic = 0xba55ed50;
constexpr std::uint16_t kind_ptx = 1;

template <class T>
T at(const std::uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

}  // namespace

std::vector<std::string> ptx_images(const void* wrapper) {
  const auto outer = at<Wrapper>(static_cast<const std::uint8_t*>(wrapper));
  if (outer.magic != wrapper_magic) throw Error("not a fat binary");
  const auto header = at<Header>(outer.data);
  if (header.magic != header_magic) throw Error("a fat binary of an unknown format");
  std::vector<std::string> texts;
  const std::uint8_t* from = outer.data + header.header_bytes;
  for (const std::uint8_t* const end = from + header.bytes; from < end;) {
    const auto entry = at<Entry>(from);
    if (entry.kind == kind_ptx) {
      std::string text(reinterpret_cast<const char*>(from + entry.header_bytes), entry.bytes);
      text.resize(std::strlen(text.c_str()));
      if (text.find(".target") == std::string::npos)
        throw Error("the PTX is compressed: nvcc --no-compress leaves it as it is");
      texts.push_back(std::move(text));
    }
    from += entry.header_bytes + entry.bytes;
  }
  return texts;
}

int target_of(const std::string& ptx) {
  const std::size_t at = ptx.find(".target sm_");
  return at == std::string::npos ? 0 : std::stoi(ptx.substr(at + 11));
}

}  // namespace cottention::ptx
