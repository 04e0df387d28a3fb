// From the sums of a recurrence to rows of the output.
#pragma once

#include <cottention/kernel/scale_grad.cuh>
#include <cottention/sm80/combine.cuh>
#include <cottention/sm80/factors.cuh>
#include <cottention/sm80/norm_backward.cuh>

namespace cottention::sm80 {

template <kernel::AnyRoles R, Tiling tiling, bool = fuses_norm_backward<R, tiling>>
struct EpilogueStorage {
  sm80::PartialOutput<PartOf<R, tiling>> partial;
};
template <kernel::AnyRoles R, Tiling tiling>
struct EpilogueStorage<R, tiling, true> {
  sm80::PartialOutput<PartOf<R, tiling>> partial;
  sm80::NormBackward<PartOf<R, tiling>> norm_backward;
};

/// By the whole block.
template <kernel::AnyRoles R, Tiling tiling>
class Epilogue {
 public:
  using Part = PartOf<R, tiling>;
  using T = typename R::element;
  using A = typename Part::A;

  __device__ __forceinline__ Epilogue(const Head<R, tiling>& head, EpilogueStorage<R, tiling>& storage)
      : head_(head), storage_(storage) {}

  /// Before a barrier that precedes store().
  __device__ __forceinline__ void measure(RowTiles<R, tiling>& tiles) {
    if constexpr (fuses_norm_backward<R, tiling>)
      sm80::rescale_and_measure_rows<Part::threads>(
          tiles.norm_input, Part::warps / 2,
          [this](int r, const tile::RowNorm<A>& norm) { storage_.norm_backward.set(r, norm); });
  }

  /// Writes rows row, ... of a query head from `out`, in which each warp has its part of the sums.
  __device__ __forceinline__ void store(int group_head, int row, const RowTiles<R, tiling>& tiles,
                                        const ChunkFactors<R, tiling>& factors, typename Part::Output& out) {
    sm80::combine<Part>(out, storage_.partial);
    const auto valid = tile::ValidRows<Part::chunk>::load(head_.rows.mask, row, head_.rows.length);
    if constexpr (fuses_norm_backward<R, tiling>) {
      factors.scale_output(out);
      if (Part::holds_output()) storage_.norm_backward.multiply(tiles.norm_input, out);
      device::sync_block();  // products of the warps' columns are written
      if (head_.params.scale_grad_partials != nullptr)
        for (int r = device::thread_index(); r < Part::chunk; r += Part::threads)
          if (valid.contains(r))
            scale_grad_ += static_cast<double>(factors.log_count(r)) *
                           static_cast<double>(storage_.norm_backward.coefficient(r));
      if (head_.params.out.data == nullptr || !Part::holds_output()) return;
      storage_.norm_backward.project(tiles.norm_input, out);
      write(head_.out(group_head), row, valid, out);
    } else if constexpr (R::has_norm_backward) {
      if (!Part::holds_output()) return;
      factors.scale_output(out);
      write(head_.grad_normalized(group_head), row, valid, out);
    } else {
      if (head_.params.out.data == nullptr || !Part::holds_output()) return;
      factors.scale_output(out);
      write(head_.out(group_head), row, valid, out);
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
  template <class E>
  __device__ __forceinline__ void write(const tile::RowView<E>& rows, int row,
                                        const tile::ValidRows<Part::chunk>& valid,
                                        const typename Part::Output& out) const {
    sm80::store_output<Part>(rows, row, head_.column, R::dims.v, valid, out);
  }

  const Head<R, tiling>& head_;
  EpilogueStorage<R, tiling>& storage_;
  double scale_grad_ = 0;  // of the rows that this thread adds up
};

}  // namespace cottention::sm80
