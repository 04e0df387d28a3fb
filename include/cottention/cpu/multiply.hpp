// Matrix products on blocks in the first-level cache, all by one register-tiled kernel.
#if !defined(COTTENTION_CPU_MULTIPLY_HPP)
#define COTTENTION_CPU_MULTIPLY_HPP

#include <cottention/cpu/pairwise.hpp>
#include <cottention/cpu/simd.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// The accumulators of a register tile, (rows, vectors * lanes).
template <class S, int rows, int vectors>
struct Accumulators {
  typename S::Vector value[rows][vectors] = {};

  /// value += a b, with a (rows, depth) and b (depth, vectors * lanes) row-major.
  template <class A>
  [[gnu::always_inline]] void multiply(const A* a, std::ptrdiff_t a_pitch, const A* b, std::ptrdiff_t b_pitch,
                                       std::ptrdiff_t depth) {
    // Two moving addresses reach all rows of a: with one for each row, compilers run out of registers.
    constexpr int half = (rows + 1) / 2;
    const A* a_low = a;
    const A* a_high = a + half * a_pitch;
    for (std::ptrdiff_t k = 0; k < depth; ++k, b += b_pitch, ++a_low, ++a_high) {
      in_register(a_low), in_register(a_high);
      typename S::Vector b_row[vectors];
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) b_row[c] = S::load_once(b + c * S::lanes);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const typename S::Vector a_element =
            S::splat(r < half ? a_low[r * a_pitch] : a_high[(r - half) * a_pitch]);
#pragma GCC unroll 8
        for (int c = 0; c < vectors; ++c) value[r][c] += a_element * b_row[c];
      }
    }
  }

  /// value += a b where `depth` is a head dimension: summed in runs, so that the error does not grow with it.
  template <class A>
  [[gnu::always_inline]] void multiply_long(const A* a, std::ptrdiff_t a_pitch, const A* b,
                                            std::ptrdiff_t b_pitch, std::ptrdiff_t depth) {
    const std::ptrdiff_t run = run_terms(depth);
    multiply(a, a_pitch, b, b_pitch, depth < run ? depth : run);
    if (depth <= run) return;
    Accumulators sum = *this;  // in memory; these are in registers
    sum.add_runs(a + run, a_pitch, b + run * b_pitch, b_pitch, depth - run, run);
    *this = sum;
  }

  [[gnu::always_inline]] Accumulators& operator+=(const Accumulators& other) {
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) value[r][c] += other.value[r][c];
    }
    return *this;
  }

  /// Calls f(row, vector, value) for each accumulator.
  template <class F>
  [[gnu::always_inline]] void each(F f) const {
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) f(r, c, value[r][c]);
    }
  }

 private:
  /// The function is not inlined, so that each of the two loops has all registers.
  template <class A>
  [[gnu::noinline]] void add_runs(const A* a, std::ptrdiff_t a_pitch, const A* b, std::ptrdiff_t b_pitch,
                                  std::ptrdiff_t depth, std::ptrdiff_t run_terms) {
    PairwiseSum<Accumulators> others;
    for (std::ptrdiff_t k = 0; k < depth; k += run_terms) {
      Accumulators run;
      run.multiply(a + k, a_pitch, b + k * b_pitch, b_pitch, depth - k < run_terms ? depth - k : run_terms);
      if (k < ordered_terms)
        *this += run;
      else
        others.add(run);
    }
    if (depth > ordered_terms) *this += others.total();
  }
};

/// Calls f.template operator()<vectors>(column) so that `columns`, a multiple of S::lanes, are covered by
/// blocks of `max_vectors` vectors, a power of two, and then by narrower ones.
template <class S, int max_vectors, class F>
[[gnu::always_inline]] inline void for_column_blocks(std::ptrdiff_t columns, F f, std::ptrdiff_t column = 0) {
  for (; column + max_vectors * S::lanes <= columns; column += max_vectors * S::lanes)
    f.template operator()<max_vectors>(column);
  if constexpr (max_vectors > 1) for_column_blocks<S, max_vectors / 2>(columns, f, column);
}

/// Calls f.template operator()<height>(row) so that `count` rows are covered by register tiles; at most as
/// many rows as whole tiles of last_rows have, and exactly `count` where that is a multiple of 16.
template <int vector_bytes, class F>
[[gnu::always_inline]] inline void for_row_tiles(std::ptrdiff_t count, F f) {
  constexpr RegisterTile tile = register_tile<vector_bytes>;
  constexpr int rows = tile.rows, last_rows = tile.last_rows;
  static_assert(rows == last_rows || (rows == 6 && last_rows == 4));
  std::ptrdiff_t row = 0;
  if constexpr (rows != last_rows)
    for (std::ptrdiff_t left = count; left > 2 * last_rows || (left > last_rows && left <= rows);
         left -= rows, row += rows)
      f.template operator()<rows>(row);
  for (; row < count; row += last_rows) f.template operator()<last_rows>(row);
}

/// to = from^T, with from (rows, columns); both are multiples of 16. A whole cache line of `to` is written
/// before the next one: where rows lie a power of two apart, a line would be evicted in between.
template <class S, class A>
void transpose_matrix(const A* from, std::ptrdiff_t rows, std::ptrdiff_t columns, A* to) {
  constexpr std::ptrdiff_t line = 64 / static_cast<std::ptrdiff_t>(sizeof(A));
  for (std::ptrdiff_t row = 0; row < rows; row += line)
    for (std::ptrdiff_t column = 0; column < columns; column += S::lanes)
      for (std::ptrdiff_t part = row; part < row + line; part += S::lanes) {
        typename S::Vector tile[S::lanes];
#pragma GCC unroll 16
        for (int i = 0; i < S::lanes; ++i) tile[i] = S::load(from + (part + i) * columns + column);
        transpose<S>(tile);
#pragma GCC unroll 16
        for (int i = 0; i < S::lanes; ++i) S::store(to + (column + i) * rows + part, tile[i]);
      }
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif
