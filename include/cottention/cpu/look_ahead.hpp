// Prefetching of the rows that a walk needs next.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cottention/cpu/rows.hpp>

namespace cottention::cpu {

/// Brings the rows that are needed next closer, in between the register tiles of this chunk and as evenly as
/// can be: the loads of the products wait behind what is outstanding. Rows of b and c take turns with those
/// of a and what goes with it; several tensors at once overlap their searches for a page's address.
template <int chunk>
class LookAhead {
 public:
  /// Forgets everything; fetch() will be called `tiles` times.
  void open(std::int64_t tiles) {
    tiles_ = tiles;
    a_ = bc_ = {};
  }

  /// At the head's rows of a, of what is projected through and of what is written, from t on.
  template <class T>
  void look_at_a(const RoleRows<const T>& a, const RoleRows<const T>& projected, const RoleRows<T>& out,
                 std::int64_t length, std::int64_t head, std::int64_t t) {
    if (t >= length) return;
    a_ = {{lines(a, head, t), lines(out, head, t), lines(projected, head, t)},
          static_cast<int>(std::min<std::int64_t>(chunk, length - t))};
    share_out();
  }
  /// At the head's rows of b and c.
  template <class T>
  void look_at_bc(const RoleRows<const T>& b, const RoleRows<const T>& c, std::int64_t length,
                  std::int64_t head, std::int64_t t) {
    if (t >= length) return;
    bc_ = {{lines(b, head, t), lines(c, head, t), {}},
           static_cast<int>(std::min<std::int64_t>(chunk, length - t))};
    share_out();
  }

  /// The next few rows. Called for each register tile, whose code it would only crowd if it were inlined.
  [[gnu::noinline]] void fetch() {
    const bool bc = bc_.left > 0 && (bc_turn_ || a_.left <= 0);
    bc_turn_ = !bc;
    Group& group = bc ? bc_ : a_;
    const int rows = (std::min)(rows_each_, group.left);
    if (rows <= 0) return;
    for (Lines& lines : group.lines) fetch(lines, rows);
    group.left -= rows;
  }

 private:
  /// What the lines are brought for, and how near.
  enum class Use { none, read, read_near, write };
  struct Lines {
    const std::byte* row = nullptr;
    std::ptrdiff_t stride = 0, bytes = 0;
    Use use = Use::none;
  };
  struct Group {
    Lines lines[3];
    int left = 0;  // rows
  };

  template <class E>
  static Lines lines(const RoleRows<E>& role, std::int64_t head, std::int64_t t) {
    constexpr auto size = static_cast<std::ptrdiff_t>(sizeof(E));
    if (role.rows.data == nullptr) return {};
    const Rows<E> rows = role.of(head, t);
    // The first-level cache has room for rows that lie back to back; with a large stride between them they
    // would all want the same few of its sets.
    const Use use = !std::is_const_v<E> ? Use::write : rows.stride == rows.dim ? Use::read_near : Use::read;
    return {reinterpret_cast<const std::byte*>(rows.data), rows.stride * size, rows.dim * size, use};
  }

  void share_out() {
    rows_each_ = static_cast<int>((a_.left + bc_.left + tiles_ - 1) / tiles_);
    bc_turn_ = true;
  }

  [[gnu::always_inline]] static void fetch(Lines& lines, int rows) {
    constexpr std::ptrdiff_t line = 64;
    if (lines.use == Use::none) return;
    for (; rows > 0; --rows) {
      const std::byte* const end = lines.row + lines.bytes;
      if (lines.use == Use::write)
        for (const std::byte* p = lines.row; p < end; p += line) __builtin_prefetch(p, 1, 2);
      else if (lines.use == Use::read)
        for (const std::byte* p = lines.row; p < end; p += line) __builtin_prefetch(p, 0, 2);
      else
        for (const std::byte* p = lines.row; p < end; p += line) __builtin_prefetch(p, 0, 3);
      lines.row += lines.stride;
    }
  }

  Group a_, bc_;
  std::int64_t tiles_ = 1;
  int rows_each_ = 0;
  bool bc_turn_ = true;
};

}  // namespace cottention::cpu
