// cvt.
#include <cmath>
#include <limits>

#include "forms.hpp"

namespace cottention::ptx {
namespace {

enum class Round { nearest, zero, down, up };

/// Saturates; NaN becomes 0. PTX ISA, "cvt".
template <class D, Round rounding>
struct ToInteger {
  template <class A>
  D operator()(A a) const {
    if (std::isnan(a)) return 0;
    const A x = rounding == Round::nearest ? std::nearbyint(a)
                : rounding == Round::zero  ? std::trunc(a)
                : rounding == Round::down  ? std::floor(a)
                                           : std::ceil(a);
    // The least number beyond the range is a power of two, which A holds exactly.
    const A beyond = std::ldexp(A{1}, std::numeric_limits<D>::digits);
    if (x >= beyond) return std::numeric_limits<D>::max();
    if (x < static_cast<A>(std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
    return static_cast<D>(x);
  }
};

template <class D>
struct Cast {
  template <class A>
  D operator()(A a) const {
    return static_cast<D>(a);
  }
};

/// Of a float, or to one, with .ftz.
struct FlushedCast {
  double operator()(float a) const { return static_cast<double>(flush(a)); }
  float operator()(double a) const { return flush(static_cast<float>(a)); }
};

struct Saturate {
  float operator()(float a) const { return a > 0 ? std::fmin(a, 1.0f) : 0.0f; }
};

/// What is written of a narrow integer fills a wider register by its sign.
template <class D, class A>
void integer(Warp& w, const Instruction& i) {
  const Slot<A>* const a = w.at<Slot<A>>(i.o[1]);
  using Kept = std::conditional_t<std::is_signed_v<D>, std::int32_t, std::uint32_t>;
  if constexpr (sizeof(D) < 4) {
    std::uint32_t* const d = w.at<std::uint32_t>(i.o[0]);
    each_lane(w.mask, [=](int l) {
      d[l] = static_cast<std::uint32_t>(static_cast<Kept>(static_cast<D>(from_slot<A>(a[l]))));
    });
  } else {
    unary<Cast<D>, D, A>(w, i);
  }
}

struct Half {
  static std::uint16_t bits(float x) { return std::bit_cast<std::uint16_t>(static_cast<_Float16>(x)); }
};
struct Bfloat {
  static std::uint16_t bits(float x) {
    const auto wide = std::bit_cast<std::uint32_t>(x);
    return static_cast<std::uint16_t>((wide + 0x7fffu + (wide >> 16 & 1)) >> 16);
  }
};
struct HalfToFloat {
  float operator()(std::uint16_t bits) const { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
};
/// To nearest, ties to even. NaN becomes the canonical one.
template <class T>
struct FloatToBits {
  std::uint16_t operator()(float x) const { return std::isnan(x) ? 0x7fff : T::bits(x); }
};
template <class T>
struct PackPair {
  std::uint32_t operator()(float high, float low) const {
    return std::uint32_t{FloatToBits<T>{}(high)} << 16 | FloatToBits<T>{}(low);
  }
};

struct BfloatToFloat {
  float operator()(std::uint16_t bits) const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
};
/// Of pairs. What fp32 cannot hold of a sum is rounded twice.
template <class T, class ToFloat>
struct FusedPair {
  std::uint32_t operator()(std::uint32_t a, std::uint32_t b, std::uint32_t c) const {
    const auto half_of = [](std::uint32_t pair, int shift) {
      return ToFloat{}(static_cast<std::uint16_t>(pair >> shift));
    };
    const auto fused = [&](int shift) {
      return std::fma(half_of(a, shift), half_of(b, shift), half_of(c, shift));
    };
    return PackPair<T>{}(fused(16), fused(0));
  }
};

/// To nearest, ties away from zero, with 10 bits of fraction. PTX ISA, "cvt.rna.tf32".
struct ToTf32 {
  std::uint32_t operator()(float x) const {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    if (std::isnan(x)) return 0x7fffffffu;
    return std::isinf(x) ? bits : (bits + 0x1000u) & 0xffffe000u;
  }
};

/// The lower half of a register of 64 bits, which cvt may name where it wants 32.
template <class D, class A>
void integer_of_wide(Warp& w, const Instruction& i) {
  const std::uint64_t* const a = w.at<std::uint64_t>(i.o[1]);
  Slot<D>* const d = w.at<Slot<D>>(i.o[0]);
  each_lane(w.mask, [=](int l) { d[l] = to_slot<D>(static_cast<D>(static_cast<A>(a[l]))); });
}

template <class D, class A>
void add_integer(Forms& f, const std::string& d, const std::string& a) {
  f["cvt." + d + "." + a] = {integer<D, A>, letters<D, A>()};
  if constexpr (sizeof(D) >= 4 && sizeof(A) < 8)
    f["cvt." + d + "." + a + " of wide"] = {integer_of_wide<D, A>, letters<D, std::uint64_t>()};
}

template <class A>
void add_from(Forms& f, const std::string& a) {
  add_integer<std::int8_t, A>(f, "s8", a);
  add_integer<std::uint8_t, A>(f, "u8", a);
  add_integer<std::int16_t, A>(f, "s16", a);
  add_integer<std::uint16_t, A>(f, "u16", a);
  add_integer<std::int32_t, A>(f, "s32", a);
  add_integer<std::uint32_t, A>(f, "u32", a);
  add_integer<std::int64_t, A>(f, "s64", a);
  add_integer<std::uint64_t, A>(f, "u64", a);
  f["cvt.rn.f32." + a] = {unary<Cast<float>, float, A>, letters<float, A>()};
  f["cvt.rn.f64." + a] = {unary<Cast<double>, double, A>, letters<double, A>()};
}

template <class D, class A>
void add_rounding(Forms& f, const std::string& d, const std::string& a) {
  f["cvt.rni." + d + "." + a] = {unary<ToInteger<D, Round::nearest>, D, A>, letters<D, A>()};
  f["cvt.rzi." + d + "." + a] = {unary<ToInteger<D, Round::zero>, D, A>, letters<D, A>()};
  f["cvt.rmi." + d + "." + a] = {unary<ToInteger<D, Round::down>, D, A>, letters<D, A>()};
  f["cvt.rpi." + d + "." + a] = {unary<ToInteger<D, Round::up>, D, A>, letters<D, A>()};
}

template <class A>
void add_to_integers(Forms& f, const std::string& a) {
  add_rounding<std::int32_t, A>(f, "s32", a);
  add_rounding<std::uint32_t, A>(f, "u32", a);
  add_rounding<std::int64_t, A>(f, "s64", a);
  add_rounding<std::uint64_t, A>(f, "u64", a);
}

}  // namespace

void add_conversions(Forms& f) {
  add_from<std::int8_t>(f, "s8");
  add_from<std::uint8_t>(f, "u8");
  add_from<std::int16_t>(f, "s16");
  add_from<std::uint16_t>(f, "u16");
  add_from<std::int32_t>(f, "s32");
  add_from<std::uint32_t>(f, "u32");
  add_from<std::int64_t>(f, "s64");
  add_from<std::uint64_t>(f, "u64");
  add_to_integers<float>(f, "f32");
  add_to_integers<double>(f, "f64");
  f["cvt.ftz.f64.f32"] = {unary<FlushedCast, double, float>, "Dw"};
  f["cvt.rn.ftz.f32.f64"] = {unary<FlushedCast, float, double>, "Wd"};
  f["cvt.ftz.sat.f32.f32"] = {unary<Saturate, float, float>, "Ww"};
  f["cvt.sat.ftz.f32.f32"] = {unary<Saturate, float, float>, "Ww"};
  for (const std::string rounding : {"rni", "rzi"})  // denormal numbers become 0 either way
    for (const std::string type : {"s32", "u32", "s64", "u64"})
      f["cvt." + rounding + ".ftz." + type + ".f32"] = f["cvt." + rounding + "." + type + ".f32"];
  f["cvt.f64.f32"] = {unary<Cast<double>, double, float>, "Dw"};
  f["cvt.rn.f32.f64"] = {unary<Cast<float>, float, double>, "Wd"};
  f["cvt.sat.f32.f32"] = {unary<Saturate, float, float>, "Ww"};
  f["cvt.f32.f16"] = {unary<HalfToFloat, float, std::uint16_t>, "Ww"};
  f["cvt.rn.f16.f32"] = {unary<FloatToBits<Half>, std::uint16_t, float>, "Ww"};
  f["cvt.rn.bf16.f32"] = {unary<FloatToBits<Bfloat>, std::uint16_t, float>, "Ww"};
  f["cvt.rn.f16x2.f32"] = {binary<PackPair<Half>, std::uint32_t, float>, "Www"};
  f["cvt.rn.bf16x2.f32"] = {binary<PackPair<Bfloat>, std::uint32_t, float>, "Www"};
  f["fma.rn.f16x2"] = {ternary<FusedPair<Half, HalfToFloat>, std::uint32_t, std::uint32_t>, "Wwww"};
  f["fma.rn.bf16x2"] = {ternary<FusedPair<Bfloat, BfloatToFloat>, std::uint32_t, std::uint32_t>, "Wwww"};
  f["cvt.rna.tf32.f32"] = {unary<ToTf32, std::uint32_t, float>, "Ww"};
  // All addresses are generic ones but those of shared and local memory and of parameters.
  f["cvta.to.global.u64"] = f["mov.u64"];
  f["cvta.global.u64"] = f["mov.u64"];
}

}  // namespace cottention::ptx
