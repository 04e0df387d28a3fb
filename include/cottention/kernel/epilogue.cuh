// From the sums of a recurrence to rows of the output.
#pragma once

#include <cottention/kernel/factors.cuh>
#include <cottention/kernel/log_sum.cuh>
#include <cottention/tile/combine.cuh>
#include <cottention/tile/projection.cuh>

namespace cottention::kernel {

template <AnyRoles R, Tiling tiling, bool = projects_itself<R, tiling>>
struct EpilogueStorage {
  tile::PartialOutput<PartOf<R, tiling>> partial;
};
template <AnyRoles R, Tiling tiling>
struct EpilogueStorage<R, tiling, true> {
  tile::PartialOutput<PartOf<R, tiling>> partial;
  tile::Projection<PartOf<R, tiling>> projection;
};

/// By the whole block.
template <AnyRoles R, Tiling tiling>
class Epilogue {
 public:
  using Part = PartOf<R, tiling>;
  using T = typename R::element;
  using A = typename Part::A;

  __device__ __forceinline__ Epilogue(const Head<R, tiling>& head, EpilogueStorage<R, tiling>& storage)
      : head_(head), storage_(storage) {}

  /// Before a barrier that precedes store().
  __device__ __forceinline__ void measure(RowTiles<R, tiling>& tiles) {
    if constexpr (projects_itself<R, tiling>)
      tile::measure_rows<Part::threads>(
          tiles.projected, Part::warps / 2,
          [this](int r, const tile::Length<A>& length) { storage_.projection.set(r, length); });
  }

  /// Writes rows row, ... of a member from `out`, in which each warp has its part of the sums.
  __device__ __forceinline__ void store(int member, int row, const RowTiles<R, tiling>& tiles,
                                        const ChunkFactors<R, tiling>& factors, typename Part::Output& out) {
    tile::combine<Part>(out, storage_.partial);
    const auto present = tile::Presence<Part::chunk>::load(head_.rows.mask, row, head_.rows.length);
    if constexpr (projects_itself<R, tiling>) {
      factors.scale_output(out);
      if (Part::holds_output()) storage_.projection.multiply(tiles.projected, out);
      device::sync_block();  // products of the warps' columns are written
      if (head_.params.log_sums != nullptr)
        for (int r = device::thread_index(); r < Part::chunk; r += Part::threads)
          if (present.contains(r))
            log_sum_ +=
                static_cast<double>(factors.log_count(r)) * static_cast<double>(storage_.projection.along(r));
      if (head_.params.out.data == nullptr || !Part::holds_output()) return;
      storage_.projection.project(tiles.projected, out);
      write(head_.out(member), row, present, out);
    } else if constexpr (R::projects) {
      if (!Part::holds_output()) return;
      factors.scale_output(out);
      write(head_.unprojected(member), row, present, out);
    } else {
      if (head_.params.out.data == nullptr || !Part::holds_output()) return;
      factors.scale_output(out);
      write(head_.out(member), row, present, out);
    }
  }

  /// Leaves what the block has summed for the gradient of scale_logit, in place y of its unit.
  __device__ __forceinline__ void store_log_sum(
      int places, device::BlockSumStorage<double, Part::threads>& storage_shared) const {
    if constexpr (projects_itself<R, tiling>)
      if (head_.params.log_sums != nullptr)
        kernel::store_log_sum(head_.params.log_sums, places, log_sum_, storage_shared);
  }

 private:
  template <class E>
  __device__ __forceinline__ void write(const tile::Rows<E>& rows, int row,
                                        const tile::Presence<Part::chunk>& present,
                                        const typename Part::Output& out) const {
    tile::store_output<Part>(rows, row, head_.column, R::dims.v, present, out);
  }

  const Head<R, tiling>& head_;
  EpilogueStorage<R, tiling>& storage_;
  double log_sum_ = 0;  // of the rows that this thread adds up
};

}  // namespace cottention::kernel
