// Products of warpgroups. PTX ISA: wgmma.
//
// Each warp does its 16 rows of d on its own, when it likes: the hardware promises no more. That all four
// warps issue the same products is checked.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include <emulation/words.hpp>

#include "races.hpp"

namespace cottention::emulation {

/// A product in flight, of one warp.
struct WarpProduct {
  static constexpr std::size_t lanes = 32;
  WarpgroupProduct what;  // without its registers
  std::array<float*, lanes> d{};
  std::array<std::array<std::uint32_t, 4>, lanes> a{};
  std::vector<float>
      before;  // d when it was issued, lane by lane; empty: d itself, which an earlier product leaves
  Where where;
  enum class State { in_flight, done } state = State::in_flight;
};

/// The products of one warp, in the order of issue.
struct WarpProducts {
  struct Group {
    int size = 0;         // products
    races::Token issued;  // what they read is read before what takes it
  };
  std::deque<WarpProduct> in_order;
  std::deque<Group> groups;
  int open = 0;  // not in a group yet
  enum class Registers { free, fenced } registers = Registers::free;
  std::size_t issued = 0;

  WarpProducts() = default;
  WarpProducts(WarpProducts&&) =
      default;  // and no copies, which vectors would prefer to moves that may throw
  WarpProducts& operator=(WarpProducts&&) = default;

  void clear() { *this = WarpProducts(); }
};

/// What the first warp to come there issued, for its three companions.
struct Warpgroup {
  struct Issued {
    WarpgroupProduct what;
    Where where;
  };
  std::vector<Issued> products;
};

/// When a thread exits: fails if a product may still be in flight.
void finish_products(const WarpProducts& products);

}  // namespace cottention::emulation
