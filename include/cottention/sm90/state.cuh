// The state of a recurrence, H = sum of b_j c_j^T, in the accumulators of warpgroups, transposed: H^T
// (columns of c, columns of b) in fp32, 64 rows in each. Another warpgroup reads it in shared memory, as
// publish() leaves it.
#pragma once

#include <concepts>
#include <cstdint>

#include <cottention/device/barrier.cuh>
#include <cottention/device/tma.cuh>
#include <cottention/recurrence.hpp>
#include <cottention/sm90/tiles.cuh>
#include <cottention/tile/exponents.cuh>
#include <cottention/tile/scores.cuh>
#include <cottention/tile/split.cuh>

namespace cottention::sm90 {

/// H^T as an operand, high + low, (columns of c, columns of b). For half each warp has divided its 16 rows by
/// a power of two.
template <Element T, int c_columns, int b_columns>
struct StateTile {
  static constexpr int c_panels = Tile<T, c_columns>::panels, b_panels = Tile<T, b_columns>::panels;
  Panel<T> high[c_panels][b_panels], low[c_panels][b_panels];
};
template <Element T, int c_columns>
struct StateExponents {
  static constexpr int count = std::same_as<T, half> ? 4 * Tile<T, c_columns>::panels : 1;
  float scale[count];  // (rows / 16): what those rows were divided by
};

/// A state that is read both ways. In half one power of two divides all of it: exponents of rows would be
/// factors of the output in one reading, and of the terms of its sums in the other. Low parts are then
/// multiplied by tile::rest_scale, so that elements are rounded to 2^-51 of the largest at worst.
template <Element T, int c_columns, int b_columns = c_columns>
struct TwoWayStateTile : StateTile<T, c_columns, b_columns> {
  alignas(16) float largest[4];  // (warps): of the warp's rows
  float scale;                   // what all was divided by

  /// The state in half, one part of it, as publish_rounded() leaves it.
  __device__ __forceinline__ auto& rounded() {
    return reinterpret_cast<Panel<half>(&)[Tile<T, c_columns>::panels][Tile<T, b_columns>::panels]>(
        this->high);
  }
};

/// What the terms of a chunk are multiplied by, in shared memory.
template <Element T>
struct ChunkTerms {
  tile::TermFactors<T, chunk_rows> factors;  // (64)
  float weight;                              // of the sum over the chunk; 1 but for half
};

/// Whether a state gets the terms of a chunk or loses them.
enum class Change { add, subtract };

/// The rows of H^T that one warpgroup has.
template <Element T, HeadDim dims>
class State {
 public:
  static constexpr int groups = Tile<T, dims.v>::panels;  // warpgroups that have all of it

  /// group: the warpgroup's index among them.
  explicit __device__ __forceinline__ State(int group) : group_(group) {}

  __device__ __forceinline__ void set_zero() {
    h_.for_each([](float& x, int, int, int) { x = 0; });
  }

  // ---- H (dims.qk, dims.v) in global memory; scope: thread

  __device__ __forceinline__ void load(const float* h, recurrence::StateLayout layout) {
    for_each_element(layout, [h](float& x, int offset, bool exists) {
      x = exists ? device::load_global(h + offset) : 0.0f;
    });
  }
  __device__ __forceinline__ void store(float* h, recurrence::StateLayout layout) {
    for_each_element(layout, [h](float& x, int offset, bool exists) {
      if (exists) device::store_global(h + offset, x);
    });
  }

  /// The sum of the squared distances of the lane's elements from H in memory; null: from 0.
  __device__ __forceinline__ float squared_distance(const float* h, recurrence::StateLayout layout) {
    float sum = 0;
    for_each_element(layout, [h, &sum](float& x, int offset, bool exists) {
      const float difference = x - (exists && h != nullptr ? device::load_global(h + offset) : 0.0f);
      sum = device::fma(difference, difference, sum);
    });
    return sum;
  }
  /// The sum of the squares of the lane's elements.
  __device__ __forceinline__ float squares() { return h_.squares(); }

  // ---- partial states (partial_elements): register by register

  static constexpr int group_elements = chunk_rows * dims.qk;
  static constexpr std::int64_t partial_elements = std::int64_t{groups} * group_elements;

