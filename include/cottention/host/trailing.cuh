// The rows of packed batches that belong to no sequence, which calls set to 0.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include <cottention/arguments.hpp>
#include <cottention/kernel/trailing.cuh>

namespace cottention::host {

/// Whether a call sets the rows behind its last sequence to 0: not where its sequences are some of a batch.
enum class TrailingRows { cleared, kept };

/// The rows of an output that kernel::Trailing sees to: none unless the batch is packed.
template <class Kernel, Element T>
typename Kernel::Rows trailing_rows(const Tensor<T>& x, const Offsets& offsets, std::int64_t batch,
                                    std::int64_t seq, std::int64_t heads, std::int64_t dim) {
  typename Kernel::Rows rows{tile::view(x, seq, heads, dim), tile::view(offsets), batch, seq, heads, dim};
  if (!offsets.given() || seq == 0 || heads == 0) rows.view.data = nullptr;
  return rows;
}
template <Element T>
typename kernel::Trailing<T, 1>::Params trailing_params(const ForwardArguments<T>& args) {
  using Kernel = kernel::Trailing<T, 1>;
  const Shape& s = args.shape;
  return {{trailing_rows<Kernel>(args.o, args.cu_seqlens_q, s.batch, s.seq_q, s.heads_q, s.dim_v)}};
}
template <Element T>
typename kernel::Trailing<T, 3>::Params trailing_params(const BackwardArguments<T>& args) {
  using Kernel = kernel::Trailing<T, 3>;
  const Shape& s = args.shape;
  const Offsets &q = args.cu_seqlens_q, &k = args.cu_seqlens_k;
  return {{trailing_rows<Kernel>(args.dq, q, s.batch, s.seq_q, s.heads_q, s.dim_qk),
           trailing_rows<Kernel>(args.dk, k, s.batch, s.seq_k, s.heads_kv, s.dim_qk),
           trailing_rows<Kernel>(args.dv, k, s.batch, s.seq_k, s.heads_kv, s.dim_v)}};
}

/// What sets them to 0, as a part of a call (launches.cuh) or a call of its own.
template <Element T, class Arguments>
class TrailingCall {
 public:
  explicit TrailingCall(const Arguments& args) : args_(args) {}

  std::size_t used_bytes() const { return 0; }

  template <class Each>
  void kernels(void*, Each each) const {
    constexpr int tensors = std::same_as<Arguments, BackwardArguments<T>> ? 3 : 1;
    using Kernel = kernel::Trailing<T, tensors>;
    const typename Kernel::Params params = trailing_params(args_);
    if (std::any_of(std::begin(params.rows), std::end(params.rows),
                    [](const auto& rows) { return rows.view.data != nullptr; }))
      each.template operator()<Kernel>({Kernel::blocks, tensors}, [&] { return params; });
  }

 private:
  const Arguments& args_;
};

}  // namespace cottention::host
