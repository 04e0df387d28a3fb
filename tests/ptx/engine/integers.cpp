// Integers and bits.
#include <algorithm>
#include <limits>

#include "forms.hpp"

namespace cottention::ptx {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;

__extension__ typedef __int128 Integer128;
__extension__ typedef unsigned __int128 Unsigned128;

/// One of twice the width.
template <class T>
using Wide = std::conditional_t<
    sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, std::int32_t, std::uint32_t>,
    std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>,
                       std::conditional_t<std::is_signed_v<T>, Integer128, Unsigned128>>>;

// Sums and products wrap.
struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(
        static_cast<Unsigned<T>>(static_cast<Unsigned<T>>(a) + static_cast<Unsigned<T>>(b)));
  }
};
struct Sub {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(
        static_cast<Unsigned<T>>(static_cast<Unsigned<T>>(a) - static_cast<Unsigned<T>>(b)));
  }
};
struct Low {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<Unsigned<T>>(std::uint64_t{1} * static_cast<Unsigned<T>>(a) *
                                                   static_cast<Unsigned<T>>(b)));
  }
};
struct High {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>((Wide<T>{a} * Wide<T>{b}) >> (8 * sizeof(T)));
  }
};
struct Widen {
  template <class T>
  Wide<T> operator()(T a, T b) const {
    return Wide<T>{a} * Wide<T>{b};
  }
};
struct LowAdd {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(Low{}(a, b), c);
  }
};
struct WidenAdd {
  template <class T>
  Wide<T> operator()(T a, T b, Wide<T> c) const {
    return Add{}(Widen{}(a, b), c);
  }
};
// By zero: PTX leaves it open, and this is what GPUs give.
struct Divide {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return static_cast<T>(-1);
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return Sub{}(T{0}, a);
    return static_cast<T>(a / b);
  }
};
struct Remainder {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return a;
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return T{0};
    return static_cast<T>(a % b);
  }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct Negate {
  template <class T>
  T operator()(T a) const {
    return Sub{}(T{0}, a);
  }
};
struct Absolute {
  template <class T>
  T operator()(T a) const {
    return a < 0 ? Sub{}(T{0}, a) : a;
  }
};

struct And {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(a & b);
  }
};
struct Or {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(a | b);
  }
};
struct Xor {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(a ^ b);
  }
};
struct Not {
  template <class T>
  T operator()(T a) const {
    return static_cast<T>(~a);
  }
};
struct Copy {
  template <class T>
  T operator()(T a) const {
    return a;
  }
};
struct ShiftLeft {
  template <class T>
  T operator()(T a, std::uint32_t n) const {
    return n >= 8 * sizeof(T) ? T{0} : static_cast<T>(a << n);
  }
};
struct ShiftRight {
  template <class T>
  T operator()(T a, std::uint32_t n) const {
    constexpr auto bits = static_cast<std::uint32_t>(8 * sizeof(T));
    if constexpr (std::is_signed_v<T>) return static_cast<T>(a >> std::min(n, bits - 1));
    return n >= bits ? T{0} : static_cast<T>(a >> n);
  }
};
struct Ones {
  template <class T>
  std::uint32_t operator()(T a) const {
    return static_cast<std::uint32_t>(std::popcount(a));
  }
};
struct LeadingZeros {
  template <class T>
  std::uint32_t operator()(T a) const {
    return static_cast<std::uint32_t>(std::countl_zero(a));
  }
};

template <class T>
struct InsertBits {
  static void run(Warp& w, const Instruction& i) {
    const Slot<T>*a = w.at<Slot<T>>(i.o[1]), *b = w.at<Slot<T>>(i.o[2]);
    const std::uint32_t *position = w.at<std::uint32_t>(i.o[3]), *length = w.at<std::uint32_t>(i.o[4]);
    Slot<T>* const d = w.at<Slot<T>>(i.o[0]);
    each_lane(w.mask, [=](int l) {
      constexpr std::uint32_t bits = 8 * sizeof(T);
      const std::uint32_t at = position[l] & 0xff, n = length[l] & 0xff;
      const T field = n >= bits ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << n) - 1);
      const T mask = at >= bits ? T{0} : static_cast<T>(field << at);
      d[l] = static_cast<T>((at >= bits ? T{0} : (a[l] << at) & mask) | (b[l] & ~mask));
    });
  }
};

