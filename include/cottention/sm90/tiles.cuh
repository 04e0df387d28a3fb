// Tiles of 64 tokens in shared memory, as TMA writes them and wgmma reads them: panels of 64 columns, whose
// rows of 128 bytes are swizzled. One layout serves ldmatrix, wgmma with tokens as n, and wgmma with tokens
// as k.
#pragma once

#include <cstdint>

#include <cottention/device/convert.cuh>
#include <cottention/device/math.cuh>
#include <cottention/device/matrix.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/swizzle.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/device/wgmma.cuh>
#include <cottention/sm90/params.cuh>
#include <cottention/tile/lane.cuh>

namespace cottention::sm90 {

/// (64, 64).
template <Element T>
struct alignas(device::repeat_of(device::Swizzle::bytes_128)) Panel {
  static constexpr int row_bytes = panel_columns * sizeof(T);
  T rows[chunk_rows][panel_columns];

  /// The element at (row, column); with its neighbours up to the next multiple of eight columns it is one
  /// 16-byte vector.
  __device__ __forceinline__ T* at(int row, int column) {
    return reinterpret_cast<T*>(reinterpret_cast<unsigned char*>(rows) + row * row_bytes +
                                ((column * static_cast<int>(sizeof(T))) ^ (row % 8 * 16)));
  }

  /// The panel's 16 columns from `step` * 16 on as an operand whose rows are m or n and whose columns are k.
  __device__ __forceinline__ device::MatrixDescriptor rows_as_mn(int step) const {
    return device::matrix_descriptor(this, 16, eight_rows, device::Swizzle::bytes_128) + step * 32;
  }
  /// The panel's 16 rows from `step` * 16 on as an operand whose columns are m or n and whose rows are k.
  __device__ __forceinline__ device::MatrixDescriptor columns_as_mn(int step) const {
    return device::matrix_descriptor(this, sizeof(Panel), eight_rows, device::Swizzle::bytes_128) +
           step * 2 * eight_rows;
  }

 private:
  static constexpr int eight_rows = 8 * row_bytes;
};

/// (64, columns): columns from `columns` on to the end of the last panel are zero.
template <Element T, int columns_>
struct Tile {
  using Element = T;
  static constexpr int rows = chunk_rows, columns = columns_;
  static constexpr int panels = (columns + panel_columns - 1) / panel_columns;
  static constexpr int steps = columns / 16;  // of 16 columns
  static constexpr int vec_size = 8, vecs = columns / vec_size;
  static constexpr int bytes = panels * static_cast<int>(sizeof(Panel<T>));

  Panel<T> panel[panels];

  __device__ __forceinline__ T* at(int row, int column) {
    return panel[column / panel_columns].at(row, column % panel_columns);
  }
  __device__ __forceinline__ const T* at(int row, int column) const {
    return const_cast<Tile*>(this)->at(row, column);
  }
};

/// The columns of panel p of a tile with `columns`.
template <int columns, int p>
inline constexpr int panel_width =
    columns - p* panel_columns < panel_columns ? columns - p* panel_columns : panel_columns;

/// Accumulators (64, columns) of a warpgroup, by panels: a lane's sums[p][4 j + 2 h + e] is element (16 w + g
/// + 8 h, 64 p + 8 j + 2 t + e), w the warp's index in its warpgroup.
template <int columns>
struct Sums {
  static constexpr int panels = (columns + panel_columns - 1) / panel_columns;
  float of_panel[panels][panel_columns / 2];

  /// Those of panel p that exist, as wgmma takes them.
  template <int p>
  __device__ __forceinline__ auto& panel() {
    constexpr int count = panel_width<columns, p> / 2;
    return *reinterpret_cast<float(*)[count]>(&of_panel[p]);
  }
  /// f(sum, h, column, e) for each: column is 64 p + 8 j.
  template <class F>
  __device__ __forceinline__ void for_each(F f) {
#pragma unroll
    for (int c = 0; c < columns; c += 8)
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int e = 0; e < 2; ++e) f(of_panel[c / 64][c % 64 / 2 + 2 * h + e], h, c, e);
  }
  __device__ __forceinline__ void scale_rows(const float (&factors)[2]) {
    for_each([&](float& sum, int h, int, int) { sum *= factors[h]; });
  }
  __device__ __forceinline__ void scale_all(float factor) {
    for_each([&](float& sum, int, int, int) { sum *= factor; });
  }
  /// The sum of the lane's squares.
  __device__ __forceinline__ float squares() {
    float sum = 0;
    for_each([&sum](float x, int, int, int) { sum = device::fma(x, x, sum); });
    return sum;
  }
  /// Scope: warpgroup, after wgmma_wait().
  __device__ __forceinline__ void pin() {
#pragma unroll
    for (int p = 0; p < panels; ++p) device::pin_registers(of_panel[p]);
  }
};

/// f.operator()<p>() for p = 0, ..., panels - 1.
template <int panels, int first = 0, class F>
__device__ __forceinline__ void for_each_panel(F f) {
  f.template operator()<first>();
  if constexpr (first + 1 < panels) for_each_panel<panels, first + 1>(f);
}

