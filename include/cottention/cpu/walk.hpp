// One walk (chunk scan) over the rows of a sequence, as chunkwise linear attention:
//
//     o = tril(a b^T) c + a h,   then   h += b^T c
//
// The forward pass and all gradients are this walk with other operands in the roles of a, b and c;
// recurrence.hpp has the table. Dropping the first term and the update leaves `apply`, dropping all but the
// update leaves `reduce`, and bidirectional attention is a reduce followed by an apply.
//
// dk and dv have the same b and c in exchanged roles, and so the same state, transposed. Where both are
// wanted, one walk has both as outputs.
#if !defined(COTTENTION_CPU_WALK_HPP)
#define COTTENTION_CPU_WALK_HPP

#include <cottention/cpu/chunk_output.hpp>
#include <cottention/cpu/tile_walk.hpp>
#include <cottention/cpu/weights.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// Runs a walk chunk by chunk, and within a chunk block by block: on a matrix unit where there is one and the
/// rows and the state are in its range, and otherwise in vectors.
template <Element T, int block, int vector_bytes>
class Walker {
 public:
  using Unit = MatrixUnitOf<T, block, vector_bytes>;
  using A = Accumulate<T>;
  using S = Simd<A, vector_bytes>;
  using OneOutput = ChunkOutput<T, block, vector_bytes>;
  static constexpr RegisterTile tile = register_tile<vector_bytes>;
  static constexpr std::int64_t tile_columns = tile.vectors * S::lanes;
  static constexpr int score_rows = OneOutput::score_rows;
  static constexpr int group = OneOutput::group;
  /// Whether what a matrix unit reads is made of what is packed for vectors.
  static constexpr bool splits_vectors = TileWalkOf<T, block, Unit>::splits_vectors;
  static_assert(
      block > 0 && block % 16 == 0,
      "cottention: the CPU backend's chunk must be a multiple of 16, so that whole vectors and register "
      "tiles fill it. Remedy: Tiling{.chunk = 32}.");
  static_assert(
      block <= 256,
      "cottention: the CPU backend's chunk must be at most 256, since some of its data lie on the stack and "
      "longer chunks only cost time. Remedy: Tiling{.chunk = 32}.");

  Walker() = default;
  /// `transposed` is a state, (c_pitch, a_pitch), for a walk with two outputs and states; `unit` is null
  /// where no matrix unit may be used.
  Walker(const WalkParams<T>& params, const WalkScratch<A>& scratch, A* transposed, Unit* unit)
      : params_(params), s_(scratch.outputs[0]), transposed_(transposed) {
    if constexpr (Unit::exists) tiles_ = {params, scratch, unit};
    for (int i = 0; i < params.output_count(); ++i)
      outputs_[i] = {params.outputs[i], scratch.outputs[i], params.bc_heads > 1};
  }

  /// Makes `row` the first one of the next chunk.
  void seek(std::int64_t row) { params_.counter.seek(row); }

  /// Names the rows to prefetch during the next chunk: those of `next` from row t on.
  void set_next(const WalkParams<T>& next, std::int64_t t) {
    next_params_ = &next;
    next_t_ = t;
  }
  void set_next(const Walker& next, std::int64_t t) { set_next(next.params_, t); }

  /// Begins the chunk of rows t to t + a_rows - 1 of a, and of t to t + bc_rows - 1 of b and c.
  void begin_chunk(std::int64_t t, int a_rows, int bc_rows) {
    t_ = t;
    bc_rows_ = bc_rows;
    packed_ = 0;
    for (int i = 0; i < params_.output_count(); ++i) outputs_[i].begin_chunk(t, bc_rows);
    if constexpr (Unit::exists) tiles_.begin_chunk(bc_rows, a_rows > 0);
    load_counts((std::max)(a_rows, bc_rows));
  }

  /// Computes the outputs of the chunk's rows `first`, a multiple of the block, to last - 1, from the state h
  /// before the chunk, null where that is zero. Then adds b^T c of the chunk to a state. Returns the rows'
  /// part of the sum for the gradient of m.
  template <bool causal>
  double walk_rows(int first, int last, const A* h, const StateUpdate<A>& add_to) {
    double scale_grad_sum = 0;
    const bool updates = add_to.to != nullptr;
    if (h != nullptr) set_state(h), set_tile_state(h);
    for (std::int64_t bc_head = 0; bc_head < params_.bc_heads; ++bc_head) {
      if (bc_head > 0) begin_head();
      const bool add = bc_head > 0, last_head = bc_head + 1 == params_.bc_heads;
      for (int row = first; row < last; row += block) {
        const int rows = (std::min)(block, last - row);
        const bool ends = row + block >= last;
        const int keys = causal ? row + rows : bc_rows_;
        const bool tiles = pack_tile_bc(bc_head, keys);
        if (!tiles) pack_bc(bc_head, keys);
        for (int i = 0; i < params_.output_count(); ++i)
          for (std::int64_t a_head = 0; a_head < params_.a_heads; ++a_head) {
            const bool has_state = !add && h != nullptr;
            if (splits_vectors) outputs_[i].pack_a(a_head, row, rows);
            const bool on_tiles = tiles && pack_tile_a(i, a_head, row, rows, has_state);
            if (!on_tiles) pack_bc(bc_head, keys);
            if (needs_vectors(i, on_tiles)) outputs_[i].pack_a(a_head, row, rows);
            prefetch_next(i, a_head, bc_head, row, keys, ends, ends && updates, on_tiles);
            if (!on_tiles)
              outputs_[i].template attend<causal>(prefetcher_, row, rows, add,
                                                  has_state ? state(i, h) : nullptr);
            else if constexpr (Unit::exists)
              tiles_.template attend<causal>(prefetcher_, i, row, rows, add, has_state, outputs_[i].o(row));
            if (last_head) scale_grad_sum += write(i, a_head, row, rows);
          }
      }
      if (updates) absorb(bc_head, add_to);
    }
    if (params_.bc_heads > 1) begin_head();
    return scale_grad_sum;
  }

  /// The whole chunk of rows t to t + count - 1, where attention is causal.
  double walk_chunk(std::int64_t t, int count, const A* h, const StateUpdate<A>& add_to) {
    if (params_.bc_heads == 0) return apply_chunk(t, count, h, add_to);  // a group without query heads
    begin_chunk(t, count, count);
    return walk_rows<true>(0, count, h, add_to);
  }

  /// Adds b^T c of rows t to t + count - 1 to a state.
  void reduce_chunk(std::int64_t t, int count, const StateUpdate<A>& add_to) {
    begin_chunk(t, 0, count);
    for (std::int64_t head = 0; head < params_.bc_heads; ++head) {
      begin_head();
      const bool tiles = pack_tile_bc(head, count);
      if (!tiles) pack_bc(head, count);
      prefetcher_.start(update_tiles(tiles));
      prefetch_next_bc(head, count);
      absorb(head, add_to);
    }
    if (params_.bc_heads == 0) pass_on(add_to);
  }

  /// Makes h the state of the calls of apply_rows that follow.
  void set_state(const A* h) {
    if (params_.two_outputs) transpose_matrix<S>(h, s_.a_pitch, s_.c_pitch, transposed_);
  }

  /// Computes o = a h for rows t to t + count - 1, at most a chunk; 0 where h is null. Returns as walk_rows
  /// does.
  double apply_rows(std::int64_t t, int count, const A* h) {
    double scale_grad_sum = 0;
    begin_chunk(t, count, 0);
    if (h != nullptr) set_tile_state(h);
    for (int row = 0; row < count; row += block) {
      const int rows = (std::min)(block, count - row);
      for (int i = 0; i < params_.output_count(); ++i)
        for (std::int64_t head = 0; head < params_.a_heads; ++head) {
          if (splits_vectors) outputs_[i].pack_a(head, row, rows);
          const bool on_tiles = h != nullptr && pack_tile_a(i, head, row, rows, true);
          if (needs_vectors(i, on_tiles)) outputs_[i].pack_a(head, row, rows);
          prefetcher_.start(output_tiles(i, rows, 0, on_tiles));
          prefetch_next_a(i, head, row, row + block >= count);
          if (!on_tiles)
            outputs_[i].apply(prefetcher_, row, rows, state(i, h));
          else if constexpr (Unit::exists)
            tiles_.apply(prefetcher_, i, rows, outputs_[i].o(row));
          scale_grad_sum += write(i, head, row, rows);
        }
    }
    return scale_grad_sum;
  }

 private:
  /// walk_chunk where there are no b and c.
  double apply_chunk(std::int64_t t, int count, const A* h, const StateUpdate<A>& add_to) {
    if (h != nullptr) set_state(h);
    const double scale_grad_sum = apply_rows(t, count, h);
    pass_on(add_to);
    return scale_grad_sum;
  }
  /// An update with nothing to add.
  void pass_on(const StateUpdate<A>& x) const {
    for (std::int64_t e = 0; x.to != nullptr && e < s_.a_pitch * s_.c_pitch; ++e) {
      x.to[e] = x.from == nullptr ? A{0} : x.from[e];
      if (x.base != nullptr) x.h[e] = x.base[e] + x.to[e];
    }
  }
  /// The state h as output i reads it.
  const A* state(int i, const A* h) const { return i == 0 || h == nullptr ? h : transposed_; }

