// The targets that a program has code with vectors for, and the choice among them.
//
// That is the target of the compiler's flags. A unit with COTTENTION_CPU_DISPATCH has wider ones too, and
// calls choose at run time what the machine executes. #pragma target and clang's attribute are in effect
// where a function is declared, those of lambdas included, so headers are included once for each target.
#pragma once

#include <cottention/cpu/execution.hpp>
#include <cottention/cpu/target_code.hpp>
#include <cottention/cpu/tuning.hpp>

#if COTTENTION_CPU_HAS_DISPATCH

// All other headers come first: their functions must run on any machine.
#include <cpuid.h>
#include <immintrin.h>

#pragma push_macro("COTTENTION_CPU_TARGET")
#pragma push_macro("COTTENTION_CPU_VECTOR_BYTES")
#pragma push_macro("COTTENTION_CPU_F16C")
#undef COTTENTION_CPU_TARGET
#undef COTTENTION_CPU_VECTOR_BYTES
#undef COTTENTION_CPU_F16C
#define COTTENTION_CPU_F16C 1

#if !defined(__AVX2__) || !defined(__FMA__)
#define COTTENTION_CPU_TARGET run_time_avx2
#define COTTENTION_CPU_VECTOR_BYTES 32
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#include <cottention/cpu/include_again.inc>
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#include <cottention/cpu/include_again.inc>
#pragma GCC pop_options
#endif
#undef COTTENTION_CPU_TARGET
#undef COTTENTION_CPU_VECTOR_BYTES
#endif

#define COTTENTION_CPU_TARGET run_time_avx512
#define COTTENTION_CPU_VECTOR_BYTES 64
#if defined(__clang__)
#pragma clang attribute push(                                                             \
    __attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c"))), \
    apply_to = function)
#include <cottention/cpu/include_again.inc>
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#include <cottention/cpu/include_again.inc>
#pragma GCC pop_options
#endif
#undef COTTENTION_CPU_TARGET
#undef COTTENTION_CPU_VECTOR_BYTES

#undef COTTENTION_CPU_F16C
#pragma pop_macro("COTTENTION_CPU_F16C")
#pragma pop_macro("COTTENTION_CPU_VECTOR_BYTES")
#pragma pop_macro("COTTENTION_CPU_TARGET")

#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// The `vector_bytes` with which a call chooses at run time.
inline constexpr int run_time_vector_bytes = 0;

/// The `vector_bytes` of calls that name none: native_vector_bytes, or with COTTENTION_CPU_DISPATCH on x86-64
/// run_time_vector_bytes.
inline constexpr int default_vector_bytes =
    COTTENTION_CPU_HAS_DISPATCH ? run_time_vector_bytes : native_vector_bytes;

namespace detail {

#if COTTENTION_CPU_HAS_DISPATCH
/// Whether the processor has all that the code for AVX2 is compiled for, and the operating system its
/// registers.
inline bool runs_avx2() {
  static const bool runs = [] {
    __builtin_cpu_init();  // for calls before main
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;  // clang 14 knows no "f16c"
  }();
  return runs;
}
/// The same for AVX-512.
inline bool runs_avx512() {
  static const bool runs = [] {
    __builtin_cpu_init();
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
  }();
  return runs;
}
#endif

/// f.template operator()<TargetCode>() of the target that a call takes.
template <int vector_bytes, class F>
auto with_target([[maybe_unused]] const Execution& execution, F f) {
  static_assert(vector_bytes != run_time_vector_bytes || COTTENTION_CPU_HAS_DISPATCH,
                "cottention: vectors are chosen at run time where a program for x86-64 is compiled with "
                "COTTENTION_CPU_DISPATCH. Remedy: define it, or name a width.");
#if COTTENTION_CPU_HAS_DISPATCH
  if constexpr (vector_bytes == run_time_vector_bytes) {
    const int limit = execution.max_vector_bytes == 0 ? 64 : execution.max_vector_bytes;
    if (limit >= 64 && runs_avx512()) return f.template operator()<run_time_avx512::TargetCode<64>>();
#if !defined(__AVX2__) || !defined(__FMA__)
    if (limit >= 32 && runs_avx2()) return f.template operator()<run_time_avx2::TargetCode<32>>();
#endif
    return f.template operator()<TargetCode<native_vector_bytes>>();
  } else
#endif
    return f.template operator()<TargetCode<vector_bytes>>();
}

}  // namespace detail

/// Bytes of the vectors that a call with this Execution takes where it names no width.
inline int vector_width(const Execution& execution = {}) {
  return detail::with_target<default_vector_bytes>(execution,
                                                   [&]<class Code> { return Code::bytes_of_vectors; });
}

/// Whether calls of P with this Execution that name no width compute on the processor's matrix unit where
/// their operands are in its range. The first call of all asks the operating system's permission.
template <AnyProblem P, Tiling tile = tuned_tiling<P>>
bool uses_matrix_unit(const Execution& execution = {}) {
  return execution.matrix_unit && detail::with_target<default_vector_bytes>(execution, [&]<class Code> {
           return Code::template Unit<P, tile.chunk>::available();
         });
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET
