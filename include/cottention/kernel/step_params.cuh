// What kernel::Step is launched with. Plain C++ with CUDA's headers, so that programs without nvcc, which
// compile the kernel at run time, can launch it.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/arguments.hpp>
#include <cottention/tensor.hpp>
#include <cottention/tile/divisor.cuh>

namespace cottention::kernel {

/// Where a row of the stream stands: group_row 0 is the key of the token, group_row 1, 2, ... its queries.
struct StepRow {
  int token, group_row;
};

template <Element T>
struct StepParams {
  StepArguments<T> args;         // strides resolved
  int group;                     // query heads to a key head
  tile::Divisor heads;           // of k and v
  tile::Divisor rows_per_token;  // a key, and queries if they are wanted

  __device__ __forceinline__ StepRow row(int i) const {
    const auto n = static_cast<std::uint32_t>(i);
    const std::uint32_t token = rows_per_token.quotient(n);
    return {static_cast<int>(token), static_cast<int>(rows_per_token.remainder(n, token))};
  }
};

#if !defined(__CUDACC_RTC__)

/// The parameters for valid arguments that are not empty. A launch has batch * heads_kv * Step::v_tiles
/// blocks.
template <Element T>
StepParams<T> step_params(StepArguments<T> args) {
  const Shape& s = args.shape;
  args.q.strides = resolve(args.q.strides, s.seq_q, s.heads_q, s.dim_qk);
  args.k.strides = resolve(args.k.strides, s.seq_k, s.heads_kv, s.dim_qk);
  args.v.strides = resolve(args.v.strides, s.seq_k, s.heads_kv, s.dim_v);
  args.o.strides = resolve(args.o.strides, s.seq_q, s.heads_q, s.dim_v);
  if (s.heads_q == 0) args.o.data = nullptr;
  StepParams<T> params;
  params.args = args;
  params.group = static_cast<int>(s.heads_q / s.heads_kv);
  params.heads = tile::Divisor(static_cast<std::uint32_t>(s.heads_kv));
  params.rows_per_token =
      tile::Divisor(args.o.data == nullptr ? 1u : 1u + static_cast<std::uint32_t>(params.group));
  return params;
}

#endif

}  // namespace cottention::kernel