  /// Queues the prefetch of what output i reads and writes after `row` of the chunk: the rows of the next
  /// head, of the next block, or of the first head of the chunk that comes next.
  void prefetch_next_a(int i, std::int64_t head, int row, bool ends) {
    if (head + 1 < params_.a_heads)
      enqueue_a(params_, i, head + 1, t_ + row);
    else if (!ends)
      enqueue_a(params_, i, 0, t_ + row + block);
    else if (next_params_ != nullptr)
      enqueue_a(*next_params_, i, 0, next_t_);
  }
  void prefetch_next_bc(std::int64_t head, std::int64_t row) {
    if (row < bc_rows_)
      enqueue_bc(params_, head, t_ + row);
    else if (head + 1 < params_.bc_heads)
      enqueue_bc(params_, head + 1, t_);
    else if (next_params_ != nullptr)
      enqueue_bc(*next_params_, 0, next_t_);
  }
  void enqueue_a(const WalkParams<T>& params, int i, std::int64_t head, std::int64_t t) {
    const OutputOperands<T>& x = params.outputs[i];
    prefetcher_.enqueue_a(x.a, params.two_outputs ? OperandView<const T>{} : x.norm_input, x.out,
                          params.a_rows, head, t);
  }
  void enqueue_bc(const WalkParams<T>& params, std::int64_t head, std::int64_t t) {
    prefetcher_.enqueue_bc(params.outputs[0].b, params.outputs[0].c, params.bc_rows, head, t);
  }
  void prefetch_next(int i, std::int64_t a_head, std::int64_t bc_head, int row, int keys, bool ends,
                     bool updates, bool on_tiles) {
    const bool last = a_head + 1 == params_.a_heads && i + 1 == params_.output_count();
    prefetcher_.start(output_tiles(i, block, keys, on_tiles) +
                      (last && updates ? update_tiles(on_tiles) : 0));
    if (last) prefetch_next_bc(bc_head, packed_rows());
    if (bc_head + 1 == params_.bc_heads || !ends) prefetch_next_a(i, a_head, row, ends);
  }

  /// How often prefetch() is called while output i is computed for `count` rows that see `keys` keys: in
  /// vectors, for each register tile. update_tiles: while the state is.
  std::int64_t output_tiles(int i, std::int64_t count, [[maybe_unused]] std::int64_t keys,
                            [[maybe_unused]] bool on_tiles) const {
    if constexpr (Unit::exists)
      if (on_tiles) return tiles_.output_prefetches(i, count, keys);
    const std::int64_t pitch = i == 0 ? s_.c_pitch : s_.a_pitch;
    return (count + tile.rows - 1) / tile.rows * ((pitch + tile_columns - 1) / tile_columns);
  }
  std::int64_t update_tiles([[maybe_unused]] bool on_tiles) const {
    if constexpr (Unit::exists)
      if (on_tiles) return tiles_.update_prefetches();
    return s_.a_pitch / tile.rows * ((s_.c_pitch + tile_columns - 1) / tile_columns);
  }

  bool any_weight() const {
    const auto weighted = [](const OutputOperands<T>& x) {
      return x.a.weighted || x.b.weighted || x.c.weighted || x.out.weighted;
    };
    return weighted(params_.outputs[0]) || (params_.two_outputs && weighted(params_.outputs[1]));
  }

  /// Counts and weights of the chunk's first `count` rows.
  void load_counts(int count) {
    if (!any_weight() && !params_.sums_scale_grad) return;
    params_.counter.next(count, s_.n);
    std::fill(s_.n + count, s_.n + round_up(count, block), 1.0);
    if (!any_weight()) return;
    const auto read = static_cast<int>(round_up(count, 16));  // by pack_columns and pack_tile_rows
    weights_of_counts<A, vector_bytes>(s_.n, read, params_.exponent, s_.weight);
  }

  /// Begins another head of b and c.
  void begin_head() {
    packed_ = 0;
    if constexpr (Unit::exists) tiles_.begin_head();
  }
  /// Whether rows of a are to be packed that are not yet, since a block of output i is computed in vectors,
  /// or they serve the norm's backward.
  bool needs_vectors(int i, bool on_tiles) const {
    return !splits_vectors && (!on_tiles || (params_.two_outputs && i == 0));
  }

