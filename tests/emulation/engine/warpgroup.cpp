#include "warpgroup.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "block.hpp"
#include "fragments.hpp"

namespace cottention::emulation {
namespace {

constexpr std::size_t warps_per_group = 4;
constexpr std::size_t rows = 16;  // of d, for a warp
constexpr std::size_t depth = 16;
constexpr std::size_t unit_bytes = 16, unit_elements = 8;
constexpr std::uint32_t window_start =
    1024;  // of the block's memory among shared addresses; a multiple of every repeat

// A matrix descriptor, taken apart. PTX ISA, "Matrix descriptor format".
struct Descriptor {
  std::uint32_t start, leading, stride, span;  // bytes; span of the swizzle, 16: none

  explicit Descriptor(std::uint64_t bits)
      : start(field(bits)), leading(field(bits >> 16)), stride(field(bits >> 32)), span(16) {
    constexpr std::uint32_t spans[] = {16, 128, 64, 32};
    span = spans[bits >> 62];
  }
  static std::uint32_t field(std::uint64_t bits) { return static_cast<std::uint32_t>(bits & 0x3fff) << 4; }

  // The shared address of the unit that holds element (mn, k). PTX ISA, "Canonical layouts".
  std::uint32_t address(Orientation orientation, std::size_t mn, std::size_t k) const {
    const auto i = static_cast<std::uint32_t>(mn), j = static_cast<std::uint32_t>(k);
    const std::uint32_t units = span / 16;
    std::uint32_t offset = 0;
    if (orientation == Orientation::straight)  // rows of span bytes along k
      offset = i % 8 * span + i / 8 * stride + j / 8 * (units == 1 ? leading : 16);
    else if (units == 1)
      offset = j % 8 * 16 + j / 8 * leading + i / 8 * stride;
    else  // rows of span bytes along m or n
      offset = j % 8 * span + j / 8 * stride + i / 8 % units * 16 + i / 8 / units * leading;
    const std::uint32_t at = start + offset;
    return at ^ ((at >> 7 & (units - 1)) << 4);
  }
};

using Unit = std::array<float, unit_elements>;

class Operands {
 public:
  Operands(Block& block, const WarpProduct& product) : block_(block), product_(product) {}

  // Calls put(mn, k, value) for every element, mn below `count` from `first`.
  template <class Put>
  void read(std::uint64_t bits, Orientation orientation, std::size_t first, std::size_t count,
            Put put) const {
    const Descriptor descriptor(bits);
    const bool straight = orientation == Orientation::straight;
    for (std::size_t mn = 0; mn < count; mn += straight ? 1 : unit_elements)
      for (std::size_t k = 0; k < depth; k += straight ? unit_elements : 1) {
        const Unit values = unit(descriptor.address(orientation, first + mn, k));
        for (std::size_t e = 0; e < unit_elements; ++e)
          straight ? put(mn, k + e, values[e]) : put(mn + e, k, values[e]);
      }
  }

  float value(std::uint32_t bits) const {
    return product_.what.operand == Operand::half ? half_value(bits) : bfloat16_value(bits);
  }

 private:
  Unit unit(std::uint32_t address) const {
    const unsigned char* at = block_.shared().data() + address - window_start;
    const std::uint32_t offset = block_.shared().check(at, unit_bytes, unit_bytes, "wgmma", product_.where);
    block_.hidden().check(offset, "wgmma", product_.where);
    Unit values;
    for (std::size_t e = 0; e < unit_elements; ++e) {
      std::uint16_t bits;
      std::memcpy(&bits, at + 2 * e, sizeof bits);
      values[e] = value(bits);
    }
    return values;
  }

  Block& block_;
  const WarpProduct& product_;
};

// The lane's sum i is element (row, column). PTX ISA, "Register fragments for wgmma.mma_async.m64nNk16",
// accumulator.
std::size_t row_of(std::size_t lane, std::size_t i) { return lane / 4 + 8 * (i / 2 % 2); }
std::size_t column_of(std::size_t lane, std::size_t i) { return 8 * (i / 4) + 2 * (lane % 4) + i % 2; }

void execute(Block& b, WarpProduct& product, std::size_t warp) {
  if (product.state == WarpProduct::State::done) return;
  const auto n = static_cast<std::size_t>(product.what.n);
  const Operands operands(b, product);
  float x[rows][depth];
  std::vector<float> y(depth * n), d(rows * n);
  if (product.what.a_registers != nullptr) {
    for (std::size_t lane = 0; lane < WarpProduct::lanes; ++lane)
      for (std::size_t r = 0; r < 4; ++r)
        for (std::size_t e = 0; e < 2; ++e)
          x[lane / 4 + 8 * (r % 2)][2 * (lane % 4) + 8 * (r / 2) + e] =
              operands.value(product.a[lane][r] >> (16 * e) & 0xffffu);
  } else {
    operands.read(product.what.a_descriptor, product.what.a_orientation, rows * (warp % warps_per_group),
                  rows, [&](std::size_t i, std::size_t k, float value) { x[i][k] = value; });
  }
  operands.read(product.what.b_descriptor, product.what.b_orientation, 0, n,
                [&](std::size_t j, std::size_t k, float value) { y[k * n + j] = value; });

  for (std::size_t lane = 0; lane < WarpProduct::lanes; ++lane) {
    const float* before = product.before.empty() ? product.d[lane] : product.before.data() + lane * n / 2;
    for (std::size_t i = 0; i < n / 2; ++i)
      d[row_of(lane, i) * n + column_of(lane, i)] =
          product.what.sum == WarpgroupProduct::Sum::add ? before[i] : 0.0f;
  }
  const Factor factor = product.what.operand == Operand::half ? Factor::half : Factor::bfloat16;
  add_products(options().tensor_cores, factor, rows, n, depth, d.data(), x[0], y.data());
  for (std::size_t lane = 0; lane < WarpProduct::lanes; ++lane)
    for (std::size_t i = 0; i < n / 2; ++i) product.d[lane][i] = d[row_of(lane, i) * n + column_of(lane, i)];
  product.state = WarpProduct::State::done;
}

// Declares what the warp reads to the race detector, as lane 0's products: from when it is issued to when its
// group is waited for. Counts what the warpgroup reads, once.
void declare(Block& b, const WarpProduct& product, std::size_t warp, void* caller) {
  const auto n = static_cast<std::size_t>(product.what.n);
  const bool a_is_shared = product.what.a_registers == nullptr;
  if (warp % warps_per_group == 0) {
    const std::size_t bytes = 2 * depth * (n + (a_is_shared ? rows * warps_per_group : 0));
    ++b.statistics().warpgroup_products;
    b.statistics().shared_bytes_read += bytes;
    b.statistics().shared_wavefronts += bytes / 128;
  }
  if (!races::on()) return;
  void* const fiber = b.thread_at(static_cast<int>(warp) * warp_size).identity.begin(races::Async::products);
  const auto reads = [&](std::uint64_t bits, Orientation orientation, std::size_t first, std::size_t count) {
    const Descriptor descriptor(bits);
    const bool straight = orientation == Orientation::straight;
    for (std::size_t mn = 0; mn < count; mn += straight ? 1 : unit_elements)
      for (std::size_t k = 0; k < depth; k += straight ? unit_elements : 1) {
        const unsigned char* at =
            b.shared().data() + descriptor.address(orientation, first + mn, k) - window_start;
        b.shared().check_inside(at, unit_bytes, unit_bytes, "wgmma", product.where);
        races::declare(fiber, races::Touch::read, at, unit_bytes, product.where, caller);
      }
  };
  if (a_is_shared)
    reads(product.what.a_descriptor, product.what.a_orientation, rows * (warp % warps_per_group), rows);
  reads(product.what.b_descriptor, product.what.b_orientation, 0, n);
  Entry::fail_for_report(product.where);
}

bool alike(const WarpgroupProduct& x, const WarpgroupProduct& y) {
  return x.operand == y.operand && x.n == y.n && (x.a_registers == nullptr) == (y.a_registers == nullptr) &&
         x.a_descriptor == y.a_descriptor && x.b_descriptor == y.b_descriptor &&
         x.a_orientation == y.a_orientation && x.b_orientation == y.b_orientation && x.sum == y.sum;
}

void check_with_companions(Block& b, const WarpProduct& product, std::size_t warp) {
  if ((warp / warps_per_group + 1) * warps_per_group * warp_size > static_cast<std::size_t>(b.thread_count()))
    fail(product.where, "wgmma: the warp is in no complete warpgroup");
  auto& products = b.warpgroup(warp / warps_per_group).products;
  const std::size_t index = b.warp().products.issued++;
  if (index == products.size()) {
    products.push_back({product.what, product.where});
  } else if (!alike(products[index].what, product.what) ||
             !same_place(products[index].where, product.where)) {
    fail(product.where, "wgmma: another warp of the warpgroup issued a different product in its place, at %s",
         PlaceName(products[index].where).text);
  }
}

// PTX ISA, "wgmma.fence": products follow each other on the same sums without a wait if they are of one
// shape, and else not.
void check_sums_in_flight(const WarpProducts& products, const WarpProduct& next) {
  const auto end_of = [](const WarpProduct& x) { return x.d[0] + x.what.n / 2; };
  for (const WarpProduct& earlier : products.in_order) {
    if (end_of(earlier) <= next.d[0] || end_of(next) <= earlier.d[0]) continue;
    if (earlier.d[0] != next.d[0] || earlier.what.n != next.what.n)
      fail(next.where,
           "wgmma: sums of m64n%dk16 are those of the product of m64n%dk16 at %s, which nothing has waited "
           "for: "
           "only products of one shape may follow each other on the same sums",
           next.what.n, earlier.what.n, PlaceName(earlier.where).text);
  }
}

struct Argument {
  float* d;
  const WarpgroupProduct* product;
};

void issue(Block& b, const std::array<Argument*, warp_size>& lanes, Where where, void* caller) {
  const auto warp = static_cast<std::size_t>(position.thread / warp_size);
  WarpProducts& products = b.warp().products;
  if (products.registers == WarpProducts::Registers::free)
    fail(where, "wgmma: no wgmma_fence since the start or since the last wgmma_wait");
  WarpProduct product;
  product.what = *lanes[0]->product;
  product.where = where;
  const auto sums = static_cast<std::size_t>(product.what.n) / 2;
  for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
    const WarpgroupProduct& what = *lanes[lane]->product;
    if (!alike(what, product.what))
      fail(where, "wgmma: lane %zu has another descriptor or sum than lane 0", lane);
    product.d[lane] = lanes[lane]->d;
    if (what.a_registers != nullptr) std::copy_n(what.a_registers, 4, product.a[lane].begin());
  }
  check_with_companions(b, product, warp);
  check_sums_in_flight(products, product);
  declare(b, product, warp, caller);

  const auto follows = [&](const WarpProduct& earlier) {
    return earlier.state == WarpProduct::State::in_flight && earlier.d[0] == product.d[0];
  };
  const bool continues = std::any_of(products.in_order.begin(), products.in_order.end(), follows);
  if (!continues)
    for (float* d : product.d) {
      product.before.insert(product.before.end(), d, d + sums);
      std::fill_n(d, sums, std::numeric_limits<float>::quiet_NaN());  // until it is waited for
    }
  products.in_order.push_back(std::move(product));
  ++products.open;
  if (b.now())
    for (WarpProduct& each : products.in_order) execute(b, each, warp);
}

}  // namespace

void finish_products(const WarpProducts& products) {
  if (!products.in_order.empty())
    fail(products.in_order.front().where, "the thread exits without having waited for this product");
}

// ---- words
// -------------------------------------------------------------------------------------------------

std::uint32_t shared_address(const void* shared, Where where) {
  const Entry entry(where);
  return window_start +
         block().shared().check_inside(shared, unit_bytes, unit_bytes, "matrix descriptor", where);
}

void multiply(float* d, const WarpgroupProduct& product, Where where) {
  const Entry entry(where);
  void* const caller = __builtin_return_address(0);
  if (options().compute_capability != 90) fail(where, "wgmma: needs sm_90a");
  Argument argument{d, &product};
  Block& b = block();
  b.together("wgmma.mma_async", 0, argument, where,
             [&](const auto& lanes) { issue(b, lanes, where, caller); });
}

void wgmma_fence(Where where) {
  const Entry entry(where);
  int nothing = 0;
  Block& b = block();
  b.together("wgmma.fence", 0, nothing, where,
             [&](const auto&) { b.warp().products.registers = WarpProducts::Registers::fenced; });
}

void wgmma_commit(Where where) {
  const Entry entry(where);
  int nothing = 0;
  Block& b = block();
  b.together("wgmma.commit_group", 0, nothing, where, [&](const auto&) {
    WarpProducts& products = b.warp().products;
    products.groups.push_back({products.open, {}});
    products.open = 0;
    const int first_lane = position.thread / warp_size * warp_size;
    b.thread_at(first_lane).identity.release(races::Async::products, products.groups.back().issued);
  });
}

void wgmma_wait(int groups, Where where) {
  const Entry entry(where);
  int nothing = 0;
  Block& b = block();
  b.together("wgmma.wait_group", static_cast<std::uint64_t>(groups), nothing, where, [&](const auto&) {
    WarpProducts& products = b.warp().products;
    const auto warp = static_cast<std::size_t>(position.thread / warp_size);
    for (; products.groups.size() > static_cast<std::size_t>(groups); products.groups.pop_front()) {
      for (int i = 0; i < products.groups.front().size; ++i) {
        execute(b, products.in_order.front(), warp);
        products.in_order.pop_front();
        products.registers = WarpProducts::Registers::free;
      }
      b.acquire_for_warp(products.groups.front().issued);
    }
  });
}

void set_registers(int registers, Where where) {
  const Entry entry(where);
  if (options().compute_capability != 90) fail(where, "setmaxnreg: needs sm_90a");
  int nothing = 0;
  block().together("setmaxnreg", static_cast<std::uint64_t>(registers), nothing, where, [](const auto&) {});
}

}  // namespace cottention::emulation
