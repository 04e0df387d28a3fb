// Through the norm, for rows too wide for one block: Walk and Apply leave the gradient with respect to the
// normalised rows in memory, a block its columns, and this makes the output of it.
#pragma once

#include <cottention/kernel/factors.cuh>
#include <cottention/kernel/log_sum.cuh>

namespace cottention::kernel {

/// Blocks: x as in RecurrenceParams, y = piece (causal) or part of the rows. A warp for each row.
template <AnyRoles R, Tiling tiling>
struct Project {
  using Part = PartOf<R, tiling>;
  using T = typename R::element;
  using A = typename Part::A;
  static constexpr int threads = Part::threads;
  static constexpr int blocks_per_multiprocessor = 1;

  using Params = RecurrenceParams<T>;
  struct Storage {
    Factors<Part> factors;
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    constexpr bool causal = R::mask == Mask::causal;
    const Head<R, tiling> head(params);
    const Pieces parts = row_parts(head);
    const int part = device::block_y(), count = causal ? head.pieces.count : parts.count;
    double log_sum = 0;
    if (part < count) {
      ChunkFactors<R, tiling> factors(head, storage.factors);
      const int first = causal ? head.first : parts.first(part);
      const int last = causal ? head.last : parts.last(part, head.rows.length);
      using Position = tile::Cursor<1, Part::chunk, R::direction>;
      for (Position at = Position::start(first, last); at.within(first, last); at.advance(1)) {
        factors.begin_chunk(head, at.row);
        device::sync_block();  // the table is written
        factors.enter_chunk();
        const int members = R::rows_are_queries ? head.group : 1;
        for (int member = 0; member < members; ++member)
          for (int r = device::warp_index(); r < Part::chunk && at.row + r < head.rows.length;
               r += Part::warps) {
            const A along = project_row(head, member, at.row + r);
            if (params.log_sums != nullptr && device::lane_index() == 0)
              log_sum += static_cast<double>(factors.log_count(r)) * static_cast<double>(along);
          }
        device::sync_block();  // readers of the table are done
      }
    }
    if (params.log_sums != nullptr)
      store_log_sum(params.log_sums, causal ? params.cuts.most : params.row_parts, log_sum,
                    storage.factors.counts.sum);
  }

 private:
  /// Returns x^ . d. By a warp.
  static __device__ __forceinline__ A project_row(const Head<R, tiling>& head, int member, int row) {
    using Unit = device::Vector<T, 16 / static_cast<int>(sizeof(T))>;
    constexpr int unit = 16 / static_cast<int>(sizeof(T));
    constexpr int width = R::dims.v;
    const tile::Rows<const T> x = head.projected(member);
    const tile::Rows<A> d = head.unprojected(member);
    const bool present = x.contains(row);
    tile::Length<A> length{};
    A along{};
    if (present) {
      length = tile::measure_in_memory(x.row(row), width);
      tile::for_each_unit<Unit>(x.row(row), width, [&](const Unit& values, int c) {
#pragma unroll
        for (int e = 0; e < unit; ++e)
          along = device::fma(scaled(values[e], length), device::load_global(d.row(row) + c + e), along);
      });
      along = tile::sum_over_warp(along) * length.unit();
    }
    if (head.params.out.data == nullptr) return along;
    const A share = length.at_floor() ? A{0} : along * length.unit();
    T* to = head.out(member).row(row);
    tile::for_each_unit<Unit>(x.row(row), width, [&](const Unit& values, int c) {
      Unit dx{};
      if (present) {
#pragma unroll
        for (int e = 0; e < unit; ++e)
          dx[e] = device::narrow<T>(
              device::fma(-share, scaled(values[e], length), device::load_global(d.row(row) + c + e)) *
              length.inverse());
      }
      device::store_global(reinterpret_cast<Unit*>(to + c), dx);
    });
    return along;
  }
  static __device__ __forceinline__ A scaled(const T& x, const tile::Length<A>& length) {
    return device::times_power_of_two(device::widen<T>(x), -length.exponent);
  }
};

}  // namespace cottention::kernel
