// Sums over a head dimension, whose error must not grow with it: short runs of terms, added pairwise.
#if !defined(COTTENTION_CPU_PAIRWISE_HPP)
#define COTTENTION_CPU_PAIRWISE_HPP

#include <cstddef>
#include <cstdint>

#include <cottention/cpu/simd.hpp>

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// The number of terms of a product that are added one after the other. Where n terms are alike, their
/// rounding errors have one sign, and the relative error of the sum is up to n / 4 of 2^-24 (double: of
/// 2^-53), about half of that in the mean square. Up to 256 dimensions shorter runs cost time.
constexpr std::ptrdiff_t run_terms(std::ptrdiff_t depth) { return depth <= 256 ? 128 : 64; }
/// The run length of `step`, whose time is that of memory.
inline constexpr std::ptrdiff_t step_run_terms = 64;
/// The run length, for each lane, of a sum of squares or a dot product: these are few.
inline constexpr std::ptrdiff_t short_run_terms = 16;
/// Runs of the first so many terms are added in order, later ones pairwise.
inline constexpr std::ptrdiff_t ordered_terms = 1024;

/// A pairwise sum of runs: part_[i] holds the sum of a power of two of runs, merged as a binary counter
/// carries. V has +=.
template <class V>
class PairwiseSum {
 public:
  [[gnu::always_inline]] void add(V run) {
    for (std::uint32_t runs = runs_++; (runs & 1) != 0; runs >>= 1) run += part_[--parts_];
    part_[parts_++] = run;
  }
  [[gnu::always_inline]] V total() const {
    if (parts_ == 0) return V{};
    V sum = part_[parts_ - 1];
    for (int i = parts_ - 1; i-- > 0;) sum += part_[i];
    return sum;
  }

 private:
  static constexpr int max_parts = 16;  // 2^16 - 1 runs: head dimensions end at 2^16
  std::uint32_t runs_ = 0;
  int parts_ = 0;
  V part_[max_parts];
};

/// A vector as the V of PairwiseSum.
template <class S>
struct VectorSum {
  typename S::Vector value = {};
  [[gnu::always_inline]] VectorSum& operator+=(const VectorSum& other) {
    value += other.value;
    return *this;
  }
};

/// The sum of term(i) for i from 0 to count - 1, each a vector.
template <class S, class Term>
[[gnu::always_inline]] inline typename S::Vector pairwise_sum(std::ptrdiff_t count, Term term) {
  PairwiseSum<VectorSum<S>> sum;
  for (std::ptrdiff_t first = 0; first < count; first += short_run_terms) {
    VectorSum<S> run;
    const std::ptrdiff_t last = first + short_run_terms < count ? first + short_run_terms : count;
    for (std::ptrdiff_t i = first; i < last; ++i) run.value += term(i);
    sum.add(run);
  }
  return sum.total().value;
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#endif
