// setp, selp and the logic of predicates.
#include <cmath>

#include "forms.hpp"

namespace cottention::ptx {
namespace {

struct Equal {
  template <class T>
  bool operator()(T a, T b) const {
    return a == b;
  }
};
struct Differs {
  template <class T>
  bool operator()(T a, T b) const {
    return a < b || b < a;
  }
};
struct Less {
  template <class T>
  bool operator()(T a, T b) const {
    return a < b;
  }
};
struct AtMost {
  template <class T>
  bool operator()(T a, T b) const {
    return a <= b;
  }
};
struct More {
  template <class T>
  bool operator()(T a, T b) const {
    return a > b;
  }
};
struct AtLeast {
  template <class T>
  bool operator()(T a, T b) const {
    return a >= b;
  }
};
/// True too where either is NaN.
template <class F>
struct OrNan {
  template <class T>
  bool operator()(T a, T b) const {
    return std::isunordered(a, b) || F{}(a, b);
  }
};
struct Numbers {
  template <class T>
  bool operator()(T a, T b) const {
    return !std::isunordered(a, b);
  }
};
struct Nan {
  template <class T>
  bool operator()(T a, T b) const {
    return std::isunordered(a, b);
  }
};

template <class F>
struct Flushed {
  bool operator()(float a, float b) const { return F{}(flush(a), flush(b)); }
};

void set_bits(Warp& w, std::uint32_t place, std::uint32_t bits) {
  std::uint32_t* const d = w.at<std::uint32_t>(place);
  *d = (*d & ~w.mask) | (bits & w.mask);
}

template <class F, class T>
void compare(Warp& w, const Instruction& i) {
  const Slot<T>* const a = w.at<Slot<T>>(i.o[1]);
  const Slot<T>* const b = w.at<Slot<T>>(i.o[2]);
  std::uint32_t bits = 0;
  for (int l = 0; l < lanes; ++l)
    bits |= static_cast<std::uint32_t>(F{}(from_slot<T>(a[l]), from_slot<T>(b[l]))) << l;
  set_bits(w, i.o[0], bits);
}

template <class T>
void select(Warp& w, const Instruction& i) {
  Slot<T>* const d = w.at<Slot<T>>(i.o[0]);
  const Slot<T>*const a = w.at<Slot<T>>(i.o[1]), *const b = w.at<Slot<T>>(i.o[2]);
  const std::uint32_t chosen = *w.at<std::uint32_t>(i.o[3]);
  each_lane(w.mask, [=](int l) { d[l] = (chosen >> l & 1) != 0 ? a[l] : b[l]; });
}

struct And {
  std::uint32_t operator()(std::uint32_t a, std::uint32_t b) const { return a & b; }
};
struct Or {
  std::uint32_t operator()(std::uint32_t a, std::uint32_t b) const { return a | b; }
};
struct Xor {
  std::uint32_t operator()(std::uint32_t a, std::uint32_t b) const { return a ^ b; }
};

template <class F>
void logic(Warp& w, const Instruction& i) {
  set_bits(w, i.o[0], F{}(*w.at<std::uint32_t>(i.o[1]), *w.at<std::uint32_t>(i.o[2])));
}
void invert(Warp& w, const Instruction& i) { set_bits(w, i.o[0], ~*w.at<std::uint32_t>(i.o[1])); }
void copy(Warp& w, const Instruction& i) { set_bits(w, i.o[0], *w.at<std::uint32_t>(i.o[1])); }

template <class F, class T>
void add_comparison(Forms& f, const std::string& name, const std::string& type) {
  f["setp." + name + "." + type] = {compare<F, T>, sizeof(T) == 8 ? "Pdd" : "Pww"};
  if constexpr (std::is_same_v<T, float>)
    f["setp." + name + ".ftz.f32"] = {compare<Flushed<F>, float>, "Pww"};
}

template <class T>
void add_unordered(Forms& f, const std::string& type) {
  add_comparison<OrNan<Equal>, T>(f, "equ", type);
  add_comparison<OrNan<Differs>, T>(f, "neu", type);
  add_comparison<OrNan<Less>, T>(f, "ltu", type);
  add_comparison<OrNan<AtMost>, T>(f, "leu", type);
  add_comparison<OrNan<More>, T>(f, "gtu", type);
  add_comparison<OrNan<AtLeast>, T>(f, "geu", type);
  add_comparison<Numbers, T>(f, "num", type);
  add_comparison<Nan, T>(f, "nan", type);
}

template <class T>
void add_type(Forms& f, const std::string& name) {
  add_comparison<Equal, T>(f, "eq", name);
  add_comparison<Differs, T>(f, "ne", name);
  add_comparison<Less, T>(f, "lt", name);
  add_comparison<AtMost, T>(f, "le", name);
  add_comparison<More, T>(f, "gt", name);
  add_comparison<AtLeast, T>(f, "ge", name);
  if constexpr (std::is_floating_point_v<T>) {
    add_unordered<T>(f, name);
  }
  f["selp." + name] = {select<T>, sizeof(T) == 8 ? "Dddp" : "Wwwp"};
}

}  // namespace

void add_comparisons(Forms& f) {
  add_type<std::int16_t>(f, "s16");
  add_type<std::uint16_t>(f, "u16");
  add_type<std::uint16_t>(f, "b16");
  add_type<std::int32_t>(f, "s32");
  add_type<std::uint32_t>(f, "u32");
  add_type<std::uint32_t>(f, "b32");
  add_type<std::int64_t>(f, "s64");
  add_type<std::uint64_t>(f, "u64");
  add_type<std::uint64_t>(f, "b64");
  add_type<float>(f, "f32");
  add_type<double>(f, "f64");
  f["and.pred"] = {logic<And>, "Ppp"};
  f["or.pred"] = {logic<Or>, "Ppp"};
  f["xor.pred"] = {logic<Xor>, "Ppp"};
  f["not.pred"] = {invert, "Pp"};
  f["mov.pred"] = {copy, "Pp"};
}

}  // namespace cottention::ptx
