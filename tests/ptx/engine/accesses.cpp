// ld, st, atom and red.
#include "decode.hpp"

namespace cottention::ptx {
namespace {

std::uint8_t* find(Warp& w, const Instruction& i, Warp::Reach& reach, int lane, std::uint64_t address,
                   std::size_t bytes) {
  const std::uint64_t at = address - reach.begin;
  if (at < reach.size && at + bytes <= reach.size && address % bytes == 0) return reach.bytes + at;
  std::uint8_t* const found = w.memory(i, lane, i.space, address, bytes);
  reach = w.reach(i.space);
  return found;
}

template <class T, class Register>
void load(Warp& w, const Instruction& i) {
  Register* d[4];
  for (int e = 0; e < i.count; ++e) d[e] = w.at<Register>(i.o[e]);
  const std::size_t bytes = sizeof(T) * i.count;
  Warp::Reach reach = w.reach(i.space);
  std::uint64_t last = 1;  // many lanes often read one address
  T values[4] = {};
  for (std::uint32_t rest = w.mask; rest != 0; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    const std::uint64_t address = w.address(i, i.o[i.count], l);
    if (address != last) std::memcpy(values, find(w, i, reach, l, address, bytes), bytes);
    if (i.space != Space::local && i.space != Space::generic) last = address;
    for (int e = 0; e < i.count; ++e) {
      if constexpr (std::is_signed_v<T>)
        d[e][l] = static_cast<Register>(static_cast<std::int64_t>(values[e]));
      else
        d[e][l] = static_cast<Register>(values[e]);
    }
  }
}

template <class T, class Register>
void store(Warp& w, const Instruction& i) {
  const std::size_t bytes = sizeof(T) * i.count;
  Warp::Reach reach = w.reach(i.space);
  for (std::uint32_t rest = w.mask; rest != 0; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    T values[4];
    for (int e = 0; e < i.count; ++e) values[e] = static_cast<T>(w.at<Register>(i.o[1 + e])[l]);
    std::memcpy(find(w, i, reach, l, w.address(i, i.o[0], l), bytes), values, bytes);
  }
}

/// atom.add d, [at], a; red.add without d.
template <class T, bool returns>
void add(Warp& w, const Instruction& i) {
  for (std::uint32_t rest = w.mask; rest != 0; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    std::uint8_t* const p = w.memory(i, l, i.space, w.address(i, i.o[returns], l), sizeof(T));
    T before;
    std::memcpy(&before, p, sizeof(T));
    const T after = before + from_slot<T>(w.at<Slot<T>>(i.o[returns + 1])[l]);
    std::memcpy(p, &after, sizeof(T));
    if constexpr (returns) w.at<Slot<T>>(i.o[0])[l] = to_slot<T>(before);
  }
}

template <template <class, class> class F, class T>
Handler for_register(bool wide) {
  return wide ? F<T, std::uint64_t>::run : F<T, std::uint32_t>::run;
}
template <class T, class Register>
struct Load {
  static constexpr Handler run = load<T, Register>;
};
template <class T, class Register>
struct Store {
  static constexpr Handler run = store<T, Register>;
};

template <template <class, class> class F>
Handler handler_for(std::string_view type, bool wide) {
  if (type == "u8" || type == "b8") return for_register<F, std::uint8_t>(wide);
  if (type == "s8") return for_register<F, std::int8_t>(wide);
  if (type == "u16" || type == "b16") return for_register<F, std::uint16_t>(wide);
  if (type == "s16") return for_register<F, std::int16_t>(wide);
  if (type == "u32" || type == "b32" || type == "f32") return for_register<F, std::uint32_t>(wide);
  if (type == "s32") return for_register<F, std::int32_t>(wide);
  if (wide && (type == "u64" || type == "b64" || type == "s64" || type == "f64"))
    return for_register<F, std::uint64_t>(wide);
  return nullptr;
}

bool one_of(std::string_view word, std::initializer_list<std::string_view> words) {
  for (const std::string_view w : words)
    if (w == word) return true;
  return false;
}

}  // namespace

/// Modifiers that say how accesses are cached or ordered: here they are in order, and there are no caches.
bool decode_access(const std::vector<std::string_view>& parts, bool wide_register, Instruction& i,
                   std::string& operands) {
  const std::string_view word = parts[0];
  i.count = 1;
  bool adds = false;
  for (std::size_t p = 1; p + 1 < parts.size(); ++p) {
    const std::string_view part = parts[p];
    if (one_of(part, {"global"}))
      i.space = Space::global;
    else if (one_of(part, {"shared", "shared::cta"}))
      i.space = Space::shared;
    else if (one_of(part, {"local"}))
      i.space = Space::local;
    else if (one_of(part, {"param"}))
      i.space = Space::param;
    else if (one_of(part, {"const"}))
      i.space = Space::global;
    else if (part == "v2")
      i.count = 2;
    else if (part == "v4")
      i.count = 4;
    else if (part == "add" && word != "ld" && word != "st")
      adds = true;
    else if (!one_of(part, {"nc", "volatile", "relaxed", "acquire", "release", "weak", "gpu", "cta", "sys",
                            "L1::no_allocate", "ca", "cg", "cs"}))
      return false;
  }
  const std::string_view type = parts.back();
  if (word == "ld" || word == "st") {
    i.run = word == "ld" ? handler_for<Load>(type, wide_register) : handler_for<Store>(type, wide_register);
    const char read = wide_register ? 'd' : 'w', written = wide_register ? 'D' : 'W';
    operands = word == "ld" ? std::string(i.count, written) + "a" : "a" + std::string(i.count, read);
    return i.run != nullptr;
  }
  if (!adds) return false;
  const bool returns = word == "atom", wide = one_of(type, {"u64", "s64", "f64"});
  if (one_of(type, {"u64", "s64"})) i.run = returns ? add<std::uint64_t, true> : add<std::uint64_t, false>;
  if (one_of(type, {"u32", "s32"})) i.run = returns ? add<std::uint32_t, true> : add<std::uint32_t, false>;
  if (type == "f32") i.run = returns ? add<float, true> : add<float, false>;
  if (type == "f64") i.run = returns ? add<double, true> : add<double, false>;
  operands = std::string(returns ? (wide ? "D" : "W") : "") + "a" + (wide ? "d" : "w");
  return i.run != nullptr;
}

}  // namespace cottention::ptx
