// Arithmetic of fp32 and fp64, rounded to nearest. Compiled without contraction.
#include <cmath>

#include "forms.hpp"

namespace cottention::ptx {
namespace {

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Sub {
  template <class T>
  T operator()(T a, T b) const {
    return a - b;
  }
};
struct Mul {
  template <class T>
  T operator()(T a, T b) const {
    return a * b;
  }
};
struct Div {
  template <class T>
  T operator()(T a, T b) const {
    return a / b;
  }
};
struct Fused {
  template <class T>
  T operator()(T a, T b, T c) const {
    return std::fma(a, b, c);
  }
};
struct Root {
  template <class T>
  T operator()(T a) const {
    return std::sqrt(a);
  }
};
struct Reciprocal {
  template <class T>
  T operator()(T a) const {
    return T{1} / a;
  }
};
// A NaN gives way to a number; -0 is less than 0.
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    if (std::isnan(a)) return b;
    if (std::isnan(b)) return a;
    return a < b || (a == b && std::signbit(a)) ? a : b;
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    if (std::isnan(a)) return b;
    if (std::isnan(b)) return a;
    return a > b || (a == b && std::signbit(b)) ? a : b;
  }
};
struct Negate {
  template <class T>
  T operator()(T a) const {
    return -a;
  }
};
struct Absolute {
  template <class T>
  T operator()(T a) const {
    return std::fabs(a);
  }
};
struct Copy {
  template <class T>
  T operator()(T a) const {
    return a;
  }
};

// Approximations stand for what rounds right; PTX bounds how far the hardware's are from it.
struct Exp2 {
  float operator()(float a) const { return static_cast<float>(std::exp2(static_cast<double>(a))); }
};
struct Log2 {
  float operator()(float a) const { return static_cast<float>(std::log2(static_cast<double>(a))); }
};
struct InverseRoot {
  float operator()(float a) const { return static_cast<float>(1 / std::sqrt(static_cast<double>(a))); }
};
// The lower half of the result is zero, and denormal numbers are flushed: PTX ISA, "rcp.approx.ftz.f64".
struct RoughReciprocal {
  double operator()(double a) const {
    if (std::fabs(a) < 0x1p-1022) a = std::copysign(0.0, a);
    const double rough = std::bit_cast<double>(std::bit_cast<std::uint64_t>(1 / a) & 0xffffffff00000000u);
    return std::fabs(rough) < 0x1p-1022 ? std::copysign(0.0, rough) : rough;
  }
};

template <class F>
struct Flushed {
  template <class... T>
  float operator()(T... x) const {
    return flush(F{}(flush(x)...));
  }
};

/// With .ftz: denormal operands and results are zero.
void add_flushed(Forms& f) {
  for (const std::string rounding : {"", ".rn"}) {
    f["add" + rounding + ".ftz.f32"] = {binary<Flushed<Add>, float, float>, "Www"};
    f["sub" + rounding + ".ftz.f32"] = {binary<Flushed<Sub>, float, float>, "Www"};
    f["mul" + rounding + ".ftz.f32"] = {binary<Flushed<Mul>, float, float>, "Www"};
  }
  f["div.rn.ftz.f32"] = {binary<Flushed<Div>, float, float>, "Www"};
  f["fma.rn.ftz.f32"] = {ternary<Flushed<Fused>, float, float>, "Wwww"};
  f["sqrt.rn.ftz.f32"] = {unary<Flushed<Root>, float, float>, "Ww"};
  f["rcp.rn.ftz.f32"] = {unary<Flushed<Reciprocal>, float, float>, "Ww"};
  f["min.ftz.f32"] = {binary<Flushed<Min>, float, float>, "Www"};
  f["max.ftz.f32"] = {binary<Flushed<Max>, float, float>, "Www"};
  f["neg.ftz.f32"] = {unary<Flushed<Negate>, float, float>, "Ww"};
  f["abs.ftz.f32"] = {unary<Flushed<Absolute>, float, float>, "Ww"};
  f["ex2.approx.ftz.f32"] = {unary<Flushed<Exp2>, float, float>, "Ww"};
  f["lg2.approx.ftz.f32"] = {unary<Flushed<Log2>, float, float>, "Ww"};
  f["sqrt.approx.ftz.f32"] = {unary<Flushed<Root>, float, float>, "Ww"};
  f["rsqrt.approx.ftz.f32"] = {unary<Flushed<InverseRoot>, float, float>, "Ww"};
  f["rcp.approx.ftz.f32"] = {unary<Flushed<Reciprocal>, float, float>, "Ww"};
  f["div.approx.ftz.f32"] = {binary<Flushed<Div>, float, float>, "Www"};
}

template <class T>
void add_type(Forms& f, const std::string& name) {
  const char *one = letters<T, T>(), *two = letters<T, T, T>(), *three = letters<T, T, T, T>();
  for (const std::string rounding : {"", ".rn"}) {
    f["add" + rounding + "." + name] = {binary<Add, T, T>, two};
    f["sub" + rounding + "." + name] = {binary<Sub, T, T>, two};
    f["mul" + rounding + "." + name] = {binary<Mul, T, T>, two};
  }
  f["div.rn." + name] = {binary<Div, T, T>, two};
  f["fma.rn." + name] = {ternary<Fused, T, T>, three};
  f["sqrt.rn." + name] = {unary<Root, T, T>, one};
  f["rcp.rn." + name] = {unary<Reciprocal, T, T>, one};
  f["min." + name] = {binary<Min, T, T>, two};
  f["max." + name] = {binary<Max, T, T>, two};
  f["neg." + name] = {unary<Negate, T, T>, one};
  f["abs." + name] = {unary<Absolute, T, T>, one};
  f["mov." + name] = {unary<Copy, T, T>, one};
}

}  // namespace

void add_floats(Forms& f) {
  add_type<float>(f, "f32");
  add_type<double>(f, "f64");
  add_flushed(f);
  f["ex2.approx.f32"] = {unary<Exp2, float, float>, "Ww"};
  f["lg2.approx.f32"] = {unary<Log2, float, float>, "Ww"};
  f["rsqrt.approx.f32"] = {unary<InverseRoot, float, float>, "Ww"};
  f["sqrt.approx.f32"] = {unary<Root, float, float>, "Ww"};
  f["rcp.approx.f32"] = {unary<Reciprocal, float, float>, "Ww"};
  f["div.approx.f32"] = {binary<Div, float, float>, "Www"};
  f["rcp.approx.ftz.f64"] = {unary<RoughReciprocal, double, double>, "Dd"};
}

}  // namespace cottention::ptx
