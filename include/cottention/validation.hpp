// The rules that arguments obey, the same for every backend, checked before anything is launched or written.
//
// `validate` looks at the argument structs alone, so it serves pointers into host and device memory alike.
// `validate_contents` reads the index arrays behind the pointers and needs them in host memory. Neither
// throws, allocates or prints. Call them in this order: the contents are read on the strength of what
// `validate` found.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cottention/arguments.hpp>
#include <cottention/problem.hpp>
#include <cottention/status.hpp>
#include <cottention/tensor.hpp>

namespace cottention {
namespace detail {

/// The widest virtual address there is (x86-64 with 5-level paging) has 57 bits, so nothing larger can exist.
/// Sums and differences of a few byte offsets below this limit fit in int64.
inline constexpr std::int64_t largest_span = std::int64_t{1} << 57;

/// Status::failure formats 64-bit numbers with %lld, and int64_t is not long long everywhere.
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

/// Checks the extents, the pointer and the strides of `x` one by one and finds the bytes they cover.
inline Status locate(Operand& x) {
  std::int64_t elements = 1;  // with zeros taken for ones, so that resolve() cannot overflow either
  bool empty = false;
  for (const std::int64_t extent : x.extents) {
    empty = empty || extent == 0;
    if (__builtin_mul_overflow(elements, std::max<std::int64_t>(extent, 1), &elements) ||
        elements > largest_span)
      return Status::failure(
          StatusCode::bad_shape, "shape of %s = [%lld, %lld, %lld, %lld]: must have at most 2^57 elements",
          x.name, number(x.extents[0]), number(x.extents[1]), number(x.extents[2]), number(x.extents[3]));
  }
  if (empty) return {};
  if (x.data == nullptr) {
    if (x.need == Need::optional) return {};
    return Status::failure(StatusCode::null_pointer, "%s%s = null: must point to %lld elements", x.name,
                           x.member(), number(elements));
  }
  if ((x.address() & static_cast<std::uint64_t>(x.element_bytes - 1)) != 0)  // sizes are powers of two
    return Status::failure(StatusCode::bad_option, "%s%s = %p: must be aligned to %lld bytes", x.name,
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
    return Status::failure(
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
      std::copy_backward(terms_.begin() + i, terms_.begin() + size_, terms_.begin() + size_ + 1);
      terms_[i] = {.step = step, .first = 0, .last = 0};
      ++size_;
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
    const std::int64_t first = std::max(least, (target - highest_[i + 1]) / step);
    const std::int64_t last = std::min(most, (target - lowest_[i + 1]) / step);
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
inline Status validate_distinct(const Operand& x) {
  constexpr std::array<const char*, 3> names{"batch", "seq", "head"};
  const auto size = [&](std::size_t axis) { return x.steps[axis] < 0 ? -x.steps[axis] : x.steps[axis]; };
  std::array<std::size_t, 4> order{0, 1, 2, 3};  // dim stays last: its stride is the smallest but for 0
  std::sort(order.begin(), order.end() - 1,
            [&](std::size_t a, std::size_t b) { return size(a) != size(b) ? size(a) > size(b) : a < b; });
  for (std::size_t i = 0; i < 3; ++i) {
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
      return Status::failure(
          StatusCode::bad_stride,
          "%s.strides.%s = %lld: elements of an output must not share an address (%lld is contiguous)",
          x.name, names[axis], number(x.steps[axis]), number(steps[axis]));
    }
  }
  return {};
}

/// Whether an element of `a` shares memory with one of `b`. Between a tensor and a dense array the ranges of
/// bytes decide: nobody keeps one in the gaps of the other.
inline bool share_memory(const Operand& a, const Operand& b) {
  if (a.high <= b.low || b.high <= a.low) return false;
  if (a.layout == Layout::dense || b.layout == Layout::dense) return true;
  AddressSearch search;
  for (std::size_t axis = 0; axis < 4; ++axis) {
    search.add(a.steps[axis], 0, a.extents[axis] - 1);
    search.add(-b.steps[axis], 0, b.extents[axis] - 1);
  }
  return search.reaches(static_cast<std::int64_t>(b.address() - a.address()) / a.element_bytes);
}

/// All arrays of one call.
class Operands {
 public:
  /// `packed` tensors have no batch axis.
  template <class T>
  void tensor(const char* name, const Tensor<T>& x, Need need, bool packed,
              std::array<std::int64_t, 4> extents) {
    if (packed) extents[0] = 1;
    list_[size_++] = {.name = name,
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
    list_[size_++] = {.name = name,
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

  /// Offsets keeps one pointer of two, by type.
  void offsets(const char* name, const Offsets& x, std::int64_t batch) {
    const std::int64_t entries = batch < largest_span ? batch + 1 : batch;  // locate refuses the latter
    const auto [as_int32, as_int64] = std::bit_cast<std::array<const void*, 2>>(x);
    if (as_int32 != nullptr)
      array(name, static_cast<const std::int32_t*>(as_int32), entries);
    else
      array(name, static_cast<const std::int64_t*>(as_int64), entries);
  }

  Status check() {
    for (std::size_t i = 0; i < size_; ++i)
      if (Status s = locate(list_[i]); !s) return s;
    for (std::size_t i = 0; i < size_; ++i) {
      if (list_[i].access == Access::read || list_[i].low == list_[i].high) continue;
      if (list_[i].layout == Layout::strided)
        if (Status s = validate_distinct(list_[i]); !s) return s;
      for (std::size_t j = 0; j < size_; ++j)  // each pair once
        if ((j > i || (j < i && list_[j].access == Access::read)) && share_memory(list_[i], list_[j]))
          return Status::failure(StatusCode::bad_stride,
                                 "%s%s = %p: is written, so must share no memory with %s%s = %p",
                                 list_[i].name, list_[i].member(), list_[i].data, list_[j].name,
                                 list_[j].member(), list_[j].data);
    }
    return {};
  }

 private:
  template <class T>
  static constexpr Access access = std::is_const_v<T> ? Access::read : Access::written;

  std::array<Operand, 18> list_{};  // backward has the most, 17
  std::size_t size_ = 0;
};

enum class Lengths { equal, free };

/// Extents of one problem, `fixed` being its head dimensions where they are known at compile time.
inline Status validate_shape(const Shape& shape, HeadDim fixed, Lengths lengths) {
  struct Extent {
    const char* name;
    std::int64_t value, least;
  };
  for (const Extent& x :
       {Extent{"batch", shape.batch, 0}, Extent{"seq_q", shape.seq_q, 0}, Extent{"seq_k", shape.seq_k, 0},
        Extent{"heads_q", shape.heads_q, 0}, Extent{"heads_kv", shape.heads_kv, 0},
        Extent{"dim_qk", shape.dim_qk, 1}, Extent{"dim_v", shape.dim_v, 1}})
    if (x.value < x.least)
      return Status::failure(StatusCode::bad_shape, "shape.%s = %lld: must be at least %lld", x.name,
                             number(x.value), number(x.least));
  if (shape.heads_kv == 0 ? shape.heads_q != 0 : shape.heads_q % shape.heads_kv != 0)
    return Status::failure(StatusCode::bad_shape,
                           "shape.heads_q = %lld: must be a multiple of shape.heads_kv = %lld",
                           number(shape.heads_q), number(shape.heads_kv));
  if (lengths == Lengths::equal && shape.seq_k != shape.seq_q)
    return Status::failure(StatusCode::bad_shape,
                           "shape.seq_k = %lld: must equal shape.seq_q = %lld when causal",
                           number(shape.seq_k), number(shape.seq_q));
  if (fixed != any_head_dim && shape.dim_qk != fixed.qk)
    return Status::failure(StatusCode::bad_shape,
                           "shape.dim_qk = %lld: must be %d, the dim_qk of the Problem", number(shape.dim_qk),
                           fixed.qk);
  if (fixed != any_head_dim && shape.dim_v != fixed.v)
    return Status::failure(StatusCode::bad_shape, "shape.dim_v = %lld: must be %d, the dim_v of the Problem",
                           number(shape.dim_v), fixed.v);
  return {};
}

template <AnyProblem P>
Status validate_shape(const Shape& shape) {
  return validate_shape(shape, P::head_dim, P::mask == Mask::causal ? Lengths::equal : Lengths::free);
}

/// What the arguments of forward and backward have in common besides their tensors.
template <class Arguments>
Status validate_options(const Arguments& args) {
  if (args.cu_seqlens_q.given() != args.cu_seqlens_k.given())
    return Status::failure(StatusCode::null_pointer, "%s = null: must be given together with %s",
                           args.cu_seqlens_q.given() ? "cu_seqlens_k" : "cu_seqlens_q",
                           args.cu_seqlens_q.given() ? "cu_seqlens_q" : "cu_seqlens_k");
  const bool h = args.initial_state.h != nullptr;
  const bool count = args.initial_state.count != nullptr;
  if (args.shape.batch > 0 && args.shape.heads_kv > 0 && h != count)
    return Status::failure(StatusCode::null_pointer,
                           "initial_state.%s = null: must be given together with initial_state.%s",
                           h ? "count" : "h", h ? "h" : "count");
  if (args.plan != Plan::automatic && args.plan != Plan::batch_invariant)
    return Status::failure(StatusCode::bad_option,
                           "plan = %d: must be Plan::automatic or Plan::batch_invariant",
                           static_cast<int>(args.plan));
  return {};
}

/// The inputs that forward and backward have in common.
template <class Arguments>
void add_inputs(Operands& operands, const Arguments& args, Need need) {
  const Shape& s = args.shape;
  const bool packed = args.cu_seqlens_q.given();
  const std::int64_t rows = packed ? 1 : s.batch;
  operands.tensor("q", args.q, need, packed, {s.batch, s.seq_q, s.heads_q, s.dim_qk});
  operands.tensor("k", args.k, need, packed, {s.batch, s.seq_k, s.heads_kv, s.dim_qk});
  operands.tensor("v", args.v, need, packed, {s.batch, s.seq_k, s.heads_kv, s.dim_v});
  operands.array("scale_logit", args.scale_logit, s.heads_kv);
  operands.array("query_mask", args.query_mask, Need::optional, {1, 1, rows, s.seq_q});
  operands.array("key_mask", args.key_mask, Need::optional, {1, 1, rows, s.seq_k});
  if (packed) {
    operands.offsets("cu_seqlens_q", args.cu_seqlens_q, s.batch);
    operands.offsets("cu_seqlens_k", args.cu_seqlens_k, s.batch);
  }
}

inline Status validate_offsets(const char* name, const Offsets& offsets, std::int64_t batch,
                               const char* length_name, std::int64_t length) {
  if (offsets[0] != 0)
    return Status::failure(StatusCode::bad_offsets, "%s[0] = %lld: must be 0", name, number(offsets[0]));
  for (std::int64_t b = 1; b <= batch; ++b)
    if (offsets[b] < offsets[b - 1])
      return Status::failure(StatusCode::bad_offsets, "%s[%lld] = %lld: must not be below %s[%lld] = %lld",
                             name, number(b), number(offsets[b]), name, number(b - 1),
                             number(offsets[b - 1]));
  if (offsets[batch] != length)
    return Status::failure(StatusCode::bad_offsets, "%s[%lld] = %lld: must equal shape.%s = %lld", name,
                           number(batch), number(offsets[batch]), length_name, number(length));
  return {};
}

template <Mask mask, class Arguments>
Status validate_index_arrays(const Arguments& args) {
  const std::int64_t batch = args.shape.batch;
  if (args.cu_seqlens_q.given()) {
    if (Status s = validate_offsets("cu_seqlens_q", args.cu_seqlens_q, batch, "seq_q", args.shape.seq_q); !s)
      return s;
    if (Status s = validate_offsets("cu_seqlens_k", args.cu_seqlens_k, batch, "seq_k", args.shape.seq_k); !s)
      return s;
    if constexpr (mask == Mask::causal)
      for (std::int64_t b = 1; b < batch; ++b)
        if (args.cu_seqlens_k[b] != args.cu_seqlens_q[b])
          return Status::failure(
              StatusCode::bad_offsets,
              "cu_seqlens_k[%lld] = %lld: must equal cu_seqlens_q[%lld] = %lld when causal", number(b),
              number(args.cu_seqlens_k[b]), number(b), number(args.cu_seqlens_q[b]));
  }
  if (args.initial_state.count != nullptr)
    for (std::int64_t b = 0; b < batch; ++b)
      if (args.initial_state.count[b] < 0)
        return Status::failure(StatusCode::bad_option,
                               "initial_state.count[%lld] = %lld: must not be negative", number(b),
                               number(args.initial_state.count[b]));
  return {};
}

/// No slot may serve two lanes. `scratch` has room for one entry per lane.
inline Status validate_slots_differ(const std::int32_t* slot, std::int64_t batch, std::int32_t* scratch) {
  std::int32_t* end = std::copy_if(slot, slot + batch, scratch, [](std::int32_t s) { return s >= 0; });
  std::sort(scratch, end);
  const std::int32_t* twice = std::adjacent_find(scratch, end);
  if (twice == end) return {};
  const std::int32_t* first = std::find(slot, slot + batch, *twice);
  const std::int32_t* second = std::find(first + 1, slot + batch, *twice);
  return Status::failure(StatusCode::bad_slot,
                         "slot[%lld] = %d: must not be used twice, and is by slot[%lld]",
                         number(second - slot), *twice, number(first - slot));
}

}  // namespace detail

/// Checks the arguments of `forward` by everything but the contents of arrays. Pointers of empty tensors may
/// be null.
template <AnyProblem P>
Status validate(const ForwardArguments<typename P::element>& args) {
  using namespace detail;
  if (Status s = validate_shape<P>(args.shape); !s) return s;
  if (Status s = validate_options(args); !s) return s;
  const Shape& s = args.shape;
  const std::array<std::int64_t, 4> h_extents{s.batch, s.heads_kv, s.dim_qk, s.dim_v};
  Operands operands;
  add_inputs(operands, args, Need::required);
  operands.tensor("o", args.o, Need::required, args.cu_seqlens_q.given(),
                  {s.batch, s.seq_q, s.heads_q, s.dim_v});
  operands.array("final_state.h", args.final_state.h, Need::optional, h_extents);
  operands.array("final_state.count", args.final_state.count, s.batch);
  // A final state written in the very place of the initial one is one array, listed once.
  if (args.initial_state.h != args.final_state.h)
    operands.array("initial_state.h", args.initial_state.h, Need::optional, h_extents);
  if (args.initial_state.count != args.final_state.count)
    operands.array("initial_state.count", args.initial_state.count, s.batch);
  return operands.check();
}

/// Checks the arguments of `backward` likewise. Inputs are required once any output is wanted.
template <AnyProblem P>
Status validate(const BackwardArguments<typename P::element>& args) {
  using namespace detail;
  if (Status s = validate_shape<P>(args.shape); !s) return s;
  if (Status s = validate_options(args); !s) return s;
  const Shape& s = args.shape;
  const bool packed = args.cu_seqlens_q.given();
  const std::array<std::int64_t, 4> h_extents{s.batch, s.heads_kv, s.dim_qk, s.dim_v};
  const bool wanted = args.dq.data != nullptr || args.dk.data != nullptr || args.dv.data != nullptr ||
                      args.dscale_logit != nullptr || args.dinitial_state != nullptr;
  const Need need = wanted ? Need::required : Need::optional;
  Operands operands;
  add_inputs(operands, args, need);
  operands.tensor("dout", args.dout, need, packed, {s.batch, s.seq_q, s.heads_q, s.dim_v});
  operands.tensor("dq", args.dq, Need::optional, packed, {s.batch, s.seq_q, s.heads_q, s.dim_qk});
  operands.tensor("dk", args.dk, Need::optional, packed, {s.batch, s.seq_k, s.heads_kv, s.dim_qk});
  operands.tensor("dv", args.dv, Need::optional, packed, {s.batch, s.seq_k, s.heads_kv, s.dim_v});
  operands.array("dscale_logit", args.dscale_logit, s.heads_kv);
  operands.array("initial_state.h", args.initial_state.h, Need::optional, h_extents);
  operands.array("initial_state.count", args.initial_state.count, s.batch);
  operands.array("dfinal_state", args.dfinal_state, Need::optional, h_extents);
  operands.array("dinitial_state", args.dinitial_state, Need::optional, h_extents);
  return operands.check();
}

/// Checks the arguments of `step` likewise.
template <AnyProblem P>
Status validate(const StepArguments<typename P::element>& args) {
  using namespace detail;
  static_assert(
      P::mask == Mask::causal,
      "cottention: step needs a causal Problem, because a token that sees later ones has no recurrence. "
      "Remedy: write Mask::causal, or call forward with an initial_state.");
  if (Status s = validate_shape<P>(args.shape); !s) return s;
  const Shape& s = args.shape;
  if (args.slots < 0)
    return Status::failure(StatusCode::bad_shape, "slots = %lld: must be at least 0", number(args.slots));
  if (args.slot == nullptr && s.batch > args.slots)
    return Status::failure(StatusCode::bad_slot,
                           "slots = %lld: must be at least shape.batch = %lld when slot is null",
                           number(args.slots), number(s.batch));
  const Need needed_for_o = args.o.data != nullptr ? Need::required : Need::optional;
  const Need needed_for_pool = s.batch > 0 && s.seq_k > 0 && s.heads_kv > 0 ? Need::required : Need::optional;
  Operands operands;
  operands.tensor("q", args.q, needed_for_o, false, {s.batch, s.seq_q, s.heads_q, s.dim_qk});
  operands.tensor("k", args.k, Need::required, false, {s.batch, s.seq_k, s.heads_kv, s.dim_qk});
  operands.tensor("v", args.v, Need::required, false, {s.batch, s.seq_k, s.heads_kv, s.dim_v});
  operands.tensor("o", args.o, Need::optional, false, {s.batch, s.seq_q, s.heads_q, s.dim_v});
  operands.array("scale_logit", args.scale_logit, s.heads_kv);
  operands.array("pool.h", args.pool.h, needed_for_pool, {args.slots, s.heads_kv, s.dim_qk, s.dim_v});
  operands.array("pool.count", args.pool.count, needed_for_pool, {1, 1, 1, args.slots});
  operands.array("slot", args.slot, s.batch);
  operands.array("accepted", args.accepted, s.batch);
  return operands.check();
}

/// Checks the contents of the index arrays: cu_seqlens ascends from 0 to the length of the token axis, the
/// same for queries and keys when causal; counts are not negative. Needs arguments that `validate` accepts.
template <AnyProblem P>
Status validate_contents(const ForwardArguments<typename P::element>& args) {
  return detail::validate_index_arrays<P::mask>(args);
}
template <AnyProblem P>
Status validate_contents(const BackwardArguments<typename P::element>& args) {
  return detail::validate_index_arrays<P::mask>(args);
}

/// Likewise for step: slots lie in the pool and serve one lane each, `accepted` lies within 0 to T, counts of
/// the states in use are not negative. What belongs to idle lanes is not looked at. `scratch`: `batch`
/// entries to write to; unused where slot is null.
template <AnyProblem P>
Status validate_contents(const StepArguments<typename P::element>& args, std::int32_t* scratch) {
  using detail::number;
  for (std::int64_t b = 0; b < args.shape.batch; ++b) {
    const std::int64_t slot = args.slot != nullptr ? args.slot[b] : b;
    if (slot < 0) continue;
    if (slot >= args.slots)
      return Status::failure(StatusCode::bad_slot, "slot[%lld] = %lld: must be below slots = %lld", number(b),
                             number(slot), number(args.slots));
    if (args.accepted != nullptr && (args.accepted[b] < 0 || args.accepted[b] > args.shape.seq_k))
      return Status::failure(StatusCode::bad_option,
                             "accepted[%lld] = %d: must be at least 0 and at most shape.seq_k = %lld",
                             number(b), args.accepted[b], number(args.shape.seq_k));
    if (args.pool.count != nullptr && args.pool.count[slot] < 0)
      return Status::failure(StatusCode::bad_option, "pool.count[%lld] = %lld: must not be negative",
                             number(slot), number(args.pool.count[slot]));
  }
  if (args.slot == nullptr || args.shape.batch == 0) return {};
  return detail::validate_slots_differ(args.slot, args.shape.batch, scratch);
}

/// Checks scratch memory against what `workspace_bytes` asked for.
inline Status validate(const Workspace& workspace, std::size_t needed) {
  if (needed == 0) return {};
  if (workspace.data == nullptr)
    return Status::failure(StatusCode::bad_workspace, "workspace.data = null: must point to %zu bytes",
                           needed);
  if (workspace.bytes < needed)
    return Status::failure(StatusCode::bad_workspace, "workspace.bytes = %zu: must be at least %zu",
                           workspace.bytes, needed);
  if (reinterpret_cast<std::uintptr_t>(workspace.data) % workspace_alignment != 0)
    return Status::failure(StatusCode::bad_workspace, "workspace.data = %p: must be aligned to %zu bytes",
                           workspace.data, workspace_alignment);
  return {};
}

}  // namespace cottention
