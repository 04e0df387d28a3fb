// Sums of states over the pieces of a sequence.
#if !defined(COTTENTION_CPU_PREFIX_SUM_HPP)
#define COTTENTION_CPU_PREFIX_SUM_HPP

#include <algorithm>
#include <cstdint>

#include <cottention/cpu/scratch.hpp>
#include <cottention/cpu/target.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// to = a + b, all of `elements`.
template <class A>
void add_states(A* to, const A* a, const A* b, std::int64_t elements) {
  for (std::int64_t e = 0; e < elements; ++e) to[e] = a[e] + b[e];
}

/// Makes what is in `prefix.value` the sum.
template <class A>
void begin_sum(PrefixSum<A>& prefix, std::int64_t elements) {
  std::fill_n(prefix.compensation, elements, A{0});
  prefix.zero = false;
}

/// prefix += x, by compensated summation, so that the error does not grow with the number of pieces.
template <class A>
void add_to_sum(PrefixSum<A>& prefix, const A* x, std::int64_t elements) {
  if (prefix.zero) {
    std::copy_n(x, elements, prefix.value);
    begin_sum(prefix, elements);
    return;
  }
  A *const value = prefix.value, *const compensation = prefix.compensation;
  for (std::int64_t e = 0; e < elements; ++e) {
    const A exact = x[e] - compensation[e], sum = value[e] + exact;
    const A rounding = (sum - value[e]) - exact;
    compensation[e] = rounding - rounding == 0 ? rounding : A{0};  // an infinite sum stays what it is
    value[e] = sum;
  }
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif
