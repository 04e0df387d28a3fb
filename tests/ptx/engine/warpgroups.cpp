// wgmma and setmaxnreg. A warp computes its 16 rows when it comes to the product, which so is done at once.
#include <vector>

#include "../../emulation/include/emulation/tensor_cores.hpp"
#include "forms.hpp"
#include "tensor_map.hpp"

namespace cottention::ptx {
namespace {

float bfloat(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
float half(std::uint16_t bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); }

/// PTX ISA, "Matrix Descriptor Format" and "Strides".
struct Descriptor {
  explicit Descriptor(std::uint64_t bits)
      : start((bits & 0x3fff) << 4), leading((bits >> 16 & 0x3fff) << 4), stride((bits >> 32 & 0x3fff) << 4) {
    constexpr std::uint64_t units_of_mode[] = {1, 8, 4, 2};
    units = units_of_mode[bits >> 62];
  }
  /// Of an element: `k` counts along the 16 that are summed over, `mn` along rows of a or columns of b.
  std::uint64_t address(std::uint64_t mn, std::uint64_t k, bool transposed) const {
    std::uint64_t offset = 0;
    if (!transposed) {
      offset = mn / 8 * stride + mn % 8 * 16 * units + (units == 1 ? k / 8 * leading + k % 8 * 2 : k * 2);
    } else {
      const std::uint64_t unit = mn / 8;
      const std::uint64_t along_mn = units == 1 ? stride : leading, along_k = units == 1 ? leading : stride;
      offset =
          unit / units * along_mn + unit % units * 16 + mn % 8 * 2 + k / 8 * along_k + k % 8 * 16 * units;
    }
    return swizzled(start + offset, units - 1);
  }
  std::uint64_t start, leading, stride, units;
};

enum Options : std::uint16_t { is_half = 1, a_in_registers = 2 };

/// wgmma.mma_async {d...}, a or {a...}, b, add, 1, 1 [, a transposed], b transposed; `count` sums of a lane.
void multiply(Warp& w, const Instruction& i) {
  const int sums = i.count, n = 2 * sums;
  const bool from_registers = (i.extra & a_in_registers) != 0;
  const auto widen = (i.extra & is_half) != 0 ? half : bfloat;
  const std::uint32_t* next = i.o + sums;
  const auto flag = [&] { return *w.at<std::uint32_t>(*next++); };
  const auto load = [&](std::uint64_t address) {
    std::uint16_t bits;
    std::memcpy(&bits, w.memory(i, 0, Space::shared, address, 2), 2);
    return widen(bits);
  };
  const auto columns = static_cast<std::size_t>(n);
  float a[16][16];
  std::vector<float> b(16 * columns), d(16 * columns);
  std::uint64_t a_bits = 0;
  if (from_registers) {
    for (int r = 0; r < 4; ++r, ++next)
      for (int l = 0; l < lanes; ++l)
        for (int e = 0; e < 2; ++e)
          a[l / 4 + 8 * (r % 2)][2 * (l % 4) + 8 * (r / 2) + e] =
              widen(static_cast<std::uint16_t>(w.at<std::uint32_t>(*next)[l] >> (16 * e)));
  } else {
    a_bits = *w.at<std::uint64_t>(*next++);
  }
  const Descriptor b_from(*w.at<std::uint64_t>(*next++));
  const std::uint32_t adds = flag();
  if (flag() != 1 || flag() != 1) w.fail(i, 0, "scaled operands are not known");
  const bool a_transposed = !from_registers && flag() != 0, b_transposed = flag() != 0;
  if (!from_registers)
    for (unsigned row = 0; row < 16; ++row)
      for (unsigned k = 0; k < 16; ++k)
        a[row][k] =
            load(Descriptor(a_bits).address(static_cast<unsigned>(w.index % 4) * 16 + row, k, a_transposed));
  for (std::size_t k = 0; k < 16; ++k)
    for (std::size_t column = 0; column < columns; ++column)
      b[k * columns + column] = load(b_from.address(column, k, b_transposed));
  /// f(a sum's register in a lane, the sum)
  const auto for_each_sum = [&](auto f) {
    for (int s = 0; s < sums; ++s)
      for (int l = 0; l < lanes; ++l) {
        const int row = l / 4 + 8 * (s % 4 / 2), column = s / 4 * 8 + 2 * (l % 4) + s % 2;
        f(w.at<std::uint32_t>(i.o[s])[l], d[static_cast<std::size_t>(row * n + column)]);
      }
  };
  if ((adds & 1) != 0)
    for_each_sum([](std::uint32_t& bits, float& sum) { sum = std::bit_cast<float>(bits); });
  emulation::add_products(emulation::tensor_cores_from_environment(),
                          (i.extra & is_half) != 0 ? emulation::Factor::half : emulation::Factor::bfloat16,
                          16, columns, 16, d.data(), a[0], b.data());
  for_each_sum([](std::uint32_t& bits, const float& sum) { bits = std::bit_cast<std::uint32_t>(sum); });
}

void nothing(Warp&, const Instruction&) {}

}  // namespace

void add_warpgroups(Forms& f) {
  f["wgmma.fence.sync.aligned"] = {nothing, "", Kind::converged};
  f["wgmma.commit_group.sync.aligned"] = {nothing, "", Kind::converged};
  f["wgmma.wait_group.sync.aligned"] = {nothing, "w", Kind::converged};
  f["setmaxnreg.inc.sync.aligned.u32"] = {nothing, "w", Kind::converged};
  f["setmaxnreg.dec.sync.aligned.u32"] = {nothing, "w", Kind::converged};
  // z is read and written. One text of operands for each n serves all: the longest, cut where it starts.
  static const std::string all_sums(128, 'z');
  static const std::string from_shared = all_sums + "ddpwwww", from_registers = all_sums + "wwwwdpwww";
  for (int n = 8; n <= 256; n += 8)
    for (std::uint16_t is_16 = 0; is_16 <= is_half; ++is_16) {
      const std::string type = is_16 != 0 ? ".f16.f16" : ".bf16.bf16";
      const std::string name = "wgmma.mma_async.sync.aligned.m64n" + std::to_string(n) + "k16.f32" + type;
      f[name] = {multiply, from_shared.c_str() + 128 - n / 2, Kind::converged, is_16};
      f[name + " registers"] = {multiply, from_registers.c_str() + 128 - n / 2, Kind::converged,
                                static_cast<std::uint16_t>(is_16 | a_in_registers)};
    }
}

}  // namespace cottention::ptx
