// Sums and products that are rounded down, up or towards zero. Compiled with -frounding-math.
#include <cfenv>
#include <cmath>

#include "forms.hpp"

namespace cottention::ptx {
namespace {

class Rounding {
 public:
  explicit Rounding(int mode) : before_(std::fegetround()) { std::fesetround(mode); }
  ~Rounding() { std::fesetround(before_); }
  Rounding(const Rounding&) = delete;
  Rounding& operator=(const Rounding&) = delete;

 private:
  int before_;
};

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Mul {
  template <class T>
  T operator()(T a, T b) const {
    return a * b;
  }
};
struct Fused {
  template <class T>
  T operator()(T a, T b, T c) const {
    return std::fma(a, b, c);
  }
};

template <class F>
struct Flushed {
  template <class... T>
  float operator()(T... x) const {
    return flush(F{}(flush(x)...));
  }
};

template <Handler run, int mode>
void rounded(Warp& w, const Instruction& i) {
  const Rounding rounding(mode);
  run(w, i);
}

template <class T, int mode>
void add_type(Forms& f, const std::string& suffix) {
  const char *two = letters<T, T, T>(), *three = letters<T, T, T, T>();
  f["add." + suffix] = {rounded<binary<Add, T, T>, mode>, two};
  f["mul." + suffix] = {rounded<binary<Mul, T, T>, mode>, two};
  f["fma." + suffix] = {rounded<ternary<Fused, T, T>, mode>, three};
  if constexpr (sizeof(T) == 4) {
    const std::string flushed = suffix.substr(0, 3) + "ftz.f32";
    f["add." + flushed] = {rounded<binary<Flushed<Add>, T, T>, mode>, two};
    f["mul." + flushed] = {rounded<binary<Flushed<Mul>, T, T>, mode>, two};
    f["fma." + flushed] = {rounded<ternary<Flushed<Fused>, T, T>, mode>, three};
  }
}

}  // namespace

void add_rounded(Forms& f) {
  add_type<float, FE_DOWNWARD>(f, "rm.f32");
  add_type<float, FE_UPWARD>(f, "rp.f32");
  add_type<float, FE_TOWARDZERO>(f, "rz.f32");
  add_type<double, FE_DOWNWARD>(f, "rm.f64");
  add_type<double, FE_UPWARD>(f, "rp.f64");
  add_type<double, FE_TOWARDZERO>(f, "rz.f64");
}

}  // namespace cottention::ptx
