// One walk over the rows of a sequence, chunk by chunk, in the words of linear attention:
//
//     o = tril(a b^T) c + a h,   then   h += b^T c
//
// The forward pass and all gradients are this walk with other operands in the roles of a, b and c; roles.hpp
// has the table. Dropping the first term and the update leaves `apply`, dropping all but the update leaves
// `reduce`, and bidirectional attention is a reduce followed by an apply.
#pragma once

#include <cottention/cpu/look_ahead.hpp>
#include <cottention/cpu/multiply.hpp>
#include <cottention/cpu/rows.hpp>
#include <cottention/cpu/weights.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu {

/// What a walk reads and writes: one sequence, one key/value head and the query heads of its group. Either a
/// or b and c have one head for each activate of the group, the other has one head.
template <Element T>
struct Walk {
  RoleRows<const T> a, b, c;
  RoleRows<T> out;              // one row for each row of a; null data: not wanted
  RoleRows<const T> projected;  // whose norm the rows of `out` are differentiated through; null data: none
  std::int64_t a_heads = 1;
  std::int64_t bc_heads = 1;
  std::int64_t a_rows = 0;
  std::int64_t bc_rows = 0;
  Counter counter;
  double exponent = 0;           // sigmoid(m); w = n^-exponent
  bool sums_scale_grad = false;  // whether the walk yields sum of ln(n) (norm(x) . dx), for the gradient of m
};

/// Row pitch of scratch that holds rows of `dim` elements: whole vectors and register tiles of every target.
constexpr std::int64_t padded(std::int64_t dim) { return (dim + 15) / 16 * 16; }

/// A thread's scratch for chunks of operands, (rows, pitch) each.
template <class A>
struct ChunkScratch {
  std::int64_t a_pitch, c_pitch;
  A* a;       // (chunk, a_pitch)
  A* b_t;     // (a_pitch, chunk)
  A* c;       // (chunk, c_pitch)
  A* scores;  // (chunk, chunk)
  A* o;       // (chunk, c_pitch)
  A* unit;    // (chunk, c_pitch)

  /// Enough for either pitch to be that of a: the gradients exchange them.
  static constexpr std::int64_t elements(std::int64_t chunk, std::int64_t a_pitch, std::int64_t c_pitch) {
    return chunk * (2 * (a_pitch + c_pitch) + (std::max)(a_pitch, c_pitch) + chunk);
  }

  /// Carves the scratch out of `memory`, which holds elements(...) numbers.
  static ChunkScratch in(A* memory, std::int64_t chunk, std::int64_t a_pitch, std::int64_t c_pitch) {
    ChunkScratch s{};
    s.a_pitch = a_pitch;
    s.c_pitch = c_pitch;
    const auto take = [&](std::int64_t n) {
      A* taken = memory;
      memory += n;
      return taken;
    };
    s.a = take(chunk * a_pitch);
    s.b_t = take(chunk * a_pitch);
    s.c = take(chunk * c_pitch);
    s.o = take(chunk * c_pitch);
    s.unit = take(chunk * c_pitch);
    s.scores = take(chunk * chunk);
    return s;
  }
};

/// Runs the parts of a walk. States are (a_pitch, c_pitch), zero outside dim_a x dim_c.
template <Element T, int chunk, int vector_bytes>
class Walker {
 public:
  using A = Accumulate<T>;
  using S = Simd<A, vector_bytes>;
  static constexpr RegisterTile tile = register_tile<vector_bytes>;
  static constexpr std::int64_t tile_columns = tile.vectors * S::lanes;
  static constexpr int score_rows = (std::max)(S::lanes, tile.rows);  // whose scores are computed together
  static_assert(
      chunk > 0 && chunk % 16 == 0,
      "cottention: the CPU backend's chunk must be a multiple of 16, so that whole vectors and register "
      "tiles fill it. Remedy: Tiling{.chunk = 32}.");
  static_assert(
      chunk <= 256,
      "cottention: the CPU backend's chunk must be at most 256, since some of its data lie on the stack and "
      "longer chunks only cost time. Remedy: Tiling{.chunk = 32}.");

  Walker() = default;
  Walker(const Walk<T>& walk, const ChunkScratch<A>& scratch) : walk_(walk), s_(scratch) {}

  /// Makes `row` the first one of the next chunk.
  void seek(std::int64_t row) { walk_.counter.seek(row); }

  /// Says which rows will be asked for after the next chunk: those of `next` from t on.
  void expect(const Walker& next, std::int64_t t) {
    next_walk_ = &next.walk_;
    next_t_ = t;
  }