/// Indices of the thread, of the lane, and of the warp in its warpgroup. Opaque (device/thread.cuh) unless
/// `kept`: most lanes lack the registers for all that follows from them.
template <bool kept = false>
__device__ __forceinline__ int thread_index() {
  return kept ? device::thread_index() : device::opaque(device::thread_index());
}
template <bool kept = false>
__device__ __forceinline__ int lane_index() {
  return kept ? device::lane_index() : device::opaque(device::lane_index());
}
template <bool kept = false>
__device__ __forceinline__ int warp_in_group() {
  return kept ? device::warp_index() % 4 : device::opaque(device::warp_index() % 4);
}
__device__ __forceinline__ int group_index() { return device::warp_index() / 4; }

/// The vector whose address a lane gives to ldmatrix or stmatrix for the warp's 16 rows of a tile: of row
/// lane % 16, in the first 16 columns of a panel. In few instructions, from the index of the thread alone.
template <bool kept = false, Element T>
__device__ __forceinline__ T* lane_vector(Panel<T>& panel) {
  const int thread = thread_index<kept>();
  const int row = (thread << 6 & 0x1800) | (thread << 7 & 0x780);  // times its bytes
  const int column = (thread & 16) ^ (thread << 4 & 0x70);         // bytes, swizzled
  return reinterpret_cast<T*>(reinterpret_cast<unsigned char*>(&panel) + (row | column));
}
/// The lane's vector 16 `step` columns further on in the tile.
template <Element T>
__device__ __forceinline__ T* lane_vector_of(T* first, int step) {
  constexpr int panel_elements = static_cast<int>(sizeof(Panel<T>) / sizeof(T));
  return device::xor_shared(first, static_cast<unsigned>(step % 4 * 32)) + step / 4 * panel_elements;
}

/// Rows of a tile as operand a of wgmma: those of the warp, (16, columns).
template <Element T, int columns>
struct RowFragments {
  static constexpr int steps = columns / 16;
  std::uint32_t r[steps][4];

  /// Scope: warp; barriers inside: 0.
  template <bool kept = false>
  __device__ __forceinline__ void load(Tile<T, columns>& tile) {
    T* const first = lane_vector<kept>(tile.panel[0]);
#pragma unroll
    for (int k = 0; k < steps; ++k) device::ldmatrix_x4(r[k], lane_vector_of(first, k));
  }
  /// f(x, h, column, e) for each element, as Sums::for_each.
  template <class F>
  __device__ __forceinline__ void for_each(F f) const {
#pragma unroll
    for (int k = 0; k < steps; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        f(device::unpack_low<T>(r[k][i]), i % 2, 16 * k + i / 2 * 8, 0);
        f(device::unpack_high<T>(r[k][i]), i % 2, 16 * k + i / 2 * 8, 1);
      }
  }
};

/// Whether the lane's elements of fragments, pairs in one register, are finite.
template <Element T, int steps>
__device__ __forceinline__ bool are_finite(const std::uint32_t (&r)[steps][4]) {
  std::uint32_t any = 0;
#pragma unroll
  for (int k = 0; k < steps; ++k) {
    std::uint32_t zeros = 0;  // sums of 0 x: NaN for infinities and NaNs
#pragma unroll
    for (int i = 0; i < 4; ++i) zeros = device::fma_pair<T>(r[k][i], 0u, zeros);
    any |= zeros;
  }
  return (any & 0x7fff7fffu) == 0;
}

/// f(fragment) for the fragments (16, 16) of the warp's rows, few of which registers hold at a time. Scope:
/// warp; barriers inside: 0.
template <bool kept = false, Element T, int columns, class F>
__device__ __forceinline__ void for_each_fragment(Tile<T, columns>& tile, F f) {
  T* const first = lane_vector<kept>(tile.panel[0]);
#pragma unroll 4
  for (int k = 0; k < columns / 16; ++k) {
    RowFragments<T, 16> x;
    device::ldmatrix_x4(x.r[0], lane_vector_of(first, k));
    f(x);
  }
}

/// The sum over the four lanes that share rows g and g + 8, in all four.
__device__ __forceinline__ void sum_over_quad(float (&x)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) x[h] += device::shuffle_xor(x[h], distance);
}

/// Columns 16 k, ... of sums, rounded, as operand a.
template <Element T, int columns>
__device__ __forceinline__ void pack_fragment(const Sums<columns>& sums, int k, std::uint32_t (&pairs)[4]) {
  const float* const x = &sums.of_panel[k / 4][k % 4 * 8];
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = device::pack<T>(x[2 * i], x[2 * i + 1]);
}

/// Writes the warp's rows of sums, rounded, to a tile. Scope: warp; barriers inside: 0.
template <bool kept = false, Element T, int columns, int tile_columns>
__device__ __forceinline__ void store_rows(Tile<T, tile_columns>& tile, const Sums<columns>& sums) {
  static_assert(tile_columns >= columns);
  T* const first = lane_vector<kept>(tile.panel[0]);
#pragma unroll
  for (int k = 0; k < columns / 16; ++k) {
    std::uint32_t pairs[4];
    pack_fragment<T>(sums, k, pairs);
    device::stmatrix_x4(lane_vector_of(first, k), pairs);
  }
}

}  // namespace cottention::sm90
