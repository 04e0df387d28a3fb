// One output of a chunk: its operands in scratch, its scores, its products and its epilogue.
#if !defined(COTTENTION_CPU_CHUNK_OUTPUT_HPP)
#define COTTENTION_CPU_CHUNK_OUTPUT_HPP

#include <cottention/cpu/multiply.hpp>
#include <cottention/cpu/prefetch.hpp>
#include <cottention/cpu/rows.hpp>
#include <cottention/cpu/scratch.hpp>
#include <cottention/cpu/walk_params.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// o = tril(a b^T) c + a h for the rows of a chunk, a block of them at a time.
template <Element T, int block, int vector_bytes>
class ChunkOutput {
 public:
  using A = Accumulate<T>;
  using S = Simd<A, vector_bytes>;
  static constexpr RegisterTile tile = register_tile<vector_bytes>;
  static constexpr int score_rows =
      (std::max)(S::lanes, tile.last_rows);  // rows whose scores are computed together
  static constexpr int group = static_cast<int>(key_group(block));

  ChunkOutput() = default;
  /// Where the output is a sum over heads of b and c, o is kept for all rows of a chunk.
  ChunkOutput(const OutputOperands<T>& operands, const ChunkScratch<A>& scratch, bool sums_heads)
      : operands_(operands), s_(scratch), sums_heads_(sums_heads) {}

  /// Begins the chunk of rows from t on, with bc_rows rows of b and c.
  void begin_chunk(std::int64_t t, int bc_rows) {
    t_ = t;
    bc_rows_ = bc_rows;
  }

  /// Packs the block of a from row `row` of the chunk on.
  void pack_a(std::int64_t head, int row, int count) {
    pack<Check::none>(operands_.a, head, row, count, s_.a, s_.a_pitch);
    // Register tiles read rows past the last one, and the former contents of the scratch could trap.
    std::fill(s_.a + count * s_.a_pitch, s_.a + round_up(count, score_rows) * s_.a_pitch, A{0});
  }
  /// Packs the block of b^T whose first column is row `row` of the chunk.
  void pack_b(std::int64_t head, int row) {
    const A* weight = operands_.b.weighted ? s_.weight + row : nullptr;
    const RowView<const T> rows = operands_.b.of(head, t_ + row);
    if (operands_.b.norm == Norm::normalize)
      pack_columns<S, block, Norm::normalize, score_rows>(rows, rows_from(row), weight, b_t(row), s_.a_pitch,
                                                          rnorm_);
    else
      pack_columns<S, block, Norm::keep, score_rows>(rows, rows_from(row), weight, b_t(row), s_.a_pitch,
                                                     rnorm_);
  }
  /// The same where these rows are packed as c of another output.
  void pack_b_from(const ChunkOutput& other, int row) {
    const std::int64_t pitch = s_.a_pitch;
    const RowView<const A> rows{other.s_.c + row * pitch, pitch, nullptr, 0, pitch};
    pack_columns<S, block, Norm::keep, score_rows>(rows, rows_from(row), static_cast<const A*>(nullptr),
                                                   b_t(row), pitch, rnorm_);
  }
  /// Packs the block of c from row `row` of the chunk on.
  void pack_c(std::int64_t head, int row) {
    s_.finite[row / block] =
        pack<Check::finite>(operands_.c, head, row, rows_from(row), s_.c + row * s_.c_pitch, s_.c_pitch);
  }

  /// The block of b^T whose first column is row `row` of the chunk, (a_pitch, block).
  A* b_t(int row) const { return s_.b_t + row * s_.a_pitch; }

  /// o = [o +] scores c [+ a h] for the block of `rows` rows from `row` on, over the keys that it sees, a
  /// group of keys at a time.
  template <bool causal>
  void attend(Prefetcher<block>& prefetcher, int row, int rows, bool add, const A* h) {
    const int keys = causal ? row + rows : bc_rows_;
    for (int first = 0; first < keys; first += group) {
      const int last = (std::min)(keys, first + group);
      const bool diagonal = causal && row < last;
      compute_scores(prefetcher, rows, first, diagonal ? row : last);
      if (diagonal) compute_diagonal_scores(prefetcher, rows, row - first, b_t(row));
      const int seen = diagonal ? row - first : last - first;
      compute_output(prefetcher, o(row), rows, first, seen, diagonal, !diagonal || s_.finite[row / block],
                     add || first > 0, first == 0 ? h : nullptr);
    }
  }

  /// o = a h for the block of `rows` rows from `row` on.
  void apply(Prefetcher<block>& prefetcher, int row, int rows, const A* h) {
    compute_output(prefetcher, o(row), rows, 0, 0, false, true, false, h);
  }

  /// The epilogue: applies the norm's backward to o where the output has one, and stores o to the caller's
  /// tensor. The rows of the norm's input are those of a of `of_norm`, where that is given. Returns the
  /// chunk's part of the sum of ln(n) (norm(x) . dx) where that is wanted.
  double write(std::int64_t head, int row, int count, const ChunkOutput* of_norm, bool sums_scale_grad) {
    double scale_grad_sum = 0;
    if (operands_.norm_input.rows.data != nullptr) {
      const RowView<const T> rows = operands_.norm_input.of(head, t_ + row);
      const A *normalized = s_.normalized, *rnorm = rnorm_;
      if (of_norm != nullptr)
        normalized = of_norm->s_.a, rnorm = of_norm->rnorm_;
      else
        pack_rows<S, block, Norm::normalize, Check::none>(rows, count, static_cast<const A*>(nullptr),
                                                          s_.normalized, s_.c_pitch, rnorm_);
      A dot[block];
      norm_backward<S>(o(row), normalized, s_.c_pitch, count, rnorm, dot);
      if (sums_scale_grad)
        for (int r = 0; r < count; ++r)
          if (rows.valid(r))
            scale_grad_sum += std::log((std::max)(s_.n[row + r], 1.0)) * static_cast<double>(dot[r]);
    }
    if (operands_.out.rows.data != nullptr)
      store_rows<S>(operands_.out.of(head, t_ + row), count, o(row), s_.c_pitch,
                    operands_.out.weighted ? s_.weight + row : nullptr);
    return scale_grad_sum;
  }

  /// o of the rows from `row` of the chunk on.
  A* o(int row) const { return s_.o + (sums_heads_ ? row * s_.c_pitch : 0); }
  const OutputOperands<T>& operands() const { return operands_; }
  const ChunkScratch<A>& scratch() const { return s_; }

 private:
  /// The rows of b and c in the block from `row` on.
  int rows_from(int row) const { return (std::min)(block, bc_rows_ - row); }
  A* score(std::ptrdiff_t row, std::ptrdiff_t key) const { return s_.scores + row * s_.score_pitch + key; }

  /// Rows t_ + row and on of an operand into `packed`.
  template <Check check>
  bool pack(const OperandView<const T>& operand, std::int64_t head, int row, int count, A* packed,
            std::int64_t pitch) {
    const A* weight = operand.weighted ? s_.weight + row : nullptr;
    const RowView<const T> rows = operand.of(head, t_ + row);
    if (operand.norm == Norm::normalize)
      return pack_rows<S, block, Norm::normalize, check>(rows, count, weight, packed, pitch, rnorm_);
    return pack_rows<S, block, Norm::keep, check>(rows, count, weight, packed, pitch, rnorm_);
  }

  /// scores = a b^T, (rows, score_pitch), for the keys from `first` to last - 1, all of which the rows see.
  void compute_scores(Prefetcher<block>& prefetcher, int rows, int first, int last) {
    for (int key = first; key < last; key += block) {
      const auto columns = (std::min)(std::int64_t{block}, round_up(last - key, score_rows));
      for_column_blocks<S, tile.vectors>(columns, [&]<int vectors>(std::ptrdiff_t column) {
        for_row_tiles<vector_bytes>(rows, [&]<int height>(std::ptrdiff_t i) {
          score_block<height, vectors>(prefetcher, i, b_t(key) + column)
              .each([&](int r, int v, typename S::Vector x) __attribute__((always_inline)) {
                S::store(score(i + r, key - first + column + v * S::lanes), x);
              });
        });
      });
    }
  }

  /// scores = tril(a b^T) of the block on the diagonal, from score column `at` on, computed up to the
  /// diagonal alone. A block that is narrower than the register tile is taller instead, so that as many
  /// accumulators hide the latency.
  void compute_diagonal_scores(Prefetcher<block>& prefetcher, int count, int at, const A* b_t) {
    for (int row = 0; row < count; row += score_rows) {
      for_column_blocks<S, tile.vectors>(row + score_rows, [&]<int vectors>(std::ptrdiff_t column) {
        constexpr int height = (std::min)(score_rows, tile.last_rows * tile.vectors / vectors);
        for (int i = row; i < (std::min)(count, row + score_rows); i += height)
          score_block<height, vectors>(prefetcher, i, b_t + column)
              .each([&](int r, int v, typename S::Vector x) __attribute__((always_inline)) {
                const auto j = static_cast<typename S::Bit>(column + v * S::lanes);
                const auto row_index = static_cast<typename S::Bit>(i + r);
                S::store(score(i + r, at + j),
                         S::select(S::iota() + j <= row_index, x, typename S::Vector{}));
              });
      });
      // A taller tile of outputs reads up to a vector more.
      if (tile.rows > tile.last_rows && row + score_rows < block)
        for (int i = row; i < row + score_rows; ++i)
          S::store(score(i, at + row + score_rows), typename S::Vector{});
    }
  }

  template <int rows, int vectors>
  [[gnu::always_inline]] Accumulators<S, rows, vectors> score_block(Prefetcher<block>& prefetcher,
                                                                    std::ptrdiff_t row, const A* b_t) {
    prefetcher.prefetch();
    Accumulators<S, rows, vectors> product;
    product.multiply_long(s_.a + row * s_.a_pitch, s_.a_pitch, b_t, block, operands_.a.rows.dim);
    return product;
  }

  /// o = [o +] scores c [+ a h] for a group of keys: the first `seen` after `first`, which all rows see, and
  /// on the diagonal as many more as a row's index and 1.
  void compute_output(Prefetcher<block>& prefetcher, A* o, int count, int first, int seen, bool diagonal,
                      bool finite, bool add, const A* h) {
    for_column_blocks<S, tile.vectors>(s_.c_pitch, [&]<int vectors>(std::ptrdiff_t column) {
      if (finite) {
        for_row_tiles<vector_bytes>(count, [&]<int height>(std::ptrdiff_t row) {
          const std::ptrdiff_t on_diagonal = diagonal ? (std::min)(row + height, std::ptrdiff_t{count}) : 0;
          output_block<height, vectors>(prefetcher, o, row, column, first, seen + on_diagonal, add, h);
        });
      } else {
        // A masked score times NaN is NaN in a row that must not depend on it, so each row reads its visible
        // scores alone.
        for (int row = 0; row < count; ++row)
          output_block<1, vectors>(prefetcher, o, row, column, first, seen + row + 1, add, h);
      }
    });
  }

  template <int rows, int vectors>
  [[gnu::always_inline]] void output_block(Prefetcher<block>& prefetcher, A* o, std::ptrdiff_t row,
                                           std::ptrdiff_t column, int first, std::ptrdiff_t keys, bool add,
                                           const A* h) {
    o += row * s_.c_pitch + column;
    prefetcher.prefetch();
    Accumulators<S, rows, vectors> sum;
    sum.multiply(score(row, 0), s_.score_pitch, s_.c + first * s_.c_pitch + column, s_.c_pitch, keys);
    if (h != nullptr)
      sum.multiply_long(s_.a + row * s_.a_pitch, s_.a_pitch, h + column, s_.c_pitch, operands_.a.rows.dim);
    sum.each([&](int r, int v, typename S::Vector x) {
      A* at = o + r * s_.c_pitch + v * S::lanes;
      S::store(at, add ? S::load(at) + x : x);
    });
  }

  OutputOperands<T> operands_;
  ChunkScratch<A> s_{};
  bool sums_heads_ = false;
  std::int64_t t_ = 0;  // the first row of the chunk
  int bc_rows_ = 0;     // of b and c in the chunk
  alignas(64) A rnorm_[block] = {};
};

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif
