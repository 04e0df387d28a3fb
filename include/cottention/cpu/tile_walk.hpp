// The products of a walk on a matrix unit: operands of a chunk in bfloat16, sums in fp32.
//
// Rows of bfloat16 are exact operands. With row factors f_a of a, and f of b and c together, a chunk is
//
//     o = f_a (tril(a b^T) f c + a h)      h += (f b)^T c
//
// where what is in fp32 enters in bfloat16 parts: scores and h in two, f b in two, or in three where the
// state is handed out. Of other elements the operands are those of the vectors' products, in parts as well,
// and there are no factors. Each product with a group of keys is summed from zero.
#if !defined(COTTENTION_CPU_TILE_WALK_HPP)
#define COTTENTION_CPU_TILE_WALK_HPP

#include <cottention/cpu/prefetch.hpp>
#include <cottention/cpu/scratch.hpp>
#include <cottention/cpu/tile_block.hpp>
#include <cottention/cpu/tile_parts.hpp>
#include <cottention/cpu/walk_params.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// In place of TileWalk where no matrix unit serves.
template <Element T, int block, class Unit>
struct NoTileWalk {
  static constexpr bool splits_vectors = false;
};

#if COTTENTION_CPU_TILES

template <Element T, int block, class Unit>
class TileWalk {
 public:
  using V = TileVectors;
  static constexpr int operand_parts = tile_parts_of<T>;
  static constexpr int value_parts = value_parts_of(operand_parts);
  /// Whether operands are made of those that are packed for vectors.
  static constexpr bool splits_vectors = operand_parts > 1;
  static constexpr int panel = 2 * tile_extent;
  static constexpr int group = static_cast<int>(key_group(block));
  static_assert(block % panel == 0);

  TileWalk() = default;
  /// A null unit: the walk is in fp32 vectors alone.
  TileWalk(const WalkParams<T>& params, const WalkScratch<float>& scratch, Unit* unit)
      : unit_(unit), output_count_(params.output_count()), exact_parts_(params.keeps_state) {
    for (int i = 0; i < output_count_; ++i) {
      const ChunkScratch<float>& s = scratch.outputs[i];
      outputs_[i] = {s.tiles,
                     s.a,
                     s.b_t,
                     s.c,
                     s.a_pitch,
                     s.c_pitch,
                     tile_depth_of(params.outputs[i].a.rows.dim),
                     s.c_pitch / tile_extent};
    }
  }

  bool enabled() const { return unit_ != nullptr; }
  /// Rows of b and c of one head that are packed.
  int packed_rows() const { return packed_; }

  /// Begins a chunk with bc_rows rows of b and c, of which none are packed. Without outputs there is the
  /// update of the state alone, which is that of the first output.
  void begin_chunk(int bc_rows, bool has_outputs) {
    bc_rows_ = bc_rows;
    filled_rows_ = round_up(bc_rows, panel);
    has_outputs_ = has_outputs;
    arranged_ = has_outputs ? output_count_ : 1;
    begin_head();
  }
  /// Begins another head of b and c.
  void begin_head() {
    packed_ = 0;
    in_range_ = true;
  }

