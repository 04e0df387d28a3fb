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
    for (std::ptrdiff_t k = 0; k < depth; ++k) {
      typename S::Vector b_row[vectors];
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c) b_row[c] = S::load_once(b + k * b_pitch + c * S::lanes);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const typename S::Vector a_element = S::splat(a[r * a_pitch + k]);
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

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif
