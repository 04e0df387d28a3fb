// Through the norm, for rows too wide for one block: Walk and Apply leave the gradient with respect to the
// normalised rows in memory, a block its columns, and this makes the output of it.
#pragma once

#include <cottention/kernel/scale_grad.cuh>
#include <cottention/sm80/factors.cuh>
#include <cottention/tile/norm_backward.cuh>

namespace cottention::sm80 {

/// Blocks: x as in kernel::RecurrenceParams, y = piece (causal) or M block. A warp for each row.
template <kernel::AnyRoles R, Tiling tiling>
struct Project {
  using Part = PartOf<R, tiling>;
  using T = typename R::element;
  using A = typename Part::A;
  static constexpr int threads = Part::threads;
  static constexpr int min_blocks_per_sm = 1;

  using Params = kernel::RecurrenceParams<T>;
  struct Storage {
    Factors<Part> factors;
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    constexpr bool causal = R::mask == Mask::causal;
    const Head<R, tiling> head(params);
    const tile::Pieces m_blocks = m_blocks_of(head);
    const int m_block = device::block_y(), count = causal ? head.pieces.count : m_blocks.count;
    double scale_grad = 0;
    if (m_block < count) {
      ChunkFactors<R, tiling> factors(head, storage.factors);
      const int first = causal ? head.first : m_blocks.first(m_block);
      const int last = causal ? head.last : m_blocks.last(m_block, head.rows.length);
      using Position = tile::Cursor<1, Part::chunk, R::direction>;
      for (Position at = Position::start(first, last); at.within(first, last); at.advance(1)) {
        factors.begin_chunk(head, at.row);
        device::sync_block();  // the table is written
        factors.enter_chunk();
        const int group_heads = R::rows_are_queries ? head.group : 1;
        for (int group_head = 0; group_head < group_heads; ++group_head)
          for (int r = device::warp_index(); r < Part::chunk && at.row + r < head.rows.length;
               r += Part::warps) {
            const A coefficient = project_row(head, group_head, at.row + r);
            if (params.scale_grad_partials != nullptr && device::lane_index() == 0)
              scale_grad += static_cast<double>(factors.log_count(r)) * static_cast<double>(coefficient);
          }
        device::sync_block();  // readers of the table are done
      }
    }
    if (params.scale_grad_partials != nullptr)
      kernel::store_scale_grad(params.scale_grad_partials,
                               causal ? params.split_rule.max_pieces : params.m_blocks, scale_grad,
                               storage.factors.counts.sum);
  }

 private:
  /// Writes dx of a row and returns x^ . d. Scope: warp; no barrier inside.
  static __device__ __forceinline__ A project_row(const Head<R, tiling>& head, int group_head, int row) {
    using Vec = tile::Vec<T>;
    constexpr int vec_size = 16 / static_cast<int>(sizeof(T)), width = R::dims.v;
    const tile::RowView<const T> x = head.norm_input(group_head);
    const tile::RowView<A> d = head.grad_normalized(group_head);
    const bool valid = x.contains(row);
    tile::RowNorm<A> norm{};
    A product{};  // x . d, with x as its norm has it
    const auto x_of = [&norm](const T& element) {
      return device::times_power_of_two(device::widen<T>(element), -norm.exponent);
    };
    if (valid) {
      norm = tile::measure_global_row(x.row(row), width);
      tile::for_each_vec<Vec>(x.row(row), width, [&](const Vec& values, int c) {
#pragma unroll
        for (int e = 0; e < vec_size; ++e)
          product = device::fma(x_of(values[e]), device::load_global(d.row(row) + c + e), product);
      });
      product = tile::sum_over_warp(product);
    }
    const A rnorm = norm.rnorm(), coefficient = product * rnorm;
    if (head.params.out.data == nullptr) return coefficient;
    const auto backward = tile::NormBackward<A>::of(norm, rnorm);
    const A along = backward.along(product);
    T* to = head.out(group_head).row(row);
    tile::for_each_vec<Vec>(x.row(row), width, [&](const Vec& values, int c) {
      Vec dx{};
      if (valid) {
#pragma unroll
        for (int e = 0; e < vec_size; ++e)
          dx[e] =
              device::narrow<T>(backward(device::load_global(d.row(row) + c + e), x_of(values[e]), along));
      }
      device::store_global(reinterpret_cast<Vec*>(to + c), dx);
    });
    return coefficient;
  }
};

}  // namespace cottention::sm80
