// Matrix products on small blocks that lie in the first-level cache. One register-tiled kernel serves them
// all; strides tell which operand is read across.
#pragma once

#include <cottention/cpu/simd.hpp>

namespace cottention::cpu {

/// A matrix operand: element (row, column) at data[row * row_stride + column * column_stride].
template <class A>
struct Operand {
  const A* data;
  std::ptrdiff_t row_stride;
  std::ptrdiff_t column_stride;

  Operand at(std::ptrdiff_t row, std::ptrdiff_t column) const {
    return {data + row * row_stride + column * column_stride, row_stride, column_stride};
  }
};

template <class A>
constexpr Operand<A> row_major(const A* data, std::ptrdiff_t pitch) {
  return {data, pitch, 1};
}
template <class A>
constexpr Operand<A> transposed(const A* data, std::ptrdiff_t pitch) {
  return {data, 1, pitch};
}

/// Accumulators of a rows x (vectors * lanes) block.
template <class S, int rows, int vectors>
struct Accumulators {
  typename S::Vector value[rows][vectors] = {};

  /// value += a b over `depth`; b is row-major with the given pitch.
  template <class A>
  [[gnu::always_inline]] void multiply(Operand<A> a, const A* b, std::ptrdiff_t b_pitch,
                                       std::ptrdiff_t depth) {
    for (std::ptrdiff_t k = 0; k < depth; ++k) {
      typename S::Vector b_row[vectors];
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) b_row[c] = S::load(b + k * b_pitch + c * S::lanes);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const typename S::Vector a_element = S::splat(a.data[r * a.row_stride + k * a.column_stride]);
#pragma GCC unroll 8
        for (int c = 0; c < vectors; ++c) value[r][c] += a_element * b_row[c];
      }
    }
  }

  /// f(row, vector, value) for each accumulator.
  template <class F>
  [[gnu::always_inline]] void each(F f) const {
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) f(r, c, value[r][c]);
    }
  }
};

/// Calls f.template operator()<vectors>(column) so that `columns`, a multiple of S::lanes, are covered by
/// blocks of `widest` vectors, a power of two, and then by narrower ones.
template <class S, int widest, class F>
[[gnu::always_inline]] inline void for_column_blocks(std::ptrdiff_t columns, F f, std::ptrdiff_t column = 0) {
  for (; column + widest * S::lanes <= columns; column += widest * S::lanes)
    f.template operator()<widest>(column);
  if constexpr (widest > 1) for_column_blocks<S, widest / 2>(columns, f, column);
}

}  // namespace cottention::cpu