  __device__ __forceinline__ void load_partial(const float* partial) {
    for_each_vector([partial](Vec& vec, int offset) {
      vec = device::load_global(reinterpret_cast<const Vec*>(partial + offset));
    });
  }
  __device__ __forceinline__ void store_partial(float* partial) {
    for_each_vector([partial](Vec& vec, int offset) {
      device::store_global(reinterpret_cast<Vec*>(partial + offset), vec);
    });
  }
  /// Loads H from the partial state of a recurrence that has b and c exchanged, and so H in place of H^T.
  __device__ __forceinline__ void load_transposed_partial(const float* partial) {
    const int lane = own_lane();
    const int c = chunk_rows * group_ + 16 * warp_in_group() + lane / 4, b = 2 * (lane % 4);
    h_.for_each([&](float& x, int h, int column, int e) {
      x = c + 8 * h < dims.v
              ? device::load_global(
                    partial + State<T, HeadDim{dims.v, dims.qk}>::partial_offset(b + column + e, c + 8 * h))
              : 0.0f;
    });
  }
  /// The sum of the squared distances of the lane's elements from a partial state.
  __device__ __forceinline__ float squared_distance_from_partial(const float* partial) {
    float sum = 0;
    for_each_vector([partial, &sum](Vec& vec, int offset) {
      const Vec other = device::load_global(reinterpret_cast<const Vec*>(partial + offset));
#pragma unroll
      for (int i = 0; i < 4; ++i) sum = device::fma(vec[i] - other[i], vec[i] - other[i], sum);
    });
    return sum;
  }
  /// Where an element of H^T, (column of c, column of b), is in a partial state: for_each_vector() has the
  /// order.
  static __device__ __forceinline__ int partial_offset(int c, int b) {
    const int thread = c % 64 / 16 * 32 + c % 8 * 4 + b % 8 / 2;
    return c / 64 * group_elements + b / 8 * 512 + thread * 4 + c % 16 / 8 * 2 + b % 2;
  }

  // ---- arithmetic

  /// Writes the warpgroup's rows to shared memory as operands. Scope: warpgroup; a fence_proxy_async() and an
  /// mbarrier must be between it and products that read the tile.
  __device__ __forceinline__ void publish(StateTile<T, dims.v, dims.qk>& tile,
                                          StateExponents<T, dims.v>& exponents) {
    if constexpr (std::same_as<T, half>) {
      const int exponent = tile::exponent_for_half(largest());
      const float scale = device::times_power_of_two(1.0f, -exponent);
      if (own_lane() == 0)
        device::store_shared(exponents.scale + 4 * group_ + warp_in_group(),
                             device::times_power_of_two(1.0f, exponent));
      write(tile, [scale](float x0, float x1, std::uint32_t& high, std::uint32_t& low) {
        tile::split<T>(x0 * scale, x1 * scale, high, low);
      });
    } else {
      write(tile, [](float x0, float x1, std::uint32_t& high, std::uint32_t& low) {
        tile::split<T>(x0, x1, high, low);
      });
    }
  }
  /// The same of a state that one warpgroup has all of, in `parts`. Scope: as above; barriers inside: for
  /// half 1, barrier 2, and between two calls with one tile a barrier must order the warpgroup's threads.
  template <std::same_as<State>... Parts>
  static __device__ __forceinline__ void publish_all(TwoWayStateTile<T, dims.v, dims.qk>& tile,
                                                     Parts&... parts) {
    static_assert(groups == sizeof...(parts));
    if constexpr (std::same_as<T, half>) {
      const float up = publish_scale(tile, parts...);
      const auto split = [up](float x0, float x1, std::uint32_t& high, std::uint32_t& low) {
        tile::split<T>(x0 * up, x1 * up, tile::rest_scale<T>, high, low);
      };
      (parts.write(tile, split), ...);
    } else {
      StateExponents<T, dims.v> nothing;
      (parts.publish(tile, nothing), ...);
    }
  }
  __device__ __forceinline__ void publish(TwoWayStateTile<T, dims.v, dims.qk>& tile) {
    publish_all(tile, *this);
  }
  /// The same of one part, in half. Scope: as above; barriers inside: 1, barrier 2.
  template <std::same_as<State>... Parts>
  static __device__ __forceinline__ void publish_rounded(TwoWayStateTile<T, dims.v, dims.qk>& tile,
                                                         Parts&... parts) {
    static_assert(groups == sizeof...(parts));
    const float up = publish_scale(tile, parts...);
    (parts.write_rounded(tile, up), ...);
  }

  /// H += weight times the sum over the chunk of b_j (factor_j c_j)^T, or H -=, which takes the very products
  /// away that have been added. b: (64, dims.qk), c: (64, dims.v). The
  /// sum over the chunk starts from zero and is added with rounding: tensor cores truncate, so a running sum
  /// would drift. bounded: no factor is far above 1. examine(elements) is called with those of c that the
  /// lane has, pairs in one register. Scope: warpgroup. No product is in flight afterwards.
  template <bool bounded, Change change = Change::add>
  __device__ __forceinline__ void absorb(const Tile<T, dims.qk>& b, Tile<T, dims.v>& c,
                                         const ChunkTerms<T>& terms) {
    absorb<bounded, change>(b, c, terms, [](const auto&) {});
  }
  template <bool bounded, Change change = Change::add, class Examine>
  __device__ __forceinline__ void absorb(const Tile<T, dims.qk>& b, Tile<T, dims.v>& c,
                                         const ChunkTerms<T>& terms, Examine examine) {
    std::uint32_t high[4][4], low[4][4];
    load_columns(c.panel[group_], high);
    examine(high);
    const float weight = scale<bounded>(terms, high, low);
    for_each_panel<Sums<dims.qk>::panels>([&]<int p>() {
      constexpr int n = panel_width<dims.qk, p>;
      float added[n / 2];
      device::wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const device::MatrixDescriptor right = b.panel[p].columns_as_mn(k);
        device::wgmma_m64k16<T, n, device::Major::mn>(added, low[k], right,
                                                      k == 0 ? device::Sum::start : device::Sum::add);
        device::wgmma_m64k16<T, n, device::Major::mn>(added, high[k], right, device::Sum::add);
      }
      device::wgmma_commit();
      device::wgmma_wait<0>();
      device::pin_registers(added);
#pragma unroll
      for (int i = 0; i < n / 2; ++i) {
        constexpr float sign = change == Change::add ? 1 : -1;
        if constexpr (std::same_as<T, half>)
          h_.of_panel[p][i] = device::fma(sign * weight, added[i], h_.of_panel[p][i]);
        else
          h_.of_panel[p][i] += sign * added[i];
      }
    });
  }

 private:
  using Vec = device::Vector<float, 4>;

  /// Writes the warpgroup's rows as operands that split(x0, x1, high, low) makes. Scope: warp; barriers
  /// inside: 0.
  template <class Split>
  __device__ __forceinline__ void write(StateTile<T, dims.v, dims.qk>& tile, Split split) {
    T* const own_high = lane_vector(tile.high[group_][0]);
    constexpr int to_low = static_cast<int>(sizeof tile.high / sizeof(T));  // elements
#pragma unroll
    for (int c = 0; c < dims.qk; c += 16) {
      std::uint32_t high[4], low[4];
      const float* const x = &h_.of_panel[c / 64][c % 64 / 2];
#pragma unroll
      for (int i = 0; i < 4; ++i) split(x[2 * i], x[2 * i + 1], high[i], low[i]);
      device::stmatrix_x4(lane_vector_of(own_high, c / 16), high);
      device::stmatrix_x4(lane_vector_of(own_high, c / 16) + to_low, low);
    }
  }

  /// The same of half, times `up`. Scope: warp; barriers inside: 0.
  __device__ __forceinline__ void write_rounded(TwoWayStateTile<T, dims.v, dims.qk>& tile, float up) {
    half* const own = lane_vector(tile.rounded()[group_][0]);
#pragma unroll
    for (int c = 0; c < dims.qk; c += 16) {
      std::uint32_t pairs[4];
      const float* const x = &h_.of_panel[c / 64][c % 64 / 2];
#pragma unroll
      for (int i = 0; i < 4; ++i) pairs[i] = device::pack<half>(x[2 * i] * up, x[2 * i + 1] * up);
      device::stmatrix_x4(lane_vector_of(own, c / 16), pairs);
    }
  }

  /// Writes what the state is divided by. Returns the inverse. Scope: warpgroup; barriers inside: 1.
  template <class... Parts>
  static __device__ __forceinline__ float publish_scale(TwoWayStateTile<T, dims.v, dims.qk>& tile,
                                                        Parts&... parts) {
    float of_lane = 0;
    (parts.raise_to_largest(of_lane), ...);
    const float of_warp = tile::max_over_warp(of_lane);
    if (own_lane() == 0) device::store_shared(tile.largest + warp_in_group(), of_warp);
    device::bar_sync(2, 128);
    const auto of_warps =
        device::load_shared(reinterpret_cast<const device::Vector<float, 4>*>(tile.largest));
    float of_all = of_warps[0];
#pragma unroll
    for (int i = 1; i < 4; ++i) of_all = of_warps[i] > of_all ? of_warps[i] : of_all;
    const int exponent = tile::exponent_for_half(of_all);
    if (own_lane() == 0 && warp_in_group() == 0)
      device::store_shared(&tile.scale, device::times_power_of_two(1.0f, exponent));
    return device::times_power_of_two(1.0f, -exponent);
  }

  /// Beyond 64 columns lanes lack the registers for what follows from their index.
  static __device__ __forceinline__ int own_lane() {
    return dims.qk > 64 ? lane_index() : device::lane_index();
  }

  /// The warp's 16 columns of c, transposed: four steps of 16 terms. Scope: warp; barriers inside: 0.
  static __device__ __forceinline__ void load_columns(Panel<T>& c, std::uint32_t (&x)[4][4]) {
    const int lane = own_lane();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      device::ldmatrix_x4_trans(
          x[k], c.at(16 * k + lane % 8 + lane / 16 * 8, 16 * warp_in_group() + lane / 8 % 2 * 8));
  }
  /// Multiplies what load_columns() loaded by the factors of the terms, and splits it. Returns what products
  /// are to be multiplied by. Scope: warp; barriers inside: 0.
  template <bool bounded>
  static __device__ __forceinline__ float scale(const ChunkTerms<T>& terms, std::uint32_t (&high)[4][4],
                                                std::uint32_t (&low)[4][4]) {
    const int t = own_lane() % 4;
    [[maybe_unused]] int exponent = 0;
    [[maybe_unused]] float up = 1;
    if constexpr (std::same_as<T, half>) {
      exponent = exponent_of(high);
      if constexpr (!bounded) exponent += tile::exponent_of_factors<chunk_rows>(terms.factors.full);
      up = device::times_power_of_two(1.0f, -exponent);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int second = 0; second < 2; ++second) {
        const int term = 16 * k + 8 * second + 2 * t;
        if constexpr (std::same_as<T, bfloat16>) {
          const auto f = device::load_shared(
              reinterpret_cast<const device::Vector<std::uint32_t, 2>*>(terms.factors.hi_lo + 2 * term));
#pragma unroll
          for (int i = 2 * second; i < 2 * second + 2; ++i)
            tile::split_product(high[k][i], f[0], f[1], high[k][i], low[k][i]);
        } else {
          auto f = device::load_shared(
              reinterpret_cast<const device::Vector<float, 2>*>(terms.factors.full + term));
#pragma unroll
          for (int i = 2 * second; i < 2 * second + 2; ++i)
            tile::split<T>(device::unpack_low<T>(high[k][i]) * (f[0] * up),
                           device::unpack_high<T>(high[k][i]) * (f[1] * up), high[k][i], low[k][i]);
        }
      }
    if constexpr (std::same_as<T, half>)
      return device::times_power_of_two(device::load_shared(&terms.weight), exponent);
    else
      return 1;
  }

  /// The exponent of the power of two that the elements are divided by: low parts of small ones would be
  /// below half's range. Elements that are not finite do not count. Scope: warp; barriers inside: 0.
  static __device__ __forceinline__ int exponent_of(const std::uint32_t (&x)[4][4]) {
    const auto largest = [&x]<bool examines>() {
      float found = 0;
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          for (const float element : {device::unpack_low<T>(x[k][i]), device::unpack_high<T>(x[k][i])}) {
            const float magnitude = device::magnitude(element);
            found = magnitude > found && (!examines || device::is_finite(magnitude)) ? magnitude : found;
          }
      return tile::max_over_warp(found);
    };
    const float of_all = largest.template operator()<false>();
    return tile::exponent_for_half(device::is_finite(of_all) ? of_all : largest.template operator()<true>());
  }

  /// The largest magnitude among the finite elements of the warp's rows, in all lanes. Scope: warp; barriers
  /// inside: 0.
  __device__ __forceinline__ float largest() {
    float of_lane = 0;
    raise_to_largest(of_lane);
    return tile::max_over_warp(of_lane);
  }
  /// Makes it the largest magnitude among it and the finite elements that the lane has.
  __device__ __forceinline__ void raise_to_largest(float& largest) {
    h_.for_each([&largest](float& x, int, int, int) {
      const float magnitude = device::magnitude(x);
      largest = device::is_finite(x) && magnitude > largest ? magnitude : largest;
    });
  }

  /// f(element, offset in H, exists) for each element of the lane.
  template <class F>
  __device__ __forceinline__ void for_each_element(recurrence::StateLayout layout, F f) {
    const int lane = own_lane();
    const int b_stride = layout == recurrence::StateLayout::as_is ? dims.v : 1;
    const int c_stride = layout == recurrence::StateLayout::as_is ? 1 : dims.qk;
    const int c = chunk_rows * group_ + 16 * warp_in_group() + lane / 4, b = 2 * (lane % 4);
    h_.for_each([&](float& x, int h, int column, int e) {
      f(x, (b + column + e) * b_stride + (c + 8 * h) * c_stride, c + 8 * h < dims.v);
    });
  }

  /// f(four accumulators, their offset in a partial state).
  template <class F>
  __device__ __forceinline__ void for_each_vector(F f) {
    const int first = group_ * group_elements + device::opaque(device::thread_index()) % 128 * 4;
#pragma unroll
    for (int c = 0; c < dims.qk; c += 8) {
      Vec vec;
      float* const x = &h_.of_panel[c / 64][c % 64 / 2];
#pragma unroll
      for (int i = 0; i < 4; ++i) vec[i] = x[i];
      f(vec, first + c / 8 * 512);
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = vec[i];
    }
  }

  int group_;
  Sums<dims.qk> h_;
};

}  // namespace cottention::sm90
