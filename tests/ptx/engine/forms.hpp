// What the machine knows of each opcode: its handler, and what its operands are.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>
#include <unordered_map>

#include "machine.hpp"

namespace cottention::ptx {

/// Operands in their order, with vectors, pairs and addresses taken apart: w has 16 or 32 bits, d has 64, p
/// is a predicate, a an address; x and y are addresses of 32 and 64 bits; capital letters are written.
struct Form {
  Handler run = nullptr;
  const char* operands = "";
  Kind kind = Kind::plain;
  std::uint16_t extra = 0;
};

using Forms = std::unordered_map<std::string, Form>;

const Forms& forms();
void add_integers(Forms& forms);
void add_floats(Forms& forms);
void add_rounded(Forms& forms);
void add_conversions(Forms& forms);
void add_comparisons(Forms& forms);
void add_exchange(Forms& forms);
void add_matrices(Forms& forms);
void add_copies(Forms& forms);
void add_mbarriers(Forms& forms);
void add_tiles(Forms& forms);
void add_warpgroups(Forms& forms);

/// What a lane holds of a T.
template <class T>
using Slot = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

template <class T>
inline T from_slot(Slot<T> bits) {
  if constexpr (std::is_floating_point_v<T>)
    return std::bit_cast<T>(bits);
  else
    return static_cast<T>(bits);
}

template <class T>
inline Slot<T> to_slot(T value) {
  if constexpr (std::is_floating_point_v<T>)
    return std::bit_cast<Slot<T>>(value);
  else
    return static_cast<Slot<T>>(static_cast<std::make_unsigned_t<T>>(value));
}

/// .ftz: what is denormal becomes 0.
inline float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

/// f(lane) for the lanes of the mask; all 32 in a loop that vectorises.
template <class F>
inline void each_lane(std::uint32_t mask, F f) {
  if (mask == all) {
#pragma GCC ivdep
    for (int lane = 0; lane < lanes; ++lane) f(lane);
  } else {
    for (; mask != 0; mask &= mask - 1) f(std::countr_zero(mask));
  }
}

template <class F, class D, class A>
void unary(Warp& w, const Instruction& i) {
  Slot<D>* const d = w.at<Slot<D>>(i.o[0]);
  const Slot<A>* const a = w.at<Slot<A>>(i.o[1]);
  each_lane(w.mask, [=](int l) { d[l] = to_slot<D>(F{}(from_slot<A>(a[l]))); });
}

template <class F, class D, class A, class B = A>
void binary(Warp& w, const Instruction& i) {
  Slot<D>* const d = w.at<Slot<D>>(i.o[0]);
  const Slot<A>* const a = w.at<Slot<A>>(i.o[1]);
  const Slot<B>* const b = w.at<Slot<B>>(i.o[2]);
  each_lane(w.mask, [=](int l) { d[l] = to_slot<D>(F{}(from_slot<A>(a[l]), from_slot<B>(b[l]))); });
}

template <class F, class D, class A, class B = A, class C = D>
void ternary(Warp& w, const Instruction& i) {
  Slot<D>* const d = w.at<Slot<D>>(i.o[0]);
  const Slot<A>* const a = w.at<Slot<A>>(i.o[1]);
  const Slot<B>* const b = w.at<Slot<B>>(i.o[2]);
  const Slot<C>* const c = w.at<Slot<C>>(i.o[3]);
  each_lane(w.mask, [=](int l) {
    d[l] = to_slot<D>(F{}(from_slot<A>(a[l]), from_slot<B>(b[l]), from_slot<C>(c[l])));
  });
}

/// The letter of a type.
template <class T>
inline constexpr char letter = sizeof(T) == 8 ? 'd' : 'w';

/// "Dab" with the letters of these types, the first one written.
template <class D, class... Sources>
inline const char* letters() {
  static constexpr char text[] = {static_cast<char>(letter<D> - 'a' + 'A'), letter<Sources>..., '\0'};
  return text;
}

}  // namespace cottention::ptx