  /// Causal: rows t to t + count - 1, starting from the state h, which ends up after them. Their own sum is
  /// added to `sum` too where it is not null. Returns the chunk's share of the sum for the gradient of m.
  double walk_chunk(std::int64_t t, int count, A* h, A* sum) {
    if (walk_.bc_heads == 0) return apply_chunk(t, count, h);  // a group without query heads
    double scale_grad_sum = 0;
    load_counts(count);
    for (std::int64_t bc_head = 0; bc_head < walk_.bc_heads; ++bc_head) {
      const bool finite = load_bc(bc_head, t, count);
      for (std::int64_t a_head = 0; a_head < walk_.a_heads; ++a_head) {
        if (bc_head == 0) load_a(a_head, t, count);
        look_ahead_of(a_head, bc_head, t);
        compute_scores(count);
        compute_output(count, finite, bc_head > 0, bc_head == 0 ? h : nullptr);
        if (bc_head == walk_.bc_heads - 1) scale_grad_sum += write(a_head, t, count);
      }
      update(count, h, sum);
    }
    return scale_grad_sum;
  }

  /// h += b^T c over rows t to t + count - 1.
  void reduce_chunk(std::int64_t t, int count, A* h) {
    load_counts(count);
    for (std::int64_t head = 0; head < walk_.bc_heads; ++head) {
      load_bc(head, t, count);
      ahead_.open(update_tiles());
      look_ahead_of_bc(head, t);
      update(count, h, nullptr);
    }
  }

  /// Bidirectional: o = a h for rows t to t + count - 1.
  double apply_chunk(std::int64_t t, int count, const A* h) {
    double scale_grad_sum = 0;
    load_counts(count);
    for (std::int64_t head = 0; head < walk_.a_heads; ++head) {
      load_a(head, t, count);
      ahead_.open(output_tiles(count));
      look_ahead_of_a(head, t);
      for_column_blocks<S, tile.vectors>(s_.c_pitch, [&]<int vectors>(std::ptrdiff_t column) {
        for (int row = 0; row < count; row += tile.rows)
          output_block<tile.rows, vectors>(row, column, 0, false, h);
      });
      scale_grad_sum += write(head, t, count);
    }
    return scale_grad_sum;
  }

 private:
  /// The next head of this chunk, or the first one of the chunk that comes next.
  void look_ahead_of_a(std::int64_t head, std::int64_t t) {
    if (head + 1 < walk_.a_heads)
      look_at_a(walk_, head + 1, t);
    else if (next_walk_ != nullptr)
      look_at_a(*next_walk_, 0, next_t_);
  }
  void look_ahead_of_bc(std::int64_t head, std::int64_t t) {
    if (head + 1 < walk_.bc_heads)
      look_at_bc(walk_, head + 1, t);
    else if (next_walk_ != nullptr)
      look_at_bc(*next_walk_, 0, next_t_);
  }
  void look_at_a(const Walk<T>& walk, std::int64_t head, std::int64_t t) {
    ahead_.look_at_a(walk.a, walk.projected, walk.out, walk.a_rows, head, t);
  }
  void look_at_bc(const Walk<T>& walk, std::int64_t head, std::int64_t t) {
    ahead_.look_at_bc(walk.b, walk.c, walk.bc_rows, head, t);
  }
  void look_ahead_of(std::int64_t a_head, std::int64_t bc_head, std::int64_t t) {
    ahead_.open(output_tiles(chunk) + (a_head + 1 == walk_.a_heads ? update_tiles() : 0));
    if (a_head + 1 == walk_.a_heads) look_ahead_of_bc(bc_head, t);
    if (bc_head + 1 == walk_.bc_heads) look_ahead_of_a(a_head, t);
  }

  /// Register tiles of an output of `count` rows, and of the state.
  std::int64_t output_tiles(std::int64_t count) const {
    return (count + tile.rows - 1) / tile.rows * ((s_.c_pitch + tile_columns - 1) / tile_columns);
  }
  std::int64_t update_tiles() const {
    return s_.a_pitch / tile.rows * ((s_.c_pitch + tile_columns - 1) / tile_columns);
  }

  /// Rows of a that register tiles of `count` rows read, scores among them.
  static int rows_read(int count) { return (count + score_rows - 1) / score_rows * score_rows; }

  bool any_weight() const {
    return walk_.a.weighted || walk_.b.weighted || walk_.c.weighted || walk_.out.weighted;
  }

  void load_counts(int count) {
    if (!any_weight() && !walk_.sums_scale_grad) return;
    walk_.counter.next(count, n_);
    for (int r = count; r < chunk; ++r) n_[r] = 1;
    if (any_weight()) weights_of_counts<A, vector_bytes>(n_, count, walk_.exponent, weight_);
  }

  template <Check check>
  bool load(const RoleRows<const T>& role, std::int64_t head, std::int64_t t, int count, A* packed,
            std::int64_t pitch) {
    const A* weight = role.weighted ? weight_ : nullptr;
    if (role.norm == Norm::unit)
      return pack_rows<S, chunk, Norm::unit, check>(role.of(head, t), count, weight, packed, pitch, scale_);
    return pack_rows<S, chunk, Norm::keep, check>(role.of(head, t), count, weight, packed, pitch, scale_);
  }
  void load_a(std::int64_t head, std::int64_t t, int count) {
    load<Check::none>(walk_.a, head, t, count, s_.a, s_.a_pitch);
    // Register tiles read rows past the last one. What the scratch held there could trap.
    std::fill(s_.a + count * s_.a_pitch, s_.a + rows_read(count) * s_.a_pitch, A{0});
  }
  /// Tells whether c is finite.
  bool load_bc(std::int64_t head, std::int64_t t, int count) {
    const A* weight = walk_.b.weighted ? weight_ : nullptr;
    if (walk_.b.norm == Norm::unit)
      pack_columns<S, chunk, Norm::unit, score_rows>(walk_.b.of(head, t), count, weight, s_.b_t, s_.a_pitch,
                                                     scale_);
    else
      pack_columns<S, chunk, Norm::keep, score_rows>(walk_.b.of(head, t), count, weight, s_.b_t, s_.a_pitch,
                                                     scale_);
    return load<Check::finite>(walk_.c, head, t, count, s_.c, s_.c_pitch);
  }