  /// Packs the blocks of b and c that are not packed yet, up to row `end` of the chunk, whose first row is t.
  /// Returns whether the range of products holds all rows so far; where not, nothing of them may be used.
  bool pack_bc(const WalkParams<T>& params, std::int64_t head, std::int64_t t, const float* weight, int end) {
    for (; packed_ < end && in_range_; packed_ += block) {
      const int count = (std::min)(block, bc_rows_ - packed_);
      if constexpr (splits_vectors)
        in_range_ = split_bc(count);
      else
        in_range_ = pack_block(params, head, t, weight, count);
    }
    return in_range_;
  }
  /// Packs the block of a of output i whose first row is t. Returns as pack_bc does.
  bool pack_a(const WalkParams<T>& params, int i, std::int64_t head, std::int64_t t, int count,
              const float* weight) {
    const Output& x = outputs_[i];
    const int filled = static_cast<int>(round_up(count, panel));
    if constexpr (splits_vectors) {
      return split_rows<operand_parts>(x.a, x.a_pitch, count, filled, x.a_pitch, x.depth, x.s.a,
                                       x.a_part_step());
    } else {
      auto* const packed = reinterpret_cast<std::uint16_t*>(x.s.a);
      bool in_range =
          pack_rows_of(params.outputs[i].a, head, t, count, weight, packed, x.depth, x.s.a_factor);
      for (int r = 0; in_range && r < filled; r += V::lanes)
        in_range = in_tile_range(V::load(x.s.a_factor + r));
      return in_range;
    }
  }
  /// Makes h, (a_pitch, c_pitch), the state of output i. Returns as pack_bc does.
  bool set_state(int i, const float* h) {
    const Output& x = outputs_[i];
    V::Bits largest{};
    std::uint32_t* to = x.s.h_parts;
    for (std::ptrdiff_t row = 0; row < x.depth; row += tile_depth)
      for (std::ptrdiff_t column = 0; column < x.c_pitch; column += tile_extent)
        for (std::ptrdiff_t r = 0; r < tile_extent; ++r, to += tile_extent) {
          // The terms of pair r, in the order of a's.
          const std::ptrdiff_t first = row + (splits_vectors ? r : 2 * r);
          const std::ptrdiff_t second = first + (splits_vectors ? tile_extent : 1);
          const V::Vector x_row = first < x.a_pitch ? V::load(h + first * x.c_pitch + column) : V::Vector{};
          const V::Vector y_row = second < x.a_pitch ? V::load(h + second * x.c_pitch + column) : V::Vector{};
          detail::take_magnitudes(largest, x_row);
          detail::take_magnitudes(largest, y_row);
          store_parts<value_parts>(x_row, y_row, to, x.h_part_step());
        }
    // The largest element decides: what is far smaller in the same state is lost beside it.
    std::int32_t top = 0;
    for (int lane = 0; lane < V::lanes; ++lane) top = (std::max)(top, largest[lane]);
    constexpr std::int32_t least = std::int32_t{127 - (splits_vectors ? 60 : 80)} << 23;
    constexpr std::int32_t most = std::int32_t{127 + 80} << 23;
    return top == 0 || (top >= least && top <= most);
  }

  /// o = [o +] scores c [+ a h] for the block of `rows` rows from `row` on, over the keys that it sees.
  template <bool causal>
  void attend(Prefetcher<block>& prefetcher, int i, int row, int rows, bool add, bool has_state, float* o) {
    const Output& x = outputs_[i];
    for (int first_row = 0; first_row < rows; first_row += panel) {
      const int keys = causal ? (std::min)(row + first_row + panel, bc_rows_) : bc_rows_;
      const int count = (std::min)(panel, rows - first_row);
      for (int first = 0; first < keys; first += group) {
        const int last = (std::min)(keys, first + group);
        for (int key = first; key < last; key += panel)
          compute_scores(prefetcher, x, first_row, count, key, key - first, causal && key == row + first_row);
        compute_output(prefetcher, x, first_row, count, first, last, add || first > 0,
                       has_state && first == 0, o + first_row * x.c_pitch);
      }
    }
  }
  /// o = a h for the block of `rows` rows.
  void apply(Prefetcher<block>& prefetcher, int i, int rows, float* o) {
    const Output& x = outputs_[i];
    for (int first_row = 0; first_row < rows; first_row += panel)
      compute_output(prefetcher, x, first_row, (std::min)(panel, rows - first_row), 0, 0, false, true,
                     o + first_row * x.c_pitch);
  }

  /// Adds (f b)^T c of rows `first` to last - 1 of the chunk, a group of keys, to a state.
  void update(Prefetcher<block>& prefetcher, int first, int last, const StateUpdate<float>& add_to) {
    if (!splits_vectors && exact_parts_)
      update_in_parts<3>(prefetcher, first, last, add_to);
    else
      update_in_parts<value_parts>(prefetcher, first, last, add_to);
  }

