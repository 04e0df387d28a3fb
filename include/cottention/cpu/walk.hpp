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
  using OneOutput = ChunkOutput<T, block, vector_bytes>;
  static constexpr RegisterTile tile = register_tile<vector_bytes>;
  static constexpr std::int64_t tile_columns = tile.vectors * S::lanes;
  static constexpr int score_rows = OneOutput::score_rows;
  static constexpr int group = OneOutput::group;
  static_assert(
      block > 0 && block % 16 == 0,
      "cottention: the CPU backend's chunk must be a multiple of 16, so that whole vectors and register "
      "tiles fill it. Remedy: Tiling{.chunk = 32}.");
  static_assert(
      block <= 256,
      "cottention: the CPU backend's chunk must be at most 256, since some of its data lie on the stack and "
      "longer chunks only cost time. Remedy: Tiling{.chunk = 32}.");

  Walker() = default;
  /// `transposed` is a state, (c_pitch, a_pitch), for a walk with two outputs and states.
  Walker(const WalkParams<T>& params, const WalkScratch<A>& scratch, A* transposed)
      : params_(params), s_(scratch.outputs[0]), transposed_(transposed) {
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
    load_counts((std::max)(a_rows, bc_rows));
  }

  /// Computes the outputs of the chunk's rows `first`, a multiple of the block, to last - 1, from the state h
  /// before the chunk, null where that is zero. Then adds b^T c of the chunk to a state. Returns the rows'
  /// part of the sum for the gradient of m.
  template <bool causal>
  double walk_rows(int first, int last, const A* h, const StateUpdate<A>& add_to) {
    double scale_grad_sum = 0;
    const bool updates = add_to.to != nullptr;
    if (h != nullptr) set_state(h);
    for (std::int64_t bc_head = 0; bc_head < params_.bc_heads; ++bc_head) {
      if (bc_head > 0) packed_ = 0;
      const bool add = bc_head > 0, last_head = bc_head + 1 == params_.bc_heads;
      for (int row = first; row < last; row += block) {
        const int rows = (std::min)(block, last - row);
        const bool ends = row + block >= last;
        pack_bc(bc_head, causal ? row + rows : bc_rows_);
        for (int i = 0; i < params_.output_count(); ++i)
          for (std::int64_t a_head = 0; a_head < params_.a_heads; ++a_head) {
            if (bc_head == 0 || last - first > block) outputs_[i].pack_a(a_head, row, rows);
            prefetch_next(i, a_head, bc_head, row, ends, ends && updates);
            outputs_[i].template attend<causal>(prefetcher_, row, rows, add,
                                                add || h == nullptr ? nullptr : state(i, h));
            if (last_head) scale_grad_sum += write(i, a_head, row, rows);
          }
      }
      if (updates) absorb(bc_head, add_to);
    }
    if (params_.bc_heads > 1) packed_ = 0;
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
      packed_ = 0;
      pack_bc(head, count);
      prefetcher_.start(update_tiles());
      prefetch_next_bc(head, count);
      absorb(head, add_to);
    }
    if (params_.bc_heads == 0) pass_on(add_to);
  }

  /// Makes h the state of the calls of apply_block that follow.
  void set_state(const A* h) {
    if (params_.two_outputs) transpose_matrix<S>(h, s_.a_pitch, s_.c_pitch, transposed_);
  }

  /// Computes o = a h for rows t to t + count - 1, one block; 0 where h is null. Returns as walk_rows does.
  double apply_block(std::int64_t t, int count, const A* h) {
    double scale_grad_sum = 0;
    begin_chunk(t, count, 0);
    for (int i = 0; i < params_.output_count(); ++i)
      for (std::int64_t head = 0; head < params_.a_heads; ++head) {
        outputs_[i].pack_a(head, 0, count);
        prefetcher_.start(output_tiles(i, count));
        prefetch_next_a(i, head, 0, true);
        outputs_[i].apply(prefetcher_, 0, count, state(i, h));
        scale_grad_sum += write(i, head, 0, count);
      }
    return scale_grad_sum;
  }

 private:
  /// walk_chunk where there are no b and c.
  double apply_chunk(std::int64_t t, int count, const A* h, const StateUpdate<A>& add_to) {
    if (h != nullptr) set_state(h);
    double scale_grad_sum = 0;
    for (int row = 0; row < count; row += block)
      scale_grad_sum += apply_block(t + row, (std::min)(block, count - row), h);
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
  void prefetch_next(int i, std::int64_t a_head, std::int64_t bc_head, int row, bool ends, bool updates) {
    const bool last = a_head + 1 == params_.a_heads && i + 1 == params_.output_count();
    prefetcher_.start(output_tiles(i, block) + (last && updates ? update_tiles() : 0));
    if (last) prefetch_next_bc(bc_head, packed_);
    if (bc_head + 1 == params_.bc_heads || !ends) prefetch_next_a(i, a_head, row, ends);
  }

  /// The number of register tiles of output i where it has `count` rows; update_tiles: of the state.
  std::int64_t output_tiles(int i, std::int64_t count) const {
    const std::int64_t pitch = i == 0 ? s_.c_pitch : s_.a_pitch;
    return (count + tile.rows - 1) / tile.rows * ((pitch + tile_columns - 1) / tile_columns);
  }
  std::int64_t update_tiles() const {
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
    const auto read = static_cast<int>(round_up(count, score_rows));  // by pack_columns
    weights_of_counts<A, vector_bytes>(s_.n, read, params_.exponent, s_.weight);
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
    pack_bc(head, bc_rows_);
    if (head > 0) add_to.from = add_to.to;
    for (int first = 0; first < bc_rows_; first += group) {
      update(first, (std::min)(bc_rows_, first + group), add_to);
      add_to.from = add_to.to;
    }
  }

  /// Adds b^T c of rows `first` to last - 1 of the chunk to a state.
  void update(int first, int last, const StateUpdate<A> add_to) {
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
  ChunkScratch<A> s_{};  // of the first output
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
