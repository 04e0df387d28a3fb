// The norms of rows of which a tile holds only some columns.
#pragma once

#include <cottention/sm80/layout.cuh>
#include <cottention/tile/row_norm.cuh>
#include <cottention/tile/sequence.cuh>

namespace cottention::sm80 {

/// Likewise for rows that the tile holds only some columns of: rows first, ... of `rows`, `width` long, each
/// read whole from memory by a warp. A row that is scaled is so in the tile, for half by 2^shift(row) too.
template <int threads, Element T, int tile_rows, int tile_columns, class Shift, class Write>
__device__ __forceinline__ void rescale_and_measure_global_rows(const tile::RowView<const T>& rows, int first,
                                                                int width,
                                                                Tile<T, tile_rows, tile_columns>& tile,
                                                                [[maybe_unused]] Shift shift, Write write) {
  using A = Accumulate<T>;
  using Vec = tile::Vec<T>;
  using Target = Tile<T, tile_rows, tile_columns>;
  for (int row = device::warp_index(); row < tile_rows; row += threads / device::warp_size) {
    tile::RowNorm<A> norm{};
    // Lane 0 alone reads what it may write over.
    int by = 0;
    if constexpr (std::same_as<T, half>) by = device::shuffle(device::lane_index() == 0 ? shift(row) : 0, 0);
    if (rows.contains(first + row)) norm = tile::measure_global_row(rows.row(first + row), width, by);
    if (norm.exponent != 0)
      for (int c = device::lane_index() * Target::vec_size; c < Target::vecs * Target::vec_size;
           c += device::warp_size * Target::vec_size) {
        Vec* at = reinterpret_cast<Vec*>(tile.at(row, c));
        Vec x = device::load_shared(at);
#pragma unroll
        for (int e = 0; e < Target::vec_size; ++e)
          x[e] = device::narrow<T>(device::times_power_of_two(device::widen<T>(x[e]), -norm.exponent));
        device::store_shared(at, x);
      }
    if (device::lane_index() == 0) write(row, norm);
  }
}

}  // namespace cottention::sm80