  /// How often attend calls prefetch() for `count` rows of output i that see `keys` keys, and apply for none;
  /// update_prefetches: update.
  std::int64_t output_prefetches(int i, std::int64_t count, std::int64_t keys) const {
    const std::int64_t groups = keys == 0 ? 1 : (keys + group - 1) / group;
    const std::int64_t blocks = panels(keys) + groups * column_blocks(outputs_[i]);
    return panels(count) * blocks * (panel / rows_per_prefetch);
  }
  std::int64_t update_prefetches() const {
    return panels((std::min)(outputs_[0].a_pitch, outputs_[0].depth)) * column_blocks(outputs_[0]) *
           (panel / rows_per_prefetch);
  }

 private:
  struct Output {
    TileScratch s{};
    const Accumulate<T>*a = nullptr, *b_t = nullptr, *c = nullptr;  // as vectors read them
    std::ptrdiff_t a_pitch = 0, c_pitch = 0;
    std::ptrdiff_t depth = 0;         // of products with a
    std::ptrdiff_t column_tiles = 0;  // of c and h

    // From one part of an operand to the next, in pairs.
    std::ptrdiff_t a_part_step() const { return block * depth / 2; }
    std::ptrdiff_t h_part_step() const { return depth / 2 * c_pitch; }
  };
  std::ptrdiff_t b_part_step(const Output& x) const { return filled_rows_ * x.depth / 2; }
  std::ptrdiff_t c_part_step(const Output& x) const { return filled_rows_ / 2 * x.c_pitch; }
  static constexpr std::ptrdiff_t tile_words = tile_extent * tile_extent;  // 32-bit ones
  static constexpr std::ptrdiff_t part_step = std::ptrdiff_t{group} * tile_extent;

  /// Between loops over rows of products, so often that no burst of prefetches stalls them.
  static constexpr int rows_per_prefetch = 8;

  static std::int64_t panels(std::int64_t count) { return (count + panel - 1) / panel; }
  static std::int64_t column_blocks(const Output& x) { return (x.column_tiles + 1) / 2; }

  bool pack_rows_of(const OperandView<const T>& operand, std::int64_t head, std::int64_t t, int count,
                    const float* weight, std::uint16_t* packed, std::ptrdiff_t pitch, float* factor) {
    const RowView<const T> rows = operand.of(head, t);
    const int filled = static_cast<int>(round_up(count, panel));
    if (!operand.weighted) weight = nullptr;
    if (operand.norm == Norm::normalize)
      return pack_tile_rows<Norm::normalize>(rows, count, filled, weight, packed, pitch, factor);
    return pack_tile_rows<Norm::keep>(rows, count, filled, weight, packed, pitch, factor);
  }
  /// Packs the next block of b and c, rows of bfloat16.
  bool pack_block(const WalkParams<T>& params, std::int64_t head, std::int64_t t, const float* weight,
                  int count) {
    alignas(64) float b_factor[block];
    float* const factor = outputs_[0].s.factor + packed_;
    bool in_range = pack(params.outputs[0].b, head, t, count, weight, b_factor);
    arrange(0, 1, params.dim_a(), count);
    in_range = pack(params.outputs[0].c, head, t, count, weight, factor) && in_range;
    arrange(1, 0, params.dim_c(), count);
    for (int r = 0; in_range && r < round_up(count, panel); r += V::lanes) {
      const V::Vector both = V::load(b_factor + r) * V::load(factor + r);
      in_range = in_tile_range(both);
      V::store(factor + r, both);
    }
    return in_range;
  }
  /// Splits the next block of b and c. The update reads b as it is packed for vectors.
  bool split_bc(int count) {
    const int filled = static_cast<int>(round_up(count, panel));
    bool in_range = true;
    for (int i = 0; i < arranged_; ++i) {
      const Output& x = outputs_[i];
      const float *const b_t = x.b_t + packed_ * x.a_pitch, *const c = x.c + packed_ * x.c_pitch;
      std::uint32_t* const b = x.s.b_pairs + packed_ * x.depth / 2;
      in_range &= has_outputs_ ? split_column_pairs<operand_parts>(b_t, block, count, filled, x.a_pitch,
                                                                   x.depth, b, b_part_step(x))
                               : split_column_pairs<0>(b_t, block, count, filled, x.a_pitch, x.depth, b, 0);
      in_range &= split_row_pairs<operand_parts>(c, x.c_pitch, count, filled, x.c_pitch,
                                                 x.s.c_pairs + packed_ / 2 * x.c_pitch, c_part_step(x));
    }
    return in_range;
  }
  /// Packs the next block of b or c of the chunk.
  bool pack(const OperandView<const T>& operand, std::int64_t head, std::int64_t t, int count,
            const float* weight, float* factor) {
    return pack_rows_of(operand, head, t + packed_, count, weight == nullptr ? nullptr : weight + packed_,
                        outputs_[0].s.rows, tile_pitch(operand.rows.dim), factor);
  }
  /// Arranges the packed block of `dim` columns as b of one output and c of another, as far as these are
  /// there.
  void arrange(int b_of, int c_of, std::int64_t dim, int count) {
    const std::uint16_t* const rows = outputs_[0].s.rows;
    const std::ptrdiff_t pitch = tile_pitch(dim);
    const int filled = static_cast<int>(round_up(count, panel));
    if (b_of < arranged_)
      pair_columns(rows, pitch, filled, outputs_[b_of].depth,
                   outputs_[b_of].s.b_pairs + packed_ * outputs_[b_of].depth / 2);
    if (c_of < arranged_)
      pair_rows(rows, pitch, filled, outputs_[c_of].c_pitch,
                outputs_[c_of].s.c_pairs + packed_ / 2 * outputs_[c_of].c_pitch);
  }

