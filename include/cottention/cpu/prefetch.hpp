// Software prefetch of the rows that a walk needs next.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cottention/cpu/row_view.hpp>

namespace cottention::cpu {

/// Prefetches the rows of the next head or chunk between the register tiles of the current chunk, the same
/// number at each tile: the loads of the products queue behind outstanding prefetches, so bursts would stall
/// them. Rows of b and c alternate with those of a and of the tensors with a's rows, since TLB misses of
/// several tensors overlap.
template <int chunk>
class Prefetcher {
 public:
  /// Empties both queues. The caller then calls prefetch() `tiles` times.
  void start(std::int64_t tiles) {
    tiles_ = tiles;
    a_ = bc_ = {};
  }

  /// Queues the head's rows of a, of the norm's input and of the output: one chunk from row t on.
  template <class T>
  void enqueue_a(const OperandView<const T>& a, const OperandView<const T>& norm_input,
                 const OperandView<T>& out, std::int64_t length, std::int64_t head, std::int64_t t) {
    if (t >= length) return;
    a_ = {{lines(a, head, t), lines(out, head, t), lines(norm_input, head, t)},
          static_cast<int>(std::min<std::int64_t>(chunk, length - t))};
    distribute();
  }
  /// Queues the head's rows of b and c: one chunk from row t on.
  template <class T>
  void enqueue_bc(const OperandView<const T>& b, const OperandView<const T>& c, std::int64_t length,
                  std::int64_t head, std::int64_t t) {
    if (t >= length) return;
    bc_ = {{lines(b, head, t), lines(c, head, t), {}},
           static_cast<int>(std::min<std::int64_t>(chunk, length - t))};
    distribute();
  }

  /// Prefetches the next few rows. The function is not inlined: its code would crowd that of every register
  /// tile.
  [[gnu::noinline]] void prefetch() {
    const bool bc = bc_.left > 0 && (bc_turn_ || a_.left <= 0);
    bc_turn_ = !bc;
    Queue& queue = bc ? bc_ : a_;
    const int rows = (std::min)(rows_each_, queue.left);
    if (rows <= 0) return;
    for (Lines& lines : queue.lines) prefetch(lines, rows);
    queue.left -= rows;
  }

 private:
  /// What the prefetched lines are for.
  enum class Use { none, read, write };
  struct Lines {
    const std::byte* row = nullptr;
    std::ptrdiff_t stride = 0, bytes = 0;
    Use use = Use::none;
  };
  struct Queue {
    Lines lines[3];
    int left = 0;  // rows that are not prefetched
  };

  template <class E>
  static Lines lines(const OperandView<E>& operand, std::int64_t head, std::int64_t t) {
    constexpr auto size = static_cast<std::ptrdiff_t>(sizeof(E));
    if (operand.rows.data == nullptr) return {};
    const RowView<E> rows = operand.of(head, t);
    const Use use = std::is_const_v<E> ? Use::read : Use::write;
    return {reinterpret_cast<const std::byte*>(rows.data), rows.stride * size, rows.dim * size, use};
  }

  void distribute() {
    rows_each_ = static_cast<int>((a_.left + bc_.left + tiles_ - 1) / tiles_);
    bc_turn_ = true;
  }

  [[gnu::always_inline]] static void prefetch(Lines& lines, int rows) {
    constexpr std::ptrdiff_t line = 64;
    if (lines.use == Use::none) return;
    for (; rows > 0; --rows) {
      const std::byte* const end = lines.row + lines.bytes;
      if (lines.use == Use::write)
        for (const std::byte* p = lines.row; p < end; p += line) __builtin_prefetch(p, 1, 2);
      else
        for (const std::byte* p = lines.row; p < end; p += line) __builtin_prefetch(p, 0, 3);
      lines.row += lines.stride;
    }
  }

  Queue a_, bc_;
  std::int64_t tiles_ = 1;
  int rows_each_ = 0;
  bool bc_turn_ = true;
};

}  // namespace cottention::cpu
