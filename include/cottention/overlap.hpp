// Where the arrays of a call lie in memory: their bytes, and whether elements that are written share an
// address with each other or with another array's.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cottention/arguments.hpp>
#include <cottention/status.hpp>
#include <cottention/tensor.hpp>

namespace cottention {
namespace detail {

/// The widest virtual address there is (x86-64 with 5-level paging) has 57 bits, so nothing larger can exist.
/// Sums and differences of a few byte offsets below this limit fit in int64.
inline constexpr std::int64_t largest_span = std::int64_t{1} << 57;

/// CallStatus::failure formats 64-bit numbers with %lld, and int64_t is not long long everywhere.
constexpr long long number(std::int64_t x) { return x; }

enum class Access { read, written };
enum class Need { optional, required };
enum class Layout { dense, strided };

/// One array of a call. A dense array has all of its extents adjacent, as a contiguous tensor has.
struct Operand {
  const char* name = "";  ///< as the user wrote it
  const void* data = nullptr;
  std::int64_t element_bytes = 1;
  std::array<std::int64_t, 4> extents{};  ///< [batch, seq, heads, dim]
  Strides strides{};
  Access access = Access::read;
  Need need = Need::optional;
  Layout layout = Layout::dense;
  // Written by locate; low = high where there is no memory to speak of.
  std::array<std::int64_t, 4> steps{};  ///< strides of all four axes
  std::uint64_t low = 0;                ///< first byte
  std::uint64_t high = 0;               ///< one past the last byte

  const char* member() const { return layout == Layout::strided ? ".data" : ""; }
  std::uint64_t address() const { return reinterpret_cast<std::uintptr_t>(data); }
};

/// The product of extents, with zeros taken for ones, so that resolve() cannot overflow either.
inline CallStatus count_elements(const char* name, const std::array<std::int64_t, 4>& extents,
                                 std::int64_t& elements) {
  elements = 1;
  for (const std::int64_t extent : extents)
    if (__builtin_mul_overflow(elements, std::max<std::int64_t>(extent, 1), &elements) ||
        elements > largest_span)
      return CallStatus::failure(
          StatusCode::bad_shape, "shape of %s = [%lld, %lld, %lld, %lld]: must have at most 2^57 elements",
          name, number(extents[0]), number(extents[1]), number(extents[2]), number(extents[3]));
  return {};
}

/// Checks the extents, the pointer and the strides of `x` one by one and finds the bytes they cover.
inline CallStatus locate(Operand& x) {
  std::int64_t elements = 0;
  if (CallStatus status = count_elements(x.name, x.extents, elements); !status) return status;
  if (std::find(x.extents.begin(), x.extents.end(), 0) != x.extents.end()) return {};
  if (x.data == nullptr) {
    if (x.need == Need::optional) return {};
    return CallStatus::failure(StatusCode::null_pointer, "%s%s = null: must point to %lld elements", x.name,
                               x.member(), number(elements));
  }
  if ((x.address() & static_cast<std::uint64_t>(x.element_bytes - 1)) != 0)  // sizes are powers of two
    return CallStatus::failure(StatusCode::bad_option, "%s%s = %p: must be aligned to %lld bytes", x.name,
                               x.member(), x.data, number(x.element_bytes));

  const Strides strides = resolve(x.strides, x.extents[1], x.extents[2], x.extents[3]);
  x.steps = {strides.batch, strides.seq, strides.head, 1};
  std::int64_t below = 0;  // bytes before data
  std::int64_t above = 0;  // bytes from data to the first byte of the last element
  bool fits = true;
  for (std::size_t axis = 0; axis < 4 && fits; ++axis) {
    const std::int64_t last = x.extents[axis] - 1;
    std::int64_t reach = 0;
    fits = !__builtin_mul_overflow(x.steps[axis], last * x.element_bytes, &reach) && reach >= -largest_span &&
           reach <= largest_span;
    if (fits) (reach < 0 ? below : above) += reach < 0 ? -reach : reach;
  }
  const auto before = static_cast<std::uint64_t>(below);
  const auto after = static_cast<std::uint64_t>(above + x.element_bytes);
  if (!fits || below + above > largest_span || before > x.address() || after > UINT64_MAX - x.address())
    return CallStatus::failure(
        StatusCode::bad_stride,
        "%s.strides = {%lld, %lld, %lld}: elements must lie within 2^57 bytes of addresses", x.name,
        number(strides.batch), number(strides.seq), number(strides.head));
  x.low = x.address() - before;
  x.high = x.address() + after;
  return {};
}

/// Finds out whether some sum of index_i * step_i equals a target, each index being free in a range of its
/// own. That is what it means for two elements of strided tensors to share an address. Axes of equal step,
/// such as the tokens of q and k in one packed buffer, act as one axis with the sum of their ranges.
class AddressSearch {
 public:
  void add(std::int64_t step, std::int64_t first, std::int64_t last) {
    if (step == 0) return;
    if (step < 0) return add(-step, -last, -first);
    std::size_t i = 0;
    while (i < size_ && terms_[i].step > step) ++i;
    if (i == size_ || terms_[i].step != step) {
      for (std::size_t at = size_++; at > i; --at) terms_[at] = terms_[at - 1];
      terms_[i] = {.step = step, .first = 0, .last = 0};
    }
    terms_[i].first += first;
    terms_[i].last += last;
  }

  bool reaches(std::int64_t target) {
    lowest_[size_] = highest_[size_] = 0;
    for (std::size_t i = size_; i-- > 0;) {
      lowest_[i] = lowest_[i + 1] + terms_[i].step * terms_[i].first;
      highest_[i] = highest_[i + 1] + terms_[i].step * terms_[i].last;
    }
    return descend(0, target);
  }

 private:
  struct Term {
    std::int64_t step, first, last;
  };

  /// Depth first over the terms in falling order of step, trying only those indices that leave a remainder
  /// within what the smaller steps can still make up. (Division towards zero lets at most one more in on each
  /// side.)
  bool descend(std::size_t i, std::int64_t target) {
    if (target < lowest_[i] || target > highest_[i]) return false;
    if (i == size_) return true;
    const auto [step, least, most] = terms_[i];
    const std::int64_t first = (std::max)(least, (target - highest_[i + 1]) / step);
    const std::int64_t last = (std::min)(most, (target - lowest_[i + 1]) / step);
    for (std::int64_t index = first; index <= last; ++index) {
      if (nodes_-- <= 0) return false;
      if (descend(i + 1, target - index * step)) return true;
    }
    return false;
  }

  // In general the question is as hard as a knapsack. Layouts cut from one buffer, and genuine overlaps of
  // whole tensors, are settled in a handful of nodes. What is not settled within the budget (some 50
  // microseconds) counts as no overlap: to refuse a legal layout would be worse than to miss an overlap
  // nobody writes.
  int nodes_ = 10'000;
  std::size_t size_ = 0;
  std::array<Term, 8> terms_{};
  std::array<std::int64_t, 9> lowest_{};   ///< least sum of terms i and beyond
  std::array<std::int64_t, 9> highest_{};  ///< greatest sum of terms i and beyond
};

/// No two elements of an output may share an address. Take the axes in falling order of stride: two elements
/// differ along some axis first, and the axes after it must not be able to make up for that difference.
inline CallStatus validate_distinct(const Operand& x) {
  constexpr std::array<const char*, 3> names{"batch", "seq", "head"};
  const auto size = [&](std::size_t axis) { return x.steps[axis] < 0 ? -x.steps[axis] : x.steps[axis]; };
  std::array<std::size_t, 4> order{0, 1, 2, 3};  // dim stays last: its stride is the smallest but for 0
  std::sort(order.begin(), order.end() - 1,
            [&](std::size_t a, std::size_t b) { return size(a) != size(b) ? size(a) > size(b) : a < b; });
  for (std::size_t i = 3; i-- > 0;) {  // the innermost axis at fault is the one to name
    const std::size_t axis = order[i];
    const std::int64_t last = x.extents[axis] - 1;
    if (last == 0) continue;
    std::int64_t reach = 0;
    for (std::size_t j = i + 1; j < 4; ++j) reach += size(order[j]) * (x.extents[order[j]] - 1);
    if (size(axis) > reach) continue;  // the ordinary case: the axes nest
    AddressSearch search;
    search.add(x.steps[axis], 1, last);
    for (std::size_t j = i + 1; j < 4; ++j)
      search.add(x.steps[order[j]], 1 - x.extents[order[j]], x.extents[order[j]] - 1);
    if (search.reaches(0)) {
      const Strides dense = resolve({}, x.extents[1], x.extents[2], x.extents[3]);
      const std::array<std::int64_t, 3> steps{dense.batch, dense.seq, dense.head};
      return CallStatus::failure(
          StatusCode::bad_stride,
          "%s.strides.%s = %lld: elements of an output must not share an address (%lld is contiguous)",
          x.name, names[axis], number(x.steps[axis]), number(steps[axis]));
    }
  }
  return {};
}

/// The bytes of an array: runs of `run` bytes, the first at `low`, repeated along up to three axes. What is
/// contiguous is one run.
struct Footprint {
  std::uint64_t low = 0;
  std::int64_t run = 0;
  std::size_t axes = 0;
  std::array<std::int64_t, 3> steps{}, last{};  ///< in bytes, ascending; the last index

