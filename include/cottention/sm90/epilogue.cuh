// From the sums of a warpgroup's 64 rows to rows of the output.
#pragma once

#include <cottention/kernel/scale_grad.cuh>
#include <cottention/sm90/factors.cuh>

namespace cottention::sm90 {

/// Takes out, the gradient with respect to norm(x), backward through the norm; `x`: the rows that memory has.
/// products: x . out of rows g and g + 8. Scope: warp; barriers inside: 0.
template <Element T, int columns>
__device__ __forceinline__ void through_norm(Sums<columns>& out, const RowFragments<T, columns>& x,
                                             const tile::NormBackward<float> (&backward)[2],
                                             float (&products)[2]) {
  products[0] = products[1] = 0;
  x.for_each([&](float element, int h, int c, int e) {
    products[h] = device::fma(element, out.of_panel[c / 64][c % 64 / 2 + 2 * h + e], products[h]);
  });
  sum_over_quad(products);
  const float along[2] = {backward[0].along(products[0]), backward[1].along(products[1])};
  x.for_each([&](float element, int h, int c, int e) {
    float& sum = out.of_panel[c / 64][c % 64 / 2 + 2 * h + e];
    sum = backward[h](sum, element, along[h]);
  });
}

/// Rows g and g + 8 of sums that are not valid become 0.
template <int columns>
__device__ __forceinline__ void clear_sums(Sums<columns>& sums, const tile::ValidRows<chunk_rows>& valid) {
  if (valid.all()) return;
  const int row = 16 * warp_in_group() + lane_index() / 4;
  const bool keep[2] = {valid.contains(row), valid.contains(row + 8)};
  sums.for_each([&](float& sum, int h, int, int) { sum = keep[h] ? sum : 0.0f; });
}

/// Copies the warp's rows of a tile to rows row, ... of a sequence, those that exist. Scope: warp; barriers
/// inside: 0.
template <Element T, int columns>
__device__ __forceinline__ void copy_rows(const Tile<T, columns>& from, const tile::RowView<T>& to, int row) {
  using Vec = device::Vector<std::uint32_t, 4>;
  constexpr int vecs = columns / 8;
#pragma unroll 1
  for (int i = lane_index(); i < 16 * vecs; i += device::warp_size) {
    const int r = 16 * warp_in_group() + i / vecs, c = i % vecs * 8;
    if (row + r < to.length)
      device::store_global(reinterpret_cast<Vec*>(to.row(row + r) + c),
                           device::load_shared(reinterpret_cast<const Vec*>(from.at(r, c))));
  }
}

/// What lanes have summed for the gradient of scale_logit, in shared memory where they lack registers.
template <kernel::AnyRoles R>
struct ScaleGradSums {
  double of_lanes[lacks_registers<R> ? 128 : 1];
};

/// The epilogue of a recurrence. Scope of all members but store_scale_grad(): the first warpgroup.
template <kernel::AnyRoles R, Tiling tiling>
class Epilogue {
 public:
  using T = typename R::element;
  using Params = RecurrenceParams<T>;
  using Valid = tile::ValidRows<chunk_rows>;

  __device__ __forceinline__ Epilogue(const Params& params, const Head<R, tiling>& head,
                                      ScaleGradSums<R>& sums_shared)
      : params_(params), head_(head), sums_(sums_shared) {
    if (lacks_registers<R> && group_index() == 0)
      device::store_shared(sums_.of_lanes + device::thread_index(), 0.0);
  }

  /// Writes the output of a chunk's rows to its buffer; they leave for memory in store(), after a barrier.
  __device__ __forceinline__ void stage(const ChunkFactors<R, tiling>& factors, const Valid& valid,
                                        RowBuffer<R>& rows, Sums<R::dims.v>& out) {
    factors.scale_output(out);
    if constexpr (R::has_norm_backward) {
      RowFragments<T, R::dims.v> x;
      x.load(rows.norm_input);
      float products[2];
      through_norm(out, x, {factors.norm_backward(0), factors.norm_backward(1)}, products);
      const float coefficient = own_of(products) * factors.own_rnorm();
      if (params_.scale_grad_partials != nullptr && writes_own_row() && valid.contains(own_row()))
        add_scale_grad(static_cast<double>(factors.own_log_count()) * static_cast<double>(coefficient));
    }
    if (params_.out.data == nullptr) return;
    clear_sums(out, valid);
    device::sync_warp();  // rows have been read by other lanes, which do not write them here
    store_rows<keeps_indices<R>>(rows.output(), out);
    device::fence_proxy_async();
  }
  /// Starts the stores of rows row, ... of a query head, by TMA where all 64 rows are of the sequence.
  __device__ __forceinline__ void store(int group_head, int row, RowBuffer<R>& rows) const {
    if (params_.out.data == nullptr) return;
    if (row + chunk_rows <= head_.rows.length) {
      if (device::thread_index() == 0)
        store_panels(rows.output(), params_.out_map,
                     coordinates<R, tiling>(head_, R::rows_are_queries, group_head, row));
      return;
    }
    copy_rows(rows.output(), head_.out(group_head), row);
  }

  /// Leaves what the block has summed for the gradient of scale_logit, at position y of its head. Scope:
  /// block; barriers inside: 2.
  __device__ __forceinline__ void store_scale_grad(
      int partials_per_head,
      device::BlockSumStorage<double, warps_of<R> * device::warp_size>& storage_shared) const {
    if constexpr (R::has_norm_backward)
      if (params_.scale_grad_partials != nullptr)
        kernel::store_scale_grad(params_.scale_grad_partials, partials_per_head, scale_grad(),
                                 storage_shared);
  }

 private:
  __device__ __forceinline__ void add_scale_grad(double term) {
    if constexpr (lacks_registers<R>) {
      double* const sum = sums_.of_lanes + device::opaque(device::thread_index());
      device::store_shared(sum, device::load_shared(sum) + term);
    } else {
      scale_grad_ += term;
    }
  }
  __device__ __forceinline__ double scale_grad() const {
    if constexpr (lacks_registers<R>)
      return group_index() == 0 ? device::load_shared(sums_.of_lanes + device::thread_index()) : 0.0;
    else
      return scale_grad_;
  }

  const Params& params_;
  const Head<R, tiling>& head_;
  ScaleGradSums<R>& sums_;
  double scale_grad_ = 0;  // of the lane's own rows
};

}  // namespace cottention::sm90
