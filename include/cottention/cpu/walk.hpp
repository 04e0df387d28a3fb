// One walk (chunk scan) over the rows of a sequence, as chunkwise linear attention:
//
//     o = tril(a b^T) c + a h,   then   h += b^T c
//
// The forward pass and all gradients are this walk with other operands in the view of a, b and c; view.hpp
// has the table. Dropping the first term and the update leaves `apply`, dropping all but the update leaves
// `reduce`, and bidirectional attention is a reduce followed by an apply.
#pragma once

#include <cottention/cpu/multiply.hpp>
#include <cottention/cpu/prefetch.hpp>
#include <cottention/cpu/rows.hpp>
#include <cottention/cpu/weights.hpp>
#include <cottention/workspace_layout.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu {

/// What a walk reads and writes: one sequence, one key/value head and the query heads of its group. The
/// operands on the query side have one head for each query head of the group, those on the key side have one.
template <Element T>
struct WalkParams {
  OperandView<const T> a, b, c;
  OperandView<T> out;  // (a_rows, dim_c); null data: not wanted
  OperandView<const T>
      norm_input;  // the x of norm(x), for the norm's backward; null data: the output has none
  std::int64_t a_heads = 1;
  std::int64_t bc_heads = 1;
  std::int64_t a_rows = 0;
  std::int64_t bc_rows = 0;
  Counter counter;
  double exponent = 0;           // sigmoid(m); w = n^-exponent
  bool sums_scale_grad = false;  // whether the walk sums ln(n) (norm(x) . dx), for the gradient of m
};

using cottention::detail::Carver, cottention::detail::round_up;

/// The pitch, in elements, of scratch rows of `dim` elements: whole vectors and register tiles of every
/// target.
constexpr std::int64_t row_pitch(std::int64_t dim) { return round_up(dim, 16); }

/// A thread's scratch for one chunk of operands. The pitches are row_pitch of dim_a and dim_c.
template <class A>
struct ChunkScratch {
  std::int64_t a_pitch, c_pitch;
  A* a;           // (chunk, a_pitch)
  A* b_t;         // (a_pitch, chunk)
  A* c;           // (chunk, c_pitch)
  A* scores;      // (chunk, chunk)
  A* o;           // (chunk, c_pitch)
  A* normalized;  // (chunk, c_pitch)

  static ChunkScratch take(Carver& carver, std::int64_t chunk, std::int64_t a_pitch, std::int64_t c_pitch) {
    ChunkScratch s{};
    s.a_pitch = a_pitch;
    s.c_pitch = c_pitch;
    s.a = carver.take<A>(chunk, a_pitch);
    s.b_t = carver.take<A>(chunk, a_pitch);
    s.c = carver.take<A>(chunk, c_pitch);
    s.o = carver.take<A>(chunk, c_pitch);
    s.normalized = carver.take<A>(chunk, c_pitch);
    s.scores = carver.take<A>(chunk, chunk);
    return s;
  }
};

/// Runs a walk chunk by chunk. States are (a_pitch, c_pitch), zero outside (dim_a, dim_c).
template <Element T, int chunk, int vector_bytes>
class Walker {
 public:
  using A = Accumulate<T>;
  using S = Simd<A, vector_bytes>;
  static constexpr RegisterTile tile = register_tile<vector_bytes>;
  static constexpr std::int64_t tile_columns = tile.vectors * S::lanes;
  static constexpr int score_rows =
      (std::max)(S::lanes, tile.rows);  // rows whose scores are computed together
  static_assert(
      chunk > 0 && chunk % 16 == 0,
      "cottention: the CPU backend's chunk must be a multiple of 16, so that whole vectors and register "
      "tiles fill it. Remedy: Tiling{.chunk = 32}.");
  static_assert(
      chunk <= 256,
      "cottention: the CPU backend's chunk must be at most 256, since some of its data lie on the stack and "
      "longer chunks only cost time. Remedy: Tiling{.chunk = 32}.");

  Walker() = default;
  Walker(const WalkParams<T>& params, const ChunkScratch<A>& scratch) : params_(params), s_(scratch) {}