  /// Rows of b and c of one head that are packed.
  int packed_rows() const {
    if constexpr (Unit::exists)
      return (std::max)(packed_, tiles_.packed_rows());
    else
      return packed_;
  }

  // For a matrix unit: false where there is none, and where what is packed is out of its range.
  bool pack_tile_bc([[maybe_unused]] std::int64_t head, [[maybe_unused]] int end) {
    if constexpr (Unit::exists) {
      if (!tiles_.enabled()) return false;
      if (splits_vectors) pack_bc(head, end);
      return tiles_.pack_bc(params_, head, t_, s_.weight, end);
    } else {
      return false;
    }
  }
  bool pack_tile_a([[maybe_unused]] int i, [[maybe_unused]] std::int64_t head, [[maybe_unused]] int row,
                   [[maybe_unused]] int count, [[maybe_unused]] bool has_state) {
    if constexpr (Unit::exists)
      return tiles_.enabled() && (!has_state || tile_state_[i]) &&
             tiles_.pack_a(params_, i, head, t_ + row, count, s_.weight + row);
    else
      return false;
  }
  void set_tile_state([[maybe_unused]] const A* h) {
    if constexpr (Unit::exists)
      for (int i = 0; tiles_.enabled() && i < params_.output_count(); ++i)
        tile_state_[i] = tiles_.set_state(i, state(i, h));
  }

  /// Packs the blocks of b and c that are not packed yet, up to row `end` of the chunk.
  void pack_bc(std::int64_t head, int end) {
    for (; packed_ < end; packed_ += block)
      if (params_.two_outputs) {
        for (OneOutput& output : outputs_) output.pack_c(head, packed_);
        for (int i = 0; i < 2; ++i) outputs_[i].pack_b_from(outputs_[1 - i], packed_);
      } else {
        outputs_[0].pack_b(head, packed_);
        outputs_[0].pack_c(head, packed_);
      }
  }
  double write(int i, std::int64_t head, int row, int count) {
    return outputs_[i].write(head, row, count, params_.two_outputs ? &outputs_[0] : nullptr,
                             params_.sums_scale_grad);
  }

  /// Adds b^T c of a head's rows of the chunk to a state, the first head's to `from` and others' to that.
  /// Each group's product is summed from zero, so that the error grows with the number of groups and not with
  /// that of rows.
  void absorb(std::int64_t head, StateUpdate<A> add_to) {
    const bool on_tiles = pack_tile_bc(head, bc_rows_);
    if (!on_tiles) pack_bc(head, bc_rows_);
    if (head > 0) add_to.from = add_to.to;
    for (int first = 0; first < bc_rows_; first += group) {
      update(first, (std::min)(bc_rows_, first + group), add_to, on_tiles);
      add_to.from = add_to.to;
    }
  }

  /// Adds b^T c of rows `first` to last - 1 of the chunk to a state.
  void update(int first, int last, const StateUpdate<A> add_to, [[maybe_unused]] bool on_tiles) {
    if constexpr (Unit::exists)
      if (on_tiles) return tiles_.update(prefetcher_, first, last, add_to);
    for_column_blocks<S, tile.vectors>(s_.c_pitch, [&]<int vectors>(std::ptrdiff_t column) {
      for_row_tiles<vector_bytes>(s_.a_pitch, [&]<int height>(std::ptrdiff_t row) {
        prefetcher_.prefetch();
        Accumulators<S, height, vectors> product;
        for (int key = first; key < last; key += block)
          product.multiply(outputs_[0].b_t(key) + row * block, block, s_.c + key * s_.c_pitch + column,
                           s_.c_pitch, (std::min)(block, last - key));
        product.each([&](int r, int v, typename S::Vector x) {
          const std::ptrdiff_t at = (row + r) * s_.c_pitch + column + v * S::lanes;
          if (add_to.from != nullptr) x += S::load(add_to.from + at);
          S::store(add_to.to + at, x);
          if (add_to.base != nullptr) S::store(add_to.h + at, S::load(add_to.base + at) + x);
        });
      });
    });
  }

  WalkParams<T> params_;
  OneOutput outputs_[2];
  TileWalkOf<T, block, Unit> tiles_;
  bool tile_state_[2] = {};  // whether the state is in the range of products
  ChunkScratch<A> s_{};      // of the first output
  A* transposed_ = nullptr;
  Prefetcher<block> prefetcher_;
  const WalkParams<T>* next_params_ = nullptr;
  std::int64_t next_t_ = 0;
  std::int64_t t_ = 0;  // the first row of the chunk
  int bc_rows_ = 0;     // of b and c in the chunk
  int packed_ = 0;      // of them, those of one head that are packed
};

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif
