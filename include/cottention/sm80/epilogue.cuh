// From the sums of a recurrence to rows of the output.
#pragma once

#include <cottention/kernel/scale_grad.cuh>
#include <cottention/sm80/combine.cuh>
#include <cottention/sm80/factors.cuh>
#include <cottention/sm80/norm_backward.cuh>

namespace cottention::sm80 {

/// Takes out, the gradient with respect to norm(x), backward through the norm, and calls store() where the
/// output is wanted, which finds its rows' addresses in registers or in shared memory. x: (chunk, dim); out:
/// rows (chunk, dim), of which the block has all columns. all_hold_output: the kernel's warps never split K.
/// add_scale_grad(r, x^ . d) is called by one thread for each valid row. Scope: block; barriers inside: 1.
template <class Part, bool all_hold_output, class AddScaleGrad, class Store>
__device__ __forceinline__ void store_through_norm(const tile::ValidRows<Part::chunk>& valid,
                                                   const typename Part::TileC& x,
                                                   NormBackward<Part>& norm_backward, bool wants_scale_grad,
                                                   AddScaleGrad add_scale_grad, bool wants_output,
                                                   Store store, typename Part::Output& out) {
  const auto holds_output = [] { return all_hold_output || Part::holds_output(); };
  if (holds_output()) norm_backward.multiply(x, out);
  device::sync_block();  // products of the warps' columns are written
  if (wants_scale_grad)
    for (int r = device::thread_index(); r < Part::chunk; r += Part::threads)
      if (valid.contains(r)) add_scale_grad(r, norm_backward.coefficient(r));
  if (!wants_output || !holds_output()) return;
  norm_backward.project(x, out);
  store();
}

template <kernel::AnyRoles R, Tiling tiling, bool = fuses_norm_backward<R, tiling>>
struct EpilogueStorage {
  sm80::PartialOutput<PartOf<R, tiling>> partial;
};
template <kernel::AnyRoles R, Tiling tiling>
struct EpilogueStorage<R, tiling, true> : EpilogueStorage<R, tiling, false> {
  NormBackward<PartOf<R, tiling>> norm_backward;
};

/// The epilogue of a recurrence on its own. Scope of all members: block.
template <kernel::AnyRoles R, Tiling tiling>
class Epilogue {
 public:
  using Part = PartOf<R, tiling>;
  using T = typename R::element;
  using A = typename Part::A;

  __device__ __forceinline__ Epilogue(const Head<R, tiling>& head, EpilogueStorage<R, tiling>& storage)
      : head_(head), storage_(storage) {}

  /// Measures x of the norm backward. No barrier inside; one must be between it and store().
  __device__ __forceinline__ void measure(RowTiles<R, tiling>& tiles) {
    if constexpr (fuses_norm_backward<R, tiling>)
      sm80::rescale_and_measure_rows<Part::threads>(
          tiles.norm_input, Part::warps / 2,
          [this](int r, const tile::RowNorm<A>& norm) { storage_.norm_backward.set(r, norm, norm.rnorm()); });
  }

  /// Writes rows row, ... of a query head from `out`, in which each warp has its part of the sums.
  __device__ __forceinline__ void store(int group_head, int row, const RowTiles<R, tiling>& tiles,
                                        const ChunkFactors<R, tiling>& factors, typename Part::Output& out) {
    sm80::combine<Part>(out, storage_.partial);
    const auto valid = tile::ValidRows<Part::chunk>::load(head_.rows.mask, row, head_.rows.length);
    const auto store = [&] {
      const auto rows = [&] {
        if constexpr (R::has_norm_backward && !fuses_norm_backward<R, tiling>)
          return head_.grad_normalized(group_head);
        else
          return head_.out(group_head);
      };
      sm80::store_output<Part>(rows(), row, head_.column, R::dims.v, valid, out);
    };
    const auto& params = head_.params;
    if constexpr (fuses_norm_backward<R, tiling>) {
      factors.scale_output(out);
      const auto add = [&](int r, A coefficient) {
        scale_grad_ += static_cast<double>(factors.log_count(r)) * static_cast<double>(coefficient);
      };
      store_through_norm<Part, false>(valid, tiles.norm_input, storage_.norm_backward,
                                      params.scale_grad_partials != nullptr, add, params.out.data != nullptr,
                                      store, out);
    } else {
      if ((!R::has_norm_backward && params.out.data == nullptr) || !Part::holds_output()) return;
      factors.scale_output(out);
      store();
    }
  }

  /// Leaves what the block has summed for the gradient of scale_logit, at position y of its head.
  __device__ __forceinline__ void store_scale_grad(
      int partials_per_head, device::BlockSumStorage<double, Part::threads>& storage_shared) const {
    if constexpr (fuses_norm_backward<R, tiling>)
      if (head_.params.scale_grad_partials != nullptr)
        kernel::store_scale_grad(head_.params.scale_grad_partials, partials_per_head, scale_grad_,
                                 storage_shared);
  }

 private:
  const Head<R, tiling>& head_;
  EpilogueStorage<R, tiling>& storage_;
  double scale_grad_ = 0;  // of the rows that this thread adds up
};

}  // namespace cottention::sm80