  explicit Footprint(const Operand& x) : low(x.low), run(x.element_bytes * x.extents[3]) {
    for (std::size_t axis = 3; axis-- > 0;) {
      if (x.extents[axis] == 1 || x.steps[axis] == 0) continue;  // nothing, or an input that is repeated
      std::size_t at = axes++;
      for (; at > 0 && steps[at - 1] > size(x, axis); --at) {
        steps[at] = steps[at - 1];
        last[at] = last[at - 1];
      }
      steps[at] = size(x, axis);
      last[at] = x.extents[axis] - 1;
    }
    while (axes > 0 && steps[0] == run) {
      run *= last[0] + 1;
      std::copy(steps.begin() + 1, steps.end(), steps.begin());
      std::copy(last.begin() + 1, last.end(), last.begin());
      --axes;
    }
  }

 private:
  static std::int64_t size(const Operand& x, std::size_t axis) {
    return (x.steps[axis] < 0 ? -x.steps[axis] : x.steps[axis]) * x.element_bytes;
  }
};

/// Whether `a` and `b` have a byte in common. One may lie in gaps of the other.
inline bool share_memory(const Operand& a, const Operand& b) {
  if (a.high <= b.low || b.high <= a.low) return false;
  const Footprint of_a(a), of_b(b);
  AddressSearch search;
  for (std::size_t axis = 0; axis < of_a.axes; ++axis) search.add(of_a.steps[axis], 0, of_a.last[axis]);
  for (std::size_t axis = 0; axis < of_b.axes; ++axis) search.add(-of_b.steps[axis], 0, of_b.last[axis]);
  search.add(1, 1 - of_b.run, of_a.run - 1);
  return search.reaches(static_cast<std::int64_t>(b.low - a.low));
}

/// All arrays of one call.
class Operands {
 public:
  /// `packed` tensors have no batch axis.
  template <class T>
  void tensor(const char* name, const Tensor<T>& x, Need need, bool packed,
              std::array<std::int64_t, 4> extents) {
    if (packed) extents[0] = 1;
    list_[size_++] = Operand{.name = name,
                             .data = x.data,
                             .element_bytes = sizeof(T),
                             .extents = extents,
                             .strides = x.strides,
                             .access = access<T>,
                             .need = need,
                             .layout = Layout::strided};
  }

  template <class T>
  void array(const char* name, T* data, Need need, std::array<std::int64_t, 4> extents) {
    list_[size_++] = Operand{.name = name,
                             .data = data,
                             .element_bytes = sizeof(T),
                             .extents = extents,
                             .access = access<T>,
                             .need = need};
  }
  template <class T>
  void array(const char* name, T* data, std::int64_t extent) {
    array(name, data, Need::optional, {1, 1, 1, extent});
  }

  template <class A>
  void scale_logit(const char* name, const ScaleLogit<A>& m, std::int64_t heads) {
    if (m.narrow != nullptr)
      array(name, m.narrow, heads);
    else
      array(name, m.data, heads);
  }

  /// Offsets keeps one pointer of two, by type.
  void offsets(const char* name, const Offsets& x, std::int64_t batch) {
    const std::int64_t entries = batch < largest_span ? batch + 1 : batch;  // locate refuses the latter
    const auto [as_int32, as_int64] = std::bit_cast<std::array<const void*, 2>>(x);
    if (as_int32 != nullptr)
      array(name, static_cast<const std::int32_t*>(as_int32), entries);
    else
      array(name, static_cast<const std::int64_t*>(as_int64), entries);
  }

  CallStatus refusal() {
    for (std::size_t i = 0; i < size_; ++i)
      if (CallStatus s = locate(list_[i]); !s) return s;
    for (std::size_t i = 0; i < size_; ++i) {
      if (list_[i].access == Access::read || list_[i].low == list_[i].high) continue;
      if (list_[i].layout == Layout::strided)
        if (CallStatus s = validate_distinct(list_[i]); !s) return s;
      for (std::size_t j = 0; j < size_; ++j)  // each pair once
        if ((j > i || (j < i && list_[j].access == Access::read)) && share_memory(list_[i], list_[j]))
          return CallStatus::failure(StatusCode::bad_stride,
                                     "%s%s = %p: is written, so must share no memory with %s%s = %p",
                                     list_[i].name, list_[i].member(), list_[i].data, list_[j].name,
                                     list_[j].member(), list_[j].data);
    }
    return {};
  }

 private:
  template <class T>
  static constexpr Access access = std::is_const_v<T> ? Access::read : Access::written;

  std::array<Operand, 19> list_{};  // backward has the most, 18, and that of a part one more
  std::size_t size_ = 0;
};

}  // namespace detail
}  // namespace cottention