  /// Makes `row` the first one of the next chunk.
  void seek(std::int64_t row) { params_.counter.seek(row); }

  /// Names the rows to prefetch during the next chunk: those of `next` from row t on.
  void set_next(const Walker& next, std::int64_t t) {
    next_params_ = &next.params_;
    next_t_ = t;
  }

  /// Causal: computes the outputs of rows t to t + count - 1 from the state h before them, and updates h with
  /// these rows. `sum` is updated too where it is not null. Returns the chunk's part of the sum for the
  /// gradient of m.
  double walk_chunk(std::int64_t t, int count, A* h, A* sum) {
    if (params_.bc_heads == 0) return apply_chunk(t, count, h);  // a group without query heads
    double scale_grad_sum = 0;
    load_counts(count);
    for (std::int64_t bc_head = 0; bc_head < params_.bc_heads; ++bc_head) {
      const bool finite = load_bc(bc_head, t, count);
      for (std::int64_t a_head = 0; a_head < params_.a_heads; ++a_head) {
        if (bc_head == 0) load_a(a_head, t, count);
        prefetch_next(a_head, bc_head, t);
        compute_scores(count);
        compute_output(count, finite, bc_head > 0, bc_head == 0 ? h : nullptr);
        if (bc_head == params_.bc_heads - 1) scale_grad_sum += write(a_head, t, count);
      }
      update(count, h, sum);
    }
    return scale_grad_sum;
  }

  /// Updates the state, h += b^T c, with rows t to t + count - 1.
  void reduce_chunk(std::int64_t t, int count, A* h) {
    load_counts(count);
    for (std::int64_t head = 0; head < params_.bc_heads; ++head) {
      load_bc(head, t, count);
      prefetcher_.start(update_tiles());
      prefetch_next_bc(head, t);
      update(count, h, nullptr);
    }
  }

  /// Bidirectional: computes o = a h for rows t to t + count - 1. Returns as walk_chunk does.
  double apply_chunk(std::int64_t t, int count, const A* h) {
    double scale_grad_sum = 0;
    load_counts(count);
    for (std::int64_t head = 0; head < params_.a_heads; ++head) {
      load_a(head, t, count);
      prefetcher_.start(output_tiles(count));
      prefetch_next_a(head, t);
      for_column_blocks<S, tile.vectors>(s_.c_pitch, [&]<int vectors>(std::ptrdiff_t column) {
        for (int row = 0; row < count; row += tile.rows)
          output_block<tile.rows, vectors>(row, column, 0, false, h);
      });
      scale_grad_sum += write(head, t, count);
    }
    return scale_grad_sum;
  }

 private:
  /// Queues the prefetch of the chunk's next head, or of the first head of the chunk that comes next.
  void prefetch_next_a(std::int64_t head, std::int64_t t) {
    if (head + 1 < params_.a_heads)
      enqueue_a(params_, head + 1, t);
    else if (next_params_ != nullptr)
      enqueue_a(*next_params_, 0, next_t_);
  }
  void prefetch_next_bc(std::int64_t head, std::int64_t t) {
    if (head + 1 < params_.bc_heads)
      enqueue_bc(params_, head + 1, t);
    else if (next_params_ != nullptr)
      enqueue_bc(*next_params_, 0, next_t_);
  }
  void enqueue_a(const WalkParams<T>& params, std::int64_t head, std::int64_t t) {
    prefetcher_.enqueue_a(params.a, params.norm_input, params.out, params.a_rows, head, t);
  }
  void enqueue_bc(const WalkParams<T>& params, std::int64_t head, std::int64_t t) {
    prefetcher_.enqueue_bc(params.b, params.c, params.bc_rows, head, t);
  }
  void prefetch_next(std::int64_t a_head, std::int64_t bc_head, std::int64_t t) {
    prefetcher_.start(output_tiles(chunk) + (a_head + 1 == params_.a_heads ? update_tiles() : 0));
    if (a_head + 1 == params_.a_heads) prefetch_next_bc(bc_head, t);
    if (bc_head + 1 == params_.bc_heads) prefetch_next_a(a_head, t);
  }

  /// The number of register tiles of an output of `count` rows; update_tiles: of the state.
  std::int64_t output_tiles(std::int64_t count) const {
    return (count + tile.rows - 1) / tile.rows * ((s_.c_pitch + tile_columns - 1) / tile_columns);
  }
  std::int64_t update_tiles() const {
    return s_.a_pitch / tile.rows * ((s_.c_pitch + tile_columns - 1) / tile_columns);
  }

  /// The number of rows of a that register tiles of `count` rows read, those of scores included.
  static int rows_read(int count) { return (count + score_rows - 1) / score_rows * score_rows; }

  bool any_weight() const {
    return params_.a.weighted || params_.b.weighted || params_.c.weighted || params_.out.weighted;
  }

  void load_counts(int count) {
    if (!any_weight() && !params_.sums_scale_grad) return;
    params_.counter.next(count, n_);
    for (int r = count; r < chunk; ++r) n_[r] = 1;
    if (any_weight()) weights_of_counts<A, vector_bytes>(n_, count, params_.exponent, weight_);
  }

  template <Check check>
  bool load(const OperandView<const T>& operand, std::int64_t head, std::int64_t t, int count, A* packed,
            std::int64_t pitch) {
    const A* weight = operand.weighted ? weight_ : nullptr;
    if (operand.norm == Norm::normalize)
      return pack_rows<S, chunk, Norm::normalize, check>(operand.of(head, t), count, weight, packed, pitch,
                                                         rnorm_);
    return pack_rows<S, chunk, Norm::keep, check>(operand.of(head, t), count, weight, packed, pitch, rnorm_);
  }
  void load_a(std::int64_t head, std::int64_t t, int count) {
    load<Check::none>(params_.a, head, t, count, s_.a, s_.a_pitch);
    // Register tiles read rows past the last one, and the former contents of the scratch could trap.
    std::fill(s_.a + count * s_.a_pitch, s_.a + rows_read(count) * s_.a_pitch, A{0});
  }
  /// Loads a chunk of b and c. Returns whether all of c is finite.
  bool load_bc(std::int64_t head, std::int64_t t, int count) {
    const A* weight = params_.b.weighted ? weight_ : nullptr;
    if (params_.b.norm == Norm::normalize)
      pack_columns<S, chunk, Norm::normalize, score_rows>(params_.b.of(head, t), count, weight, s_.b_t,
                                                          s_.a_pitch, rnorm_);
    else
      pack_columns<S, chunk, Norm::keep, score_rows>(params_.b.of(head, t), count, weight, s_.b_t, s_.a_pitch,
                                                     rnorm_);
    return load<Check::finite>(params_.c, head, t, count, s_.c, s_.c_pitch);
  }

  /// scores = tril(a b^T), (count, chunk), computed up to the diagonal's block alone. A block that is
  /// narrower than the register tile is taller instead, so that as many accumulators hide the latency.
  void compute_scores(int count) {
    for (int row = 0; row < count; row += score_rows)
      for_column_blocks<S, tile.vectors>(row + score_rows, [&]<int vectors>(std::ptrdiff_t column) {
        constexpr int rows = (std::min)(score_rows, tile.rows * tile.vectors / vectors);
        for (int i = row; i < (std::min)(count, row + score_rows); i += rows)
          score_block<rows, vectors>(i, column);
      });
  }

  template <int rows, int vectors>
  [[gnu::always_inline]] void score_block(int row, std::ptrdiff_t column) {
    prefetcher_.prefetch();
    Accumulators<S, rows, vectors> product;
    product.multiply_long(s_.a + row * s_.a_pitch, s_.a_pitch, s_.b_t + column, chunk, params_.a.rows.dim);
    product.each([&](int r, int v, typename S::Vector x) __attribute__((always_inline)) {
      const auto j = static_cast<typename S::Bit>(column + v * S::lanes);
      const auto i = static_cast<typename S::Bit>(row + r);
      const typename S::Vector lower = S::select(S::iota() + j <= i, x, typename S::Vector{});
      S::store(s_.scores + (row + r) * chunk + j, lower);
    });
  }

  /// o = [o +] scores c [+ a h], (count, c_pitch)
  void compute_output(int count, bool finite, bool add, const A* h) {
    for_column_blocks<S, tile.vectors>(s_.c_pitch, [&]<int vectors>(std::ptrdiff_t column) {
      if (finite) {
        for (int row = 0; row < count; row += tile.rows)
          output_block<tile.rows, vectors>(row, column, (std::min)(row + tile.rows, count), add, h);
      } else {
        // A masked score times NaN is NaN in a row that must not depend on it, so each row reads its visible
        // scores alone.
        for (int row = 0; row < count; ++row) output_block<1, vectors>(row, column, row + 1, add, h);
      }
    });
  }

  template <int rows, int vectors>
  [[gnu::always_inline]] void output_block(int row, std::ptrdiff_t column, std::ptrdiff_t keys, bool add,
                                           const A* h) {
    A* o = s_.o + row * s_.c_pitch + column;
    prefetcher_.prefetch();
    Accumulators<S, rows, vectors> sum;
    sum.multiply(s_.scores + row * chunk, chunk, s_.c + column, s_.c_pitch, keys);
    if (h != nullptr)
      sum.multiply_long(s_.a + row * s_.a_pitch, s_.a_pitch, h + column, s_.c_pitch, params_.a.rows.dim);
    sum.each([&](int r, int v, typename S::Vector x) {
      A* at = o + r * s_.c_pitch + v * S::lanes;
      S::store(at, add ? S::load(at) + x : x);
    });
  }

  /// h += b^T c and, where `sum` is not null, sum += b^T c. Each chunk's product is summed from zero, so that
  /// the error grows with the number of chunks and not with that of rows.
  void update(int count, A* h, A* sum) {
    for_column_blocks<S, tile.vectors>(s_.c_pitch, [&]<int vectors>(std::ptrdiff_t column) {
      for (std::ptrdiff_t row = 0; row < s_.a_pitch; row += tile.rows) {
        prefetcher_.prefetch();
        Accumulators<S, tile.rows, vectors> product;
        product.multiply(s_.b_t + row * chunk, chunk, s_.c + column, s_.c_pitch, count);
        product.each([&](int r, int v, typename S::Vector x) {
          const std::ptrdiff_t at = (row + r) * s_.c_pitch + column + v * S::lanes;
          S::store(h + at, S::load(h + at) + x);
          if (sum != nullptr) S::store(sum + at, S::load(sum + at) + x);
        });
      }
    });
  }

  /// The epilogue: applies the norm's backward to o where the output has one, and stores o to the caller's
  /// tensor. Returns the chunk's part of the sum of ln(n) (norm(x) . dx).
  double write(std::int64_t head, std::int64_t t, int count) {
    double scale_grad_sum = 0;
    if (params_.norm_input.rows.data != nullptr) {
      const RowView<const T> rows = params_.norm_input.of(head, t);
      pack_rows<S, chunk, Norm::normalize, Check::none>(rows, count, static_cast<const A*>(nullptr),
                                                        s_.normalized, s_.c_pitch, rnorm_);
      A dot[chunk];
      norm_backward<S>(s_.o, s_.normalized, s_.c_pitch, count, rnorm_, dot);
      if (params_.sums_scale_grad)
        for (int r = 0; r < count; ++r)
          if (rows.valid(r)) scale_grad_sum += std::log((std::max)(n_[r], 1.0)) * static_cast<double>(dot[r]);
    }
    if (params_.out.rows.data != nullptr)
      store_rows<S>(params_.out.of(head, t), count, s_.o, s_.c_pitch,
                    params_.out.weighted ? weight_ : nullptr);
    return scale_grad_sum;
  }

  WalkParams<T> params_;
  ChunkScratch<A> s_{};
  Prefetcher<chunk> prefetcher_;
  const WalkParams<T>* next_params_ = nullptr;
  std::int64_t next_t_ = 0;
  alignas(64) double n_[chunk] = {};
  alignas(64) A weight_[chunk] = {};
  alignas(64) A rnorm_[chunk] = {};
};

}  // namespace cottention::cpu

#if defined(__clang__)
#pragma float_control(pop)
#endif