template <class T>
struct ExtractBits {
  T operator()(T a, std::uint32_t position, std::uint32_t length) const {
    constexpr std::uint32_t bits = 8 * sizeof(T);
    const std::uint32_t at = position & 0xff, n = length & 0xff;
    const auto u = static_cast<Unsigned<T>>(a);
    if (n == 0) return 0;
    Unsigned<T> field = at >= bits ? 0 : u >> at;
    if (n < bits) field &= (Unsigned<T>{1} << n) - 1;
    if constexpr (std::is_signed_v<T>) {
      const std::uint32_t last = std::min(at + n - 1, bits - 1);
      const bool negative = (u >> last & 1) != 0;
      const std::uint32_t got = at >= bits ? 0 : std::min(n, bits - at);
      if (negative && got < bits) field |= ~Unsigned<T>{0} << got;
    }
    return static_cast<T>(field);
  }
};

struct Permute {
  std::uint32_t operator()(std::uint32_t a, std::uint32_t b, std::uint32_t selector) const {
    const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
    std::uint32_t d = 0;
    for (unsigned k = 0; k < 4; ++k) {
      const std::uint32_t s = selector >> (4 * k) & 0xf;
      auto byte = static_cast<std::uint32_t>(bytes >> (8 * (s & 7)) & 0xff);
      if ((s & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
      d |= byte << (8 * k);
    }
    return d;
  }
};

template <bool left, bool wraps>
struct Funnel {
  std::uint32_t operator()(std::uint32_t low, std::uint32_t high, std::uint32_t count) const {
    const std::uint32_t n = wraps ? count & 31 : std::min(count, 32u);
    const std::uint64_t both = std::uint64_t{high} << 32 | low;
    return left ? static_cast<std::uint32_t>((both << n) >> 32) : static_cast<std::uint32_t>(both >> n);
  }
};

void logic3(Warp& w, const Instruction& i) {
  const std::uint32_t *a = w.at<std::uint32_t>(i.o[1]), *b = w.at<std::uint32_t>(i.o[2]),
                      *c = w.at<std::uint32_t>(i.o[3]), *table = w.at<std::uint32_t>(i.o[4]);
  std::uint32_t* const d = w.at<std::uint32_t>(i.o[0]);
  each_lane(w.mask, [=](int l) {
    std::uint32_t result = 0;
    for (unsigned k = 0; k < 8; ++k)
      if ((table[l] >> k & 1) != 0)
        result |=
            ((k & 4) != 0 ? a[l] : ~a[l]) & ((k & 2) != 0 ? b[l] : ~b[l]) & ((k & 1) != 0 ? c[l] : ~c[l]);
    d[l] = result;
  });
}

template <int parts>
void pack(Warp& w, const Instruction& i) {  // low parts first; 2 of 32 bits in 64, or 2 of 16 in 32
  for (int part = 0; part < parts; ++part) {
    const std::uint32_t* const a = w.at<std::uint32_t>(i.o[1 + part]);
    if (i.extra == 64) {
      std::uint64_t* const d = w.at<std::uint64_t>(i.o[0]);
      const unsigned bits = 64 / parts;
      each_lane(w.mask, [=](int l) {
        const std::uint64_t mask = ((std::uint64_t{1} << bits) - 1) << (bits * static_cast<unsigned>(part));
        d[l] = (d[l] & ~mask) | (std::uint64_t{a[l]} << (bits * static_cast<unsigned>(part)) & mask);
      });
    } else {
      std::uint32_t* const d = w.at<std::uint32_t>(i.o[0]);
      each_lane(w.mask, [=](int l) {
        d[l] = part == 0 ? (d[l] & 0xffff0000u) | (a[l] & 0xffffu) : (d[l] & 0xffffu) | a[l] << 16;
      });
    }
  }
}

template <int parts>
void unpack(Warp& w, const Instruction& i) {
  for (int part = 0; part < parts; ++part) {
    std::uint32_t* const d = w.at<std::uint32_t>(i.o[part]);
    const auto n = static_cast<unsigned>(part * (i.extra / parts));
    const std::uint32_t mask = i.extra / parts == 32 ? all : 0xffffu;
    if (i.extra == 64) {
      const std::uint64_t* const a = w.at<std::uint64_t>(i.o[parts]);
      each_lane(w.mask, [=](int l) { d[l] = static_cast<std::uint32_t>(a[l] >> n) & mask; });
    } else {
      const std::uint32_t* const a = w.at<std::uint32_t>(i.o[parts]);
      each_lane(w.mask, [=](int l) { d[l] = a[l] >> n & mask; });
    }
  }
}

template <class T>
void add_type(Forms& f, const std::string& name) {
  const char *one = letters<T, T>(), *two = letters<T, T, T>(), *three = letters<T, T, T, T>();
  f["add." + name] = {binary<Add, T, T>, two};
  f["sub." + name] = {binary<Sub, T, T>, two};
  f["mul.lo." + name] = {binary<Low, T, T>, two};
  f["mul.hi." + name] = {binary<High, T, T>, two};
  f["mad.lo." + name] = {ternary<LowAdd, T, T>, three};
  f["div." + name] = {binary<Divide, T, T>, two};
  f["rem." + name] = {binary<Remainder, T, T>, two};
  f["min." + name] = {binary<Min, T, T>, two};
  f["max." + name] = {binary<Max, T, T>, two};
  f["shr." + name] = {binary<ShiftRight, T, T, std::uint32_t>, letters<T, T, std::uint32_t>()};
  if constexpr (sizeof(T) < 8) {
    f["mul.wide." + name] = {binary<Widen, Wide<T>, T>, letters<Wide<T>, T, T>()};
    f["mad.wide." + name] = {ternary<WidenAdd, Wide<T>, T, T, Wide<T>>, letters<Wide<T>, T, T, Wide<T>>()};
  }
  if constexpr (std::is_signed_v<T>) {
    f["neg." + name] = {unary<Negate, T, T>, one};
    f["abs." + name] = {unary<Absolute, T, T>, one};
  }
  f["mov." + name] = {unary<Copy, T, T>, one};
  if constexpr (sizeof(T) >= 4) {
    f["bfe." + name] = {ternary<ExtractBits<T>, T, T, std::uint32_t, std::uint32_t>,
                        letters<T, T, std::uint32_t, std::uint32_t>()};
  }
}

template <class T>
void add_bits(Forms& f, const std::string& name) {
  const char *one = letters<T, T>(), *two = letters<T, T, T>();
  f["and." + name] = {binary<And, T, T>, two};
  f["or." + name] = {binary<Or, T, T>, two};
  f["xor." + name] = {binary<Xor, T, T>, two};
  f["not." + name] = {unary<Not, T, T>, one};
  f["mov." + name] = {unary<Copy, T, T>, one};
  f["shl." + name] = {binary<ShiftLeft, T, T, std::uint32_t>, letters<T, T, std::uint32_t>()};
  f["shr." + name] = {binary<ShiftRight, T, T, std::uint32_t>, letters<T, T, std::uint32_t>()};
  if constexpr (sizeof(T) >= 4) {
    f["popc." + name] = {unary<Ones, std::uint32_t, T>, letters<std::uint32_t, T>()};
    f["clz." + name] = {unary<LeadingZeros, std::uint32_t, T>, letters<std::uint32_t, T>()};
    f["bfi." + name] = {InsertBits<T>::run, letters<T, T, T, std::uint32_t, std::uint32_t>()};
  }
}

}  // namespace

void add_integers(Forms& f) {
  add_type<std::int16_t>(f, "s16");
  add_type<std::uint16_t>(f, "u16");
  add_type<std::int32_t>(f, "s32");
  add_type<std::uint32_t>(f, "u32");
  add_type<std::int64_t>(f, "s64");
  add_type<std::uint64_t>(f, "u64");
  add_bits<std::uint16_t>(f, "b16");
  add_bits<std::uint32_t>(f, "b32");
  add_bits<std::uint64_t>(f, "b64");
  f["prmt.b32"] = {ternary<Permute, std::uint32_t, std::uint32_t>, "Wwww"};
  f["shf.l.wrap.b32"] = {ternary<Funnel<true, true>, std::uint32_t, std::uint32_t>, "Wwww"};
  f["shf.l.clamp.b32"] = {ternary<Funnel<true, false>, std::uint32_t, std::uint32_t>, "Wwww"};
  f["shf.r.wrap.b32"] = {ternary<Funnel<false, true>, std::uint32_t, std::uint32_t>, "Wwww"};
  f["shf.r.clamp.b32"] = {ternary<Funnel<false, false>, std::uint32_t, std::uint32_t>, "Wwww"};
  f["lop3.b32"] = {logic3, "Wwwww"};
  f["mov.b64 pack2"] = {pack<2>, "Dww", Kind::plain, 64};
  f["mov.b64 pack4"] = {pack<4>, "Dwwww", Kind::plain, 64};
  f["mov.b32 pack2"] = {pack<2>, "Www", Kind::plain, 32};
  f["mov.b64 unpack2"] = {unpack<2>, "WWd", Kind::plain, 64};
  f["mov.b64 unpack4"] = {unpack<4>, "WWWWd", Kind::plain, 64};
  f["mov.b32 unpack2"] = {unpack<2>, "WWw", Kind::plain, 32};
}

}  // namespace cottention::ptx
