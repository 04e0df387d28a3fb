// Matrix multiplication: packed panels and a register tile written with the compiler's vector extension.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "team.hpp"

namespace char_lm {

/// A matrix in memory, or its transpose: element (i, j) is data[i * row_stride + j * column_stride].
template <class Real>
struct Matrix {
  const Real* data;
  std::int64_t row_stride;
  std::int64_t column_stride = 1;
  Matrix transposed() const { return {data, column_stride, row_stride}; }
};

enum class Store { overwrite, add };

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
inline constexpr int tile_rows = 12;  // 12 x 2 sums, 2 columns of b: 26 of 32 registers
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32;
inline constexpr int tile_rows = 6;  // 6 x 2 sums, 2 columns of b, 1 broadcast: 15 of 16 registers
#else
inline constexpr int vector_bytes = 16;
inline constexpr int tile_rows = 6;
#endif

/// One thread's multiplication with its packing buffers, allocated once.
template <class Real>
class Multiplier {
 public:
  Multiplier() : a_panel_(allocate(tile_rows * depth)), b_block_(allocate(depth * width)) {}

  /// c[m, n] = a[m, k] b[k, n], or added to it.
  void operator()(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<Real> a, Matrix<Real> b, Real* c,
                  std::int64_t c_stride, Store store) {
    if (m < 4) return few_rows(m, n, k, a, b, c, c_stride, store);
    for (std::int64_t n0 = 0; n0 < n; n0 += width) {
      const std::int64_t columns = std::min(width, n - n0);
      for (std::int64_t k0 = 0; k0 < k; k0 += depth) {
        const std::int64_t steps = std::min(depth, k - k0);
        const Store step_store = k0 == 0 ? store : Store::add;
        pack<tile_columns>(columns, steps, b.transposed(), n0, k0, b_block_.get());
        for (std::int64_t i = 0; i < m; i += tile_rows) {
          const std::int64_t rows = std::min<std::int64_t>(tile_rows, m - i);
          pack<tile_rows>(rows, steps, a, i, k0, a_panel_.get());
          for (std::int64_t j = 0; j < columns; j += tile_columns)
            tile(steps, a_panel_.get(), b_block_.get() + j * steps, c + i * c_stride + n0 + j, c_stride, rows,
                 std::min<std::int64_t>(tile_columns, columns - j), step_store);
        }
      }
    }
  }

 private:
  typedef Real Vector __attribute__((vector_size(vector_bytes), may_alias));
  static constexpr int lanes = vector_bytes / static_cast<int>(sizeof(Real));
  static constexpr int tile_columns = 2 * lanes;
  static constexpr std::int64_t depth = 256;  // a panel of a (12 KB) stays in L1,
  static constexpr std::int64_t width = 512;  // a block of b (512 KB) in L2

  struct Free {
    void operator()(Real* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
  };
  using Buffer = std::unique_ptr<Real[], Free>;
  static Buffer allocate(std::int64_t count) {
    return Buffer(static_cast<Real*>(
        ::operator new[](static_cast<std::size_t>(count) * sizeof(Real), std::align_val_t{64})));
  }

  /// Rows of a as panels [panel][step][panel_rows], the last one filled up with zeros.
  template <int panel_rows>
  static void pack(std::int64_t rows, std::int64_t steps, Matrix<Real> a, std::int64_t row0,
                   std::int64_t step0, Real* packed) {
    for (std::int64_t i0 = 0; i0 < rows; i0 += panel_rows, packed += panel_rows * steps) {
      const std::int64_t present = std::min<std::int64_t>(panel_rows, rows - i0);
      const Real* from = a.data + (row0 + i0) * a.row_stride + step0 * a.column_stride;
      if (a.row_stride == 1 && present == panel_rows) {
        for (std::int64_t p = 0; p < steps; ++p)
          for (int i = 0; i < panel_rows; ++i) packed[p * panel_rows + i] = from[p * a.column_stride + i];
      } else {
        for (std::int64_t i = 0; i < panel_rows; ++i)
          for (std::int64_t p = 0; p < steps; ++p)
            packed[p * panel_rows + i] = i < present ? from[i * a.row_stride + p * a.column_stride] : Real{0};
      }
    }
  }

