// ldmatrix and stmatrix. PTX ISA, "Warp-level matrix load instruction: ldmatrix", "... store ...: stmatrix".
#include <cstring>

#include "block.hpp"

namespace cottention::emulation {
namespace {

constexpr std::size_t matrices = 4;
constexpr std::size_t rows = 8;  // of a matrix, and elements of a row
constexpr std::size_t row_bytes = 16;

struct Argument {
  std::uint32_t* r;
  unsigned char* row;  // lane l: row l % 8 of matrix l / 8
};

Argument argument_of(std::uint32_t* r, const void* row_shared, const char* word, Access::Kind kind,
                     Where where, void* caller) {
  Block& b = block();
  b.may_yield();
  const std::uint32_t offset = b.shared().check(row_shared, row_bytes, row_bytes, word, where);
  b.declare({where, offset, static_cast<std::uint16_t>(row_bytes), kind}, row_shared, caller);
  if (kind == Access::Kind::store_shared) b.hidden().write(offset, row_bytes, where);
  return {r, b.shared().data() + offset};
}

std::uint16_t element(const unsigned char* row, std::size_t column) {
  std::uint16_t bits;
  std::memcpy(&bits, row + 2 * column, sizeof bits);
  return bits;
}

}  // namespace

void load_matrices(std::uint32_t (&r)[4], const void* row_shared, Orientation orientation, Where where) {
  const Entry entry(where);
  const bool transposed = orientation == Orientation::transposed;
  const char* word = transposed ? "ldmatrix.trans" : "ldmatrix";
  Argument argument =
      argument_of(r, row_shared, word, Access::Kind::load_shared, where, __builtin_return_address(0));
  Block& b = block();
  b.together(word, 0, argument, where, [&](const auto& lanes) {
    ++b.statistics().matrix_loads;
    for (std::size_t matrix = 0; matrix < matrices; ++matrix) {
      const auto row = [&](std::size_t i) { return lanes[matrix * rows + i]->row; };
      for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
        const std::size_t i = lane / 4, j = 2 * (lane % 4);
        std::uint32_t& pair = lanes[lane]->r[matrix];
        if (transposed)
          pair = element(row(j), i) | static_cast<std::uint32_t>(element(row(j + 1), i)) << 16;
        else
          std::memcpy(&pair, row(i) + 2 * j, sizeof pair);
      }
    }
  });
}

void store_matrices(void* row_shared, const std::uint32_t (&r)[4], Where where) {
  const Entry entry(where);
  std::uint32_t copy[4] = {r[0], r[1], r[2], r[3]};
  Argument argument = argument_of(copy, row_shared, "stmatrix", Access::Kind::store_shared, where,
                                  __builtin_return_address(0));
  if (options().compute_capability < 90) fail(where, "stmatrix: needs sm_90");
  Block& b = block();
  b.together("stmatrix", 0, argument, where, [&](const auto& lanes) {
    for (std::size_t matrix = 0; matrix < matrices; ++matrix)
      for (std::size_t lane = 0; lane < lanes.size(); ++lane)
        std::memcpy(lanes[matrix * rows + lane / 4]->row + 4 * (lane % 4), &lanes[lane]->r[matrix], 4);
  });
}

}  // namespace cottention::emulation