  /// The scores of a panel with 32 keys from `key` on, times the keys' factors, in two parts, from column
  /// `at` of the panel on.
  void compute_scores(Prefetcher<block>& prefetcher, const Output& x, int first_row, int count, int key,
                      int at, bool diagonal) {
    const std::uint32_t* const a = x.s.a + first_row * x.depth / 2;
    const std::uint32_t* const b = x.s.b_pairs + key * x.depth / 2;
    with_block_size(count > tile_extent, true, [&]<int rows, int columns> {
      TileBlock<Unit, rows, columns> sums{*unit_};
      sums.zero();
      for (std::ptrdiff_t k = 0; k < x.depth; k += tile_depth)
        sums.template multiply<operand_parts, operand_parts>(
            {a + k / 2, tile_extent * x.depth / 2, x.a_part_step(), 2 * x.depth},
            {b + k / 2 * tile_extent, x.depth / 2 * tile_extent, b_part_step(x)});
      sums.store(x.s.product);
    });
    const V::Vector low_factor = key_factor(x, key), high_factor = key_factor(x, key + tile_extent);
    std::uint32_t* to = x.s.parts + at * tile_extent;
    for (int r = 0; r < (count > tile_extent ? panel : tile_extent); ++r, to += tile_extent) {
      if (r % rows_per_prefetch == 0) prefetcher.prefetch();
      V::Vector low = V::load(x.s.product + r * panel);
      V::Vector high = V::load(x.s.product + r * panel + tile_extent);
      if constexpr (!splits_vectors) low *= low_factor, high *= high_factor;
      if (diagonal) {
        low = V::select(V::iota() <= r, low, V::Vector{});
        high = V::select(V::iota() + tile_extent <= r, high, V::Vector{});
      }
      store_parts<value_parts>(low, high, to, part_step);
    }
  }