  static void tile(std::int64_t steps, const Real* a, const Real* b, Real* c, std::int64_t c_stride,
                   std::int64_t rows, std::int64_t columns, Store store) {
    Vector sum[tile_rows][2] = {};
    for (std::int64_t p = 0; p < steps; ++p) {
      const Vector b0 = *reinterpret_cast<const Vector*>(b + p * tile_columns);
      const Vector b1 = *reinterpret_cast<const Vector*>(b + p * tile_columns + lanes);
      for (int i = 0; i < tile_rows; ++i) {
        const Real x = a[p * tile_rows + i];
        sum[i][0] += x * b0;
        sum[i][1] += x * b1;
      }
    }
    alignas(64) Real result[tile_rows][tile_columns];
    for (int i = 0; i < tile_rows; ++i)
      for (int j = 0; j < 2; ++j) *reinterpret_cast<Vector*>(&result[i][j * lanes]) = sum[i][j];
    for (std::int64_t i = 0; i < rows; ++i) {
      Real* row = c + i * c_stride;
      if (store == Store::add)
        for (std::int64_t j = 0; j < columns; ++j) row[j] += result[i][j];
      else
        for (std::int64_t j = 0; j < columns; ++j) row[j] = result[i][j];
    }
  }

  /// Decoding: with so few rows b is read once, and packing it would cost more than that.
  static void few_rows(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<Real> a, Matrix<Real> b,
                       Real* c, std::int64_t c_stride, Store store) {
    for (std::int64_t i = 0; i < m; ++i) {
      Real* row = c + i * c_stride;
      if (store == Store::overwrite) std::fill(row, row + n, Real{0});
      for (std::int64_t p = 0; p < k; ++p) {
        const Real x = a.data[i * a.row_stride + p * a.column_stride];
        const Real* from = b.data + p * b.row_stride;
        for (std::int64_t j = 0; j < n; ++j) row[j] += x * from[j * b.column_stride];
      }
    }
  }

  Buffer a_panel_;
  Buffer b_block_;
};

/// A multiplier per thread.
template <class Real>
class Multipliers {
 public:
  explicit Multipliers(Team& team) : team_(team), each_(static_cast<std::size_t>(team.threads())) {}

  Multiplier<Real>& of_thread(int thread) { return each_[static_cast<std::size_t>(thread)]; }

  /// c[m, n] = a[m, k] b[k, n] on all threads, each with a share of the longer side of c.
  void operator()(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<Real> a, Matrix<Real> b, Real* c,
                  Store store = Store::overwrite) {
    const Stopwatch stopwatch(team_.profile().multiply_seconds);
    team_.profile().multiply_flop +=
        2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    if (m * n * k < serial_below) return each_[0](m, n, k, a, b, c, n, store);
    if (m >= n)
      team_.split(m, tile_rows, [&](std::int64_t begin, std::int64_t end, int thread) {
        const Matrix<Real> rows{a.data + begin * a.row_stride, a.row_stride, a.column_stride};
        of_thread(thread)(end - begin, n, k, rows, b, c + begin * n, n, store);
      });
    else
      team_.split(n, 32, [&](std::int64_t begin, std::int64_t end, int thread) {
        const Matrix<Real> columns{b.data + begin * b.column_stride, b.row_stride, b.column_stride};
        of_thread(thread)(m, end - begin, k, a, columns, c + begin, n, store);
      });
  }

 private:
  static constexpr std::int64_t serial_below = 1 << 17;  // about 3 us of work: less than waking the threads

  Team& team_;
  std::vector<Multiplier<Real>> each_;
};

}  // namespace char_lm