  /// scores = tril(a b^T), only as far as the diagonal. Where a block is narrower than the register tile it
  /// is taller instead, so that as many accumulators hide the latency.
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
    ahead_.fetch();
    Accumulators<S, rows, vectors> product;
    product.multiply_long(s_.a + row * s_.a_pitch, s_.a_pitch, s_.b_t + column, chunk, walk_.a.rows.dim);
    product.each([&](int r, int v, typename S::Vector x) __attribute__((always_inline)) {
      const auto j = static_cast<typename S::Bit>(column + v * S::lanes);
      const auto i = static_cast<typename S::Bit>(row + r);
      const typename S::Vector lower = S::select(S::iota() + j <= i, x, typename S::Vector{});
      S::store(s_.scores + (row + r) * chunk + j, lower);
    });
  }

  /// o = [o +] scores c [+ a h]
  void compute_output(int count, bool finite, bool add, const A* h) {
    for_column_blocks<S, tile.vectors>(s_.c_pitch, [&]<int vectors>(std::ptrdiff_t column) {
      if (finite) {
        for (int row = 0; row < count; row += tile.rows)
          output_block<tile.rows, vectors>(row, column, (std::min)(row + tile.rows, count), add, h);
      } else {
        // Above the diagonal 0 * NaN would reach rows that do not see it, so no score there is even read.
        for (int row = 0; row < count; ++row) output_block<1, vectors>(row, column, row + 1, add, h);
      }
    });
  }

  template <int rows, int vectors>
  [[gnu::always_inline]] void output_block(int row, std::ptrdiff_t column, std::ptrdiff_t keys, bool add,
                                           const A* h) {
    A* o = s_.o + row * s_.c_pitch + column;
    ahead_.fetch();
    Accumulators<S, rows, vectors> sum;
    sum.multiply(s_.scores + row * chunk, chunk, s_.c + column, s_.c_pitch, keys);
    if (h != nullptr)
      sum.multiply_long(s_.a + row * s_.a_pitch, s_.a_pitch, h + column, s_.c_pitch, walk_.a.rows.dim);
    sum.each([&](int r, int v, typename S::Vector x) {
      A* at = o + r * s_.c_pitch + v * S::lanes;
      S::store(at, add ? S::load(at) + x : x);
    });
  }

  /// h += b^T c and sum += b^T c. Each chunk's product is summed from zero, which keeps the error of a long
  /// sum of short sums small.
  void update(int count, A* h, A* sum) {
    for_column_blocks<S, tile.vectors>(s_.c_pitch, [&]<int vectors>(std::ptrdiff_t column) {
      for (std::ptrdiff_t row = 0; row < s_.a_pitch; row += tile.rows) {
        ahead_.fetch();
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

  /// The epilogue: o to the caller's tensor, through the norm's derivative where asked. Returns the chunk's
  /// share of sum of ln(n) (norm(x) . dx).
  double write(std::int64_t head, std::int64_t t, int count) {
    double scale_grad_sum = 0;
    if (walk_.projected.rows.data != nullptr) {
      const Rows<const T> rows = walk_.projected.of(head, t);
      pack_rows<S, chunk, Norm::unit, Check::none>(rows, count, static_cast<const A*>(nullptr), s_.unit,
                                                   s_.c_pitch, scale_);
      A dot[chunk];
      project_rows<S>(s_.o, s_.unit, s_.c_pitch, count, scale_, dot);
      if (walk_.sums_scale_grad)
        for (int r = 0; r < count; ++r)
          if (rows.present(r))
            scale_grad_sum += std::log((std::max)(n_[r], 1.0)) * static_cast<double>(dot[r]);
    }
    if (walk_.out.rows.data != nullptr)
      store_rows<S>(walk_.out.of(head, t), count, s_.o, s_.c_pitch, walk_.out.weighted ? weight_ : nullptr);
    return scale_grad_sum;
  }

  Walk<T> walk_;
  ChunkScratch<A> s_{};
  LookAhead<chunk> ahead_;
  const Walk<T>* next_walk_ = nullptr;
  std::int64_t next_t_ = 0;
  alignas(64) double n_[chunk] = {};
  alignas(64) A weight_[chunk] = {};
  alignas(64) A scale_[chunk] = {};
};

}  // namespace cottention::cpu

#if defined(__clang__)
#pragma float_control(pop)
#endif