  /// sums += the panel's `parts` parts times c of keys `first` to last - 1, from column tile `tile` on.
  template <int parts, class Block>
  [[gnu::always_inline]] void multiply_parts(Block& sums, const Output& x, int first, int last,
                                             std::ptrdiff_t tile) {
    const std::uint32_t* left = x.s.parts;
    const std::uint32_t* right = x.s.c_pairs + first / 2 * x.c_pitch + tile * tile_words;
    for (int key = first; key < last; key += panel) {
      sums.template multiply<parts, operand_parts>({left, tile_words, part_step, 64},
                                                   {right, tile_words, c_part_step(x)});
      left += panel * tile_extent;
      right += panel / 2 * x.c_pitch;
    }
  }

  /// o = [o +] f_a (the panel's scores times c of keys `first` to last - 1 [+ a h]).
  void compute_output(Prefetcher<block>& prefetcher, const Output& x, int first_row, int count, int first,
                      int last, bool add, bool has_state, float* o) {
    const std::uint32_t* const a = x.s.a + first_row * x.depth / 2;
    const float* const factor = x.s.a_factor + first_row;
    for (std::ptrdiff_t tile = 0; tile < x.column_tiles; tile += 2)
      with_block_size(count > tile_extent, tile + 1 < x.column_tiles, [&]<int rows, int columns> {
        TileBlock<Unit, rows, columns> sums{*unit_};
        sums.zero();
        multiply_parts<value_parts>(sums, x, first, last, tile);
        if (has_state) {
          const std::uint32_t* right = x.s.h_parts + tile * tile_words;
          for (std::ptrdiff_t k = 0; k < x.depth; k += tile_depth, right += tile_extent * x.c_pitch)
            sums.template multiply<operand_parts, value_parts>(
                {a + k / 2, tile_extent * x.depth / 2, x.a_part_step(), 2 * x.depth},
                {right, tile_words, x.h_part_step()});
        }
        sums.store(x.s.product);
        for (int r = 0; r < count; ++r) {
          if (r % rows_per_prefetch == 0) prefetcher.prefetch();
#pragma GCC unroll 2
          for (int c = 0; c < columns; ++c) {
            float* const at = o + r * x.c_pitch + (tile + c) * tile_extent;
            V::Vector sum = V::load(x.s.product + r * panel + c * tile_extent);
            if constexpr (!splits_vectors) sum *= V::splat(factor[r]);
            V::store(at, add ? V::load(at) + sum : sum);
          }
        }
      });
  }

  template <int parts>
  void update_in_parts(Prefetcher<block>& prefetcher, int first, int last, const StateUpdate<float> add_to) {
    const Output& x = outputs_[0];
    const std::ptrdiff_t state_rows = (std::min)(x.a_pitch, x.depth);
    for (std::ptrdiff_t row = 0; row < state_rows; row += panel) {
      for (int key = first; key < last; key += panel)
        make_left<parts>(x, row, key, x.s.parts + (key - first) * tile_extent);
      for (std::ptrdiff_t tile = 0; tile < x.column_tiles; tile += 2)
        with_block_size(row + tile_extent < state_rows, tile + 1 < x.column_tiles,
                        [&]<int rows, int columns> {
                          TileBlock<Unit, rows, columns> sums{*unit_};
                          sums.zero();
                          multiply_parts<parts>(sums, x, first, last, tile);
                          sums.store(x.s.product);
                          for (int r = 0; r < rows * tile_extent; ++r) {
                            if (r % rows_per_prefetch == 0) prefetcher.prefetch();
#pragma GCC unroll 2
                            for (int c = 0; c < columns; ++c) {
                              const std::ptrdiff_t at = (row + r) * x.c_pitch + (tile + c) * tile_extent;
                              V::Vector sum = V::load(x.s.product + r * panel + c * tile_extent);
                              if (add_to.from != nullptr) sum += V::load(add_to.from + at);
                              V::store(add_to.to + at, sum);
                              if (add_to.base != nullptr)
                                V::store(add_to.h + at, V::load(add_to.base + at) + sum);
                            }
                          }
                        });
    }
    const std::ptrdiff_t rest = state_rows * x.c_pitch, rest_count = (x.a_pitch - state_rows) * x.c_pitch;
    std::fill_n(add_to.to + rest, rest_count, 0.f);
    if (add_to.base != nullptr) std::fill_n(add_to.h + rest, rest_count, 0.f);
  }
  /// The factors of 16 keys; of none that are split.
  static V::Vector key_factor(const Output& x, int key) {
    if constexpr (splits_vectors)
      return V::Vector{};
    else
      return V::load(x.s.factor + key);
  }
  /// The panel of b^T from row `row` on and 32 keys from `key` on, times the keys' factors, in parts.
  template <int parts>
  void make_left(const Output& x, std::ptrdiff_t row, int key, std::uint32_t* to) {
    if constexpr (splits_vectors) {
      const float* const b_t = x.b_t + key / block * block * x.a_pitch + row * block + key % block;
      split_panel<parts>(b_t, (std::min)(panel, bc_rows_ - key),
                         (std::min)(std::ptrdiff_t{panel}, x.a_pitch - row), to);
    } else {
      scale_pairs<parts>(x, row, key, to);
    }
  }
  /// The same from b^T as it is packed for vectors: `rows` rows of `count` keys.
  template <int parts>
  static void split_panel(const float* b_t, int count, std::ptrdiff_t rows, std::uint32_t* to) {
    const V::Bits low_present = V::iota() < V::Bits{} + count;
    const V::Bits high_present = V::iota() + tile_extent < V::Bits{} + count;
    for (std::ptrdiff_t r = 0; r < rows; ++r, b_t += block, to += tile_extent)
      store_parts<parts>(V::select(low_present, V::load(b_t), V::Vector{}),
                         V::select(high_present, V::load(b_t + tile_extent), V::Vector{}), to, part_step);
  }
  /// The same from b's pairs.
  template <int parts>
  void scale_pairs(const Output& x, std::ptrdiff_t row, int key, std::uint32_t* to) {
    const V::Vector low_factor = key_factor(x, key), high_factor = key_factor(x, key + tile_extent);
    const std::uint32_t* const low = x.s.b_pairs + key * x.depth / 2 + row / 2 * tile_extent;
    const std::uint32_t* const high = low + x.depth / 2 * tile_extent;
    for (int r = 0; r < tile_extent; ++r, to += 2 * tile_extent) {
      const auto low_pairs = V::load_as<V::Pairs>(low + r * tile_extent);
      const auto high_pairs = V::load_as<V::Pairs>(high + r * tile_extent);
      store_parts<parts>(V::widen_low(low_pairs) * low_factor, V::widen_low(high_pairs) * high_factor, to,
                         part_step);
      store_parts<parts>(V::widen_high(low_pairs) * low_factor, V::widen_high(high_pairs) * high_factor,
                         to + tile_extent, part_step);
    }
  }

  Unit* unit_ = nullptr;
  int output_count_ = 0;
  bool exact_parts_ = false;
  Output outputs_[2];
  int bc_rows_ = 0;                 // of b and c in the chunk
  std::ptrdiff_t filled_rows_ = 0;  // the same, rounded up to panels
  bool has_outputs_ = false;
  int arranged_ = 0;  // outputs whose b and c are packed
  int packed_ = 0;    // of them, those of one head that are packed
  bool in_range_ = true;
};

/// The matrix unit that may serve walks of these elements with vectors of so many bytes.
template <Element T, int block, int vector_bytes>
using MatrixUnitOf = std::conditional_t<(tile_parts_of<T> > 0) && block % (2 * tile_extent) == 0 &&
                                            TargetMatrixUnit::least_vector_bytes <= vector_bytes,
                                        TargetMatrixUnit, NoMatrixUnit>;
template <Element T, int block, class Unit>
using TileWalkOf = std::conditional_t<Unit::exists, TileWalk<T, block, Unit>, NoTileWalk<T, block, Unit>>;

#else

template <Element T, int block, int vector_bytes>
using MatrixUnitOf = NoMatrixUnit;
template <Element T, int block, class Unit>
using TileWalkOf = NoTileWalk<T, block, Unit>;

#endif

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif
