// One walk (chunk scan) over the rows of a sequence, as chunkwise linear attention:
//
//     o = tril(a b^T) c + a h,   then   h += b^T c
//
// The forward pass and all gradients are this walk with other operands in the roles of a, b and c;
// recurrence.hpp has the table. Dropping the first term and the update leaves `apply`, dropping all but the
// update leaves `reduce`, and bidirectional attention is a reduce followed by an apply.
#if !defined(COTTENTION_CPU_WALK_HPP)
#define COTTENTION_CPU_WALK_HPP

#include <cottention/cpu/multiply.hpp>
#include <cottention/cpu/prefetch.hpp>
#include <cottention/cpu/rows.hpp>
#include <cottention/cpu/scratch.hpp>
#include <cottention/cpu/walk_params.hpp>
#include <cottention/cpu/weights.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// Runs a walk chunk by chunk, and within a chunk block by block.
template <Element T, int block, int vector_bytes>
class Walker {
 public:
  using A = Accumulate<T>;
  using S = Simd<A, vector_bytes>;
  using State = RunningState<A>;
  static constexpr RegisterTile tile = register_tile<vector_bytes>;
  static constexpr std::int64_t tile_columns = tile.vectors * S::lanes;
  static constexpr int score_rows =
      (std::max)(S::lanes, tile.rows);  // rows whose scores are computed together
  static constexpr int group = static_cast<int>(key_group(block));
  static_assert(
      block > 0 && block % 16 == 0,
      "cottention: the CPU backend's chunk must be a multiple of 16, so that whole vectors and register "
      "tiles fill it. Remedy: Tiling{.chunk = 32}.");
  static_assert(
      block <= 256,
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

  /// Begins the chunk of rows t to t + a_rows - 1 of a, and of t to t + bc_rows - 1 of b and c.
  void begin_chunk(std::int64_t t, int a_rows, int bc_rows) {
    t_ = t;
    bc_rows_ = bc_rows;
    packed_ = 0;
    load_counts((std::max)(a_rows, bc_rows));
  }

  /// Computes the outputs of the chunk's rows `first`, a multiple of the block, to last - 1, from the state h
  /// before the chunk. Then adds b^T c of the chunk to h where `absorbs`, and to `sum` where that is kept.
  /// Returns the rows' part of the sum for the gradient of m.
  template <bool causal>
  double walk_rows(int first, int last, State& h, bool absorbs, State& sum) {
    double scale_grad_sum = 0;
    const A* before = h.zero ? nullptr : h.data;
    for (std::int64_t bc_head = 0; bc_head < params_.bc_heads; ++bc_head) {
      if (bc_head > 0) packed_ = 0;
      for (int row = first; row < last; row += block) {
        const int rows = (std::min)(block, last - row);
        pack_bc(bc_head, causal ? row + rows : bc_rows_);
        for (std::int64_t a_head = 0; a_head < params_.a_heads; ++a_head) {
          if (bc_head == 0 || last - first > block) load_a(a_head, row, rows);
          const bool ends = row + block >= last;
          prefetch_next(a_head, bc_head, row, ends, ends && (absorbs || sum.data != nullptr));
          attend<causal>(row, rows, bc_head > 0, bc_head == 0 ? before : nullptr);
          if (bc_head == params_.bc_heads - 1) scale_grad_sum += write(a_head, row, rows);
        }
      }
      if (absorbs || sum.data != nullptr) absorb(bc_head, absorbs ? &h : nullptr, sum.data ? &sum : nullptr);
    }
    if (params_.bc_heads > 1) packed_ = 0;
    return scale_grad_sum;
  }

  /// The whole chunk of rows t to t + count - 1, where attention is causal.
  double walk_chunk(std::int64_t t, int count, State& h, bool absorbs, State& sum) {
    if (params_.bc_heads == 0) return apply_chunk(t, count, h, sum);  // a group without query heads
    begin_chunk(t, count, count);
    return walk_rows<true>(0, count, h, absorbs, sum);
  }

  /// Adds b^T c of rows t to t + count - 1 to a state.
  void reduce_chunk(std::int64_t t, int count, State& h) {
    begin_chunk(t, 0, count);
    for (std::int64_t head = 0; head < params_.bc_heads; ++head) {
      packed_ = 0;
      pack_bc(head, count);
      prefetcher_.start(update_tiles());
      prefetch_next_bc(head, count);
      absorb(head, &h, nullptr);
    }
    if (params_.bc_heads == 0) set_zero(h);  // a group without query heads
  }

  /// Computes o = a h for rows t to t + count - 1, one block. Returns as walk_rows does.
  double apply_block(std::int64_t t, int count, const A* h) {
    double scale_grad_sum = 0;
    begin_chunk(t, count, 0);
    for (std::int64_t head = 0; head < params_.a_heads; ++head) {
      load_a(head, 0, count);
      prefetcher_.start(output_tiles(count));
      prefetch_next_a(head, 0, true);
      for_column_blocks<S, tile.vectors>(s_.c_pitch, [&]<int vectors>(std::ptrdiff_t column) {
        for (int row = 0; row < count; row += tile.rows)
          output_block<tile.rows, vectors>(s_.o, row, column, 0, 0, false, h);
      });
      scale_grad_sum += write(head, 0, count);
    }
    return scale_grad_sum;
  }

 private:
  /// walk_chunk where there are no b and c.
  double apply_chunk(std::int64_t t, int count, State& h, State& sum) {
    set_zero(h);
    set_zero(sum);
    double scale_grad_sum = 0;
    for (int row = 0; row < count; row += block)
      scale_grad_sum += apply_block(t + row, (std::min)(block, count - row), h.data);
    return scale_grad_sum;
  }
  /// Makes a state to which nothing has been added one in memory.
  void set_zero(State& h) {
    if (h.data != nullptr && h.zero) std::fill_n(h.data, s_.a_pitch * s_.c_pitch, A{0});
    h.zero = false;
  }

  /// Queues the prefetch of what comes after `row` of the chunk: the rows of the next head, of the next
  /// block, or of the first head of the chunk that comes next.
  void prefetch_next_a(std::int64_t head, int row, bool ends) {
    if (head + 1 < params_.a_heads)
      enqueue_a(params_, head + 1, t_ + row);
    else if (!ends)
      enqueue_a(params_, 0, t_ + row + block);
    else if (next_params_ != nullptr)
      enqueue_a(*next_params_, 0, next_t_);
  }
  void prefetch_next_bc(std::int64_t head, std::int64_t row) {
    if (row < bc_rows_)
      enqueue_bc(params_, head, t_ + row);
    else if (head + 1 < params_.bc_heads)
      enqueue_bc(params_, head + 1, t_);
    else if (next_params_ != nullptr)
      enqueue_bc(*next_params_, 0, next_t_);
  }
  void enqueue_a(const WalkParams<T>& params, std::int64_t head, std::int64_t t) {
    prefetcher_.enqueue_a(params.a, params.norm_input, params.out, params.a_rows, head, t);
  }
  void enqueue_bc(const WalkParams<T>& params, std::int64_t head, std::int64_t t) {
    prefetcher_.enqueue_bc(params.b, params.c, params.bc_rows, head, t);
  }
  void prefetch_next(std::int64_t a_head, std::int64_t bc_head, int row, bool ends, bool absorbs) {
    const bool last_head = a_head + 1 == params_.a_heads;
    prefetcher_.start(output_tiles(block) + (last_head && absorbs ? update_tiles() : 0));
    if (last_head) prefetch_next_bc(bc_head, packed_);
    if (bc_head + 1 == params_.bc_heads || !ends) prefetch_next_a(a_head, row, ends);
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

  /// Counts and weights of the chunk's first `count` rows.
  void load_counts(int count) {
    if (!any_weight() && !params_.sums_scale_grad) return;
    params_.counter.next(count, s_.n);
    std::fill(s_.n + count, s_.n + round_up(count, block), 1.0);
    if (!any_weight()) return;
    const auto read = static_cast<int>(round_up(count, score_rows));  // by pack_columns
    weights_of_counts<A, vector_bytes>(s_.n, read, params_.exponent, s_.weight);
  }

  /// Rows t_ + row and on of an operand into `packed`.
  template <Check check>
  bool load(const OperandView<const T>& operand, std::int64_t head, int row, int count, A* packed,
            std::int64_t pitch) {
    const A* weight = operand.weighted ? s_.weight + row : nullptr;
    const RowView<const T> rows = operand.of(head, t_ + row);
    if (operand.norm == Norm::normalize)
      return pack_rows<S, block, Norm::normalize, check>(rows, count, weight, packed, pitch, rnorm_);
    return pack_rows<S, block, Norm::keep, check>(rows, count, weight, packed, pitch, rnorm_);
  }
  void load_a(std::int64_t head, int row, int count) {
    load<Check::none>(params_.a, head, row, count, s_.a, s_.a_pitch);
    // Register tiles read rows past the last one, and the former contents of the scratch could trap.
    std::fill(s_.a + count * s_.a_pitch, s_.a + rows_read(count) * s_.a_pitch, A{0});
  }
  /// Packs the blocks of b and c that are not packed yet, up to row `end` of the chunk.
  void pack_bc(std::int64_t head, int end) {
    for (; packed_ < end; packed_ += block) {
      const int count = (std::min)(block, bc_rows_ - packed_);
      const A* weight = params_.b.weighted ? s_.weight + packed_ : nullptr;
      const RowView<const T> rows = params_.b.of(head, t_ + packed_);
      if (params_.b.norm == Norm::normalize)
        pack_columns<S, block, Norm::normalize, score_rows>(rows, count, weight, b_t(packed_), s_.a_pitch,
                                                            rnorm_);
      else
        pack_columns<S, block, Norm::keep, score_rows>(rows, count, weight, b_t(packed_), s_.a_pitch, rnorm_);
      s_.finite[packed_ / block] =
          load<Check::finite>(params_.c, head, packed_, count, s_.c + packed_ * s_.c_pitch, s_.c_pitch);
    }
  }
  /// The block of b^T whose first column is row `row` of the chunk, (a_pitch, block).
  A* b_t(int row) const { return s_.b_t + row * s_.a_pitch; }

  /// The output of a block: o = [o +] scores c [+ a h], (rows, c_pitch), over the keys that it sees, a group
  /// of keys at a time.
  template <bool causal>
  void attend(int row, int rows, bool add, const A* h) {
    A* o = s_.o + (params_.bc_heads > 1 ? row * s_.c_pitch : 0);
    const int keys = causal ? row + rows : bc_rows_;
    for (int first = 0; first < keys; first += group) {
      const int last = (std::min)(keys, first + group);
      const bool diagonal = causal && row < last;
      compute_scores(rows, first, diagonal ? row : last);
      if (diagonal) compute_diagonal_scores(rows, row - first, b_t(row));
      const int seen = diagonal ? row - first : last - first;
      compute_output(o, rows, first, seen, diagonal, !diagonal || s_.finite[row / block], add || first > 0,
                     first == 0 ? h : nullptr);
    }
  }

  /// scores = a b^T, (rows, score_pitch), for the keys from `first` to last - 1, all of which the rows see.
  void compute_scores(int rows, int first, int last) {
    for (int key = first; key < last; key += block) {
      const auto columns = (std::min)(std::int64_t{block}, round_up(last - key, score_rows));
      for_column_blocks<S, tile.vectors>(columns, [&]<int vectors>(std::ptrdiff_t column) {
        constexpr int height = (std::min)(score_rows, tile.rows * tile.vectors / vectors);
        for (int i = 0; i < rows; i += height)
          score_block<height, vectors>(i, b_t(key) + column)
              .each([&](int r, int v, typename S::Vector x) __attribute__((always_inline)) {
                S::store(score(i + r, key - first + column + v * S::lanes), x);
              });
      });
    }
  }

  /// scores = tril(a b^T) of the block on the diagonal, from score column `at` on, computed up to the
  /// diagonal alone. A block that is narrower than the register tile is taller instead, so that as many
  /// accumulators hide the latency.
  void compute_diagonal_scores(int count, int at, const A* b_t) {
    for (int row = 0; row < count; row += score_rows)
      for_column_blocks<S, tile.vectors>(row + score_rows, [&]<int vectors>(std::ptrdiff_t column) {
        constexpr int height = (std::min)(score_rows, tile.rows * tile.vectors / vectors);
        for (int i = row; i < (std::min)(count, row + score_rows); i += height)
          score_block<height, vectors>(i, b_t + column)
              .each([&](int r, int v, typename S::Vector x) __attribute__((always_inline)) {
                const auto j = static_cast<typename S::Bit>(column + v * S::lanes);
                const auto row_index = static_cast<typename S::Bit>(i + r);
                S::store(score(i + r, at + j),
                         S::select(S::iota() + j <= row_index, x, typename S::Vector{}));
              });
      });
  }
  A* score(int row, std::ptrdiff_t key) const { return s_.scores + row * s_.score_pitch + key; }

  template <int rows, int vectors>
  [[gnu::always_inline]] Accumulators<S, rows, vectors> score_block(int row, const A* b_t) {
    prefetcher_.prefetch();
    Accumulators<S, rows, vectors> product;
    product.multiply_long(s_.a + row * s_.a_pitch, s_.a_pitch, b_t, block, params_.a.rows.dim);
    return product;
  }

  /// o = [o +] scores c [+ a h] for a group of keys: the first `seen` after `first`, which all rows see, and
  /// on the diagonal as many more as a row's index and 1.
  void compute_output(A* o, int count, int first, int seen, bool diagonal, bool finite, bool add,
                      const A* h) {
    for_column_blocks<S, tile.vectors>(s_.c_pitch, [&]<int vectors>(std::ptrdiff_t column) {
      if (finite) {
        for (int row = 0; row < count; row += tile.rows)
          output_block<tile.rows, vectors>(
              o, row, column, first, seen + (diagonal ? (std::min)(row + tile.rows, count) : 0), add, h);
      } else {
        // A masked score times NaN is NaN in a row that must not depend on it, so each row reads its visible
        // scores alone.
        for (int row = 0; row < count; ++row)
          output_block<1, vectors>(o, row, column, first, seen + row + 1, add, h);
      }
    });
  }

  template <int rows, int vectors>
  [[gnu::always_inline]] void output_block(A* o, int row, std::ptrdiff_t column, int first,
                                           std::ptrdiff_t keys, bool add, const A* h) {
    o += row * s_.c_pitch + column;
    prefetcher_.prefetch();
    Accumulators<S, rows, vectors> sum;
    sum.multiply(score(row, 0), s_.score_pitch, s_.c + first * s_.c_pitch + column, s_.c_pitch, keys);
    if (h != nullptr)
      sum.multiply_long(s_.a + row * s_.a_pitch, s_.a_pitch, h + column, s_.c_pitch, params_.a.rows.dim);
    sum.each([&](int r, int v, typename S::Vector x) {
      A* at = o + r * s_.c_pitch + v * S::lanes;
      S::store(at, add ? S::load(at) + x : x);
    });
  }

  /// Adds b^T c of the chunk to the states that are not null. Each group's product is summed from zero, so
  /// that the error grows with the number of groups and not with that of rows.
  void absorb(std::int64_t head, State* h, State* sum) {
    pack_bc(head, bc_rows_);
    for (int first = 0; first < bc_rows_; first += group) {
      const int last = (std::min)(bc_rows_, first + group);
      if (h != nullptr && sum != nullptr)
        update(first, last, h->data, h->zero, sum->data, sum->zero);
      else
        update(first, last, h != nullptr ? h->data : sum->data, h != nullptr ? h->zero : sum->zero, nullptr,
               false);
      if (h != nullptr) h->zero = false;
      if (sum != nullptr) sum->zero = false;
    }
  }

  /// h += b^T c of rows `first` to last - 1 of the chunk, and sum += b^T c where that is not null.
  void update(int first, int last, A* h, bool h_zero, A* sum, bool sum_zero) {
    for_column_blocks<S, tile.vectors>(s_.c_pitch, [&]<int vectors>(std::ptrdiff_t column) {
      for (std::ptrdiff_t row = 0; row < s_.a_pitch; row += tile.rows) {
        prefetcher_.prefetch();
        Accumulators<S, tile.rows, vectors> product;
        for (int key = first; key < last; key += block)
          product.multiply(b_t(key) + row * block, block, s_.c + key * s_.c_pitch + column, s_.c_pitch,
                           (std::min)(block, last - key));
        product.each([&](int r, int v, typename S::Vector x) {
          const std::ptrdiff_t at = (row + r) * s_.c_pitch + column + v * S::lanes;
          S::store(h + at, (h_zero ? typename S::Vector{} : S::load(h + at)) + x);
          if (sum != nullptr) S::store(sum + at, (sum_zero ? typename S::Vector{} : S::load(sum + at)) + x);
        });
      }
    });
  }

  /// The epilogue: applies the norm's backward to o where the output has one, and stores o to the caller's
  /// tensor. Returns the chunk's part of the sum of ln(n) (norm(x) . dx).
  double write(std::int64_t head, int row, int count) {
    double scale_grad_sum = 0;
    A* o = s_.o + (params_.bc_heads > 1 ? row * s_.c_pitch : 0);
    if (params_.norm_input.rows.data != nullptr) {
      const RowView<const T> rows = params_.norm_input.of(head, t_ + row);
      pack_rows<S, block, Norm::normalize, Check::none>(rows, count, static_cast<const A*>(nullptr),
                                                        s_.normalized, s_.c_pitch, rnorm_);
      A dot[block];
      norm_backward<S>(o, s_.normalized, s_.c_pitch, count, rnorm_, dot);
      if (params_.sums_scale_grad)
        for (int r = 0; r < count; ++r)
          if (rows.valid(r))
            scale_grad_sum += std::log((std::max)(s_.n[row + r], 1.0)) * static_cast<double>(dot[r]);
    }
    if (params_.out.rows.data != nullptr)
      store_rows<S>(params_.out.of(head, t_ + row), count, o, s_.c_pitch,
                    params_.out.weighted ? s_.weight + row : nullptr);
    return scale_grad_sum;
  }

  WalkParams<T> params_;
  ChunkScratch<A> s_{};
  Prefetcher<block> prefetcher_;
  const WalkParams<T>* next_params_ = nullptr;
  std::int64_t next_t_ = 0;
  std::int64_t t_ = 0;  // the first row of the chunk
  int bc_rows_ = 0;     // of b and c in the chunk
  int packed_ = 0;      // of them, those of one head that are packed
  alignas(64) A rnorm_[block] = {};
};

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif
