#include "../include/emulation/tensor_cores.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace cottention::emulation {
namespace {

constexpr std::size_t width = 8;  // columns at a time
constexpr std::size_t most_rows = 16, most_depth = 16;

// Vectors of the compiler's, which g++ and clang++ share.
using Floats [[gnu::vector_size(4 * width)]] = float;
using Ints [[gnu::vector_size(4 * width)]] = std::int32_t;
// Half of them.
using HalfFloats [[gnu::vector_size(2 * width)]] = float;
using HalfInts [[gnu::vector_size(2 * width)]] = std::int32_t;
using Doubles [[gnu::vector_size(4 * width)]] = double;
using Longs [[gnu::vector_size(4 * width)]] = std::int64_t;

template <class To, class From>
inline To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// significand 2^exponent, of eight numbers. As the hardware has it, the exponent of subnormal numbers is the
// least, and their significand below 1; 0 has the least of fp32's, so that no zero of half's decides where
// others are cut off.
struct Parts {
  Floats significands;
  Ints exponents;
};

inline int least_exponent(Factor factor) { return factor == Factor::half ? -14 : -126; }

inline Parts take_apart(const Floats& x, int least) {
  const Ints bits = bits_as<Ints>(x), exponents = (bits >> 23 & 0xff) - 127;
  // The exponent's field becomes that of 1.
  const Floats normal = bits_as<Floats>((bits & static_cast<std::int32_t>(0x807fffffu)) | 0x3f800000);
  const Ints small = exponents < least;
  const Ints least_exponents = (bits & 0x7fffffff) == 0 ? Ints{} - 126 : Ints{} + least;
  return {small ? x * std::bit_cast<float>((127 - least) << 23) : normal,
          small ? least_exponents : exponents};
}

inline Floats load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

// The sums of one row and eight columns.
class Sums {
 public:
  Sums(const float* d, int fraction_bits) : fraction_bits_(fraction_bits), values_(load(d)) {}

  // Adds `count` products as one block: of one number with eight each.
  void add(const Parts* a, const Parts* b, std::size_t count) {
    const Parts before = take_apart(values_, least_exponent(Factor::tf32));
    Ints most = before.exponents;
    for (std::size_t k = 0; k < count; ++k) {
      const Ints exponents = a[k].exponents + b[k].exponents;
      most = exponents > most ? exponents : most;
    }
    // Conversions to integers cut off. Sixteen products fit 31 bits: each is below 4 2^25.
    Ints sum = Ints{};
    for (std::size_t k = 0; k < count; ++k)
      sum += __builtin_convertvector(
          a[k].significands * b[k].significands * power(a[k].exponents + b[k].exponents - most), Ints);
    const Ints cut = __builtin_convertvector(before.significands * power(before.exponents - most), Ints);
    cut_off(sum, cut, most);
  }

  void store(float* d) const { std::memcpy(d, &values_, sizeof values_); }

 private:
  // 2^(fraction_bits + exponent), or 0 where that is next to nothing.
  Floats power(const Ints& exponents) const {
    const Ints field = exponents + (127 + fraction_bits_);
    return bits_as<Floats>((field > 0 ? field : Ints{}) << 23);
  }

  // The sum of x and y, in units of 2^(most - fraction_bits), cut off to fp32.
  void cut_off(const Ints& x, const Ints& y, const Ints& most) {
    alignas(Floats) float cut[width];
    for (std::size_t half = 0; half < 2; ++half) {
      const Doubles sum = doubles(x, half) + doubles(y, half);
      const Doubles exact =
          sum *
          bits_as<Doubles>(__builtin_convertvector(part(most, half) + (1023 - fraction_bits_), Longs) << 52);
      // 24 bits are left, which fp32 holds.
      const HalfFloats fitting =
          __builtin_convertvector(bits_as<Doubles>(bits_as<Longs>(exact) & ~0x1fffffffLL), HalfFloats);
      std::memcpy(cut + half * width / 2, &fitting, sizeof fitting);
    }
    const Floats sums = load(cut);
    // What an earlier block has made infinite stays so.
    const Ints infinite = (bits_as<Ints>(values_) & 0x7f800000) == 0x7f800000;
    values_ = infinite ? values_ : sums;
  }
  static HalfInts part(const Ints& x, std::size_t half) {
    HalfInts of_half;
    std::memcpy(&of_half, reinterpret_cast<const char*>(&x) + half * sizeof of_half, sizeof of_half);
    return of_half;
  }
  static Doubles doubles(const Ints& x, std::size_t half) {
    return __builtin_convertvector(part(x, half), Doubles);
  }

  int fraction_bits_;
  Floats values_;
};

// Whether an infinity or a NaN is among x[0], x[step], ...
bool any_special(const float* x, std::size_t count, std::size_t step) {
  std::uint32_t most = 0;
  for (std::size_t i = 0; i < count; ++i)
    most = std::max(most, std::bit_cast<std::uint32_t>(x[i * step]) & 0x7f800000u);
  return most == 0x7f800000u;
}

// Eight sums of a row, of finite numbers.
void add_finite(TensorCores cores, std::size_t block, std::size_t depth, float* d, const Parts* a,
                const Parts* b) {
  Sums sums(d, cores.fraction_bits);
  for (std::size_t first = 0; first < depth; first += block)
    sums.add(a + first, b + first, std::min(block, depth - first));
  sums.store(d);
}

// Puts right those to which infinities and NaN come.
void add_special(std::size_t columns, std::size_t depth, const float* before, float* d, const float* a,
                 const float* b) {
  const bool special_a = any_special(a, depth, 1);
  for (std::size_t j = 0; j < width; ++j) {
    if (!special_a && !any_special(before + j, 1, 1) && !any_special(b + j, depth, columns)) continue;
    d[j] = before[j];
    for (std::size_t k = 0; k < depth; ++k) d[j] += a[k] * b[k * columns + j];
  }
}

}  // namespace

TensorCores tensor_cores_from_environment() {
  static const TensorCores cores = [] {
    constexpr std::pair<const char*, TensorCores> names[] = {
        {"hopper", hopper}, {"ampere", ampere}, {"rounded", rounded}};
    const char* const wanted = std::getenv("COTTENTION_TENSOR_CORES");
    if (wanted == nullptr || *wanted == '\0') return hopper;
    for (const auto& [name, of_name] : names)
      if (std::strcmp(wanted, name) == 0) return of_name;
    std::fprintf(stderr, "COTTENTION_TENSOR_CORES is %s; it must be hopper, ampere or rounded\n", wanted);
    std::exit(2);
  }();
  return cores;
}

void add_products(TensorCores cores, Factor factor, std::size_t rows, std::size_t columns, std::size_t depth,
                  float* d, const float* a, const float* b) {
  if (cores.terms == 0) {
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t k = 0; k < depth; ++k)
        for (std::size_t j = 0; j < columns; ++j) d[i * columns + j] += a[i * depth + k] * b[k * columns + j];
    return;
  }
  const std::size_t block = static_cast<std::size_t>(cores.terms) * (factor == Factor::tf32 ? 1 : 2);
  const int least = least_exponent(factor);
  Parts of_a[most_rows][most_depth];
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t k = 0; k < depth; ++k) of_a[i][k] = take_apart(Floats{} + a[i * depth + k], least);
  const bool special_a = any_special(a, rows * depth, 1);
  for (std::size_t j = 0; j < columns; j += width) {
    Parts of_b[most_depth];
    bool special_factors = special_a;
    for (std::size_t k = 0; k < depth; ++k) {
      of_b[k] = take_apart(load(b + k * columns + j), least);
      special_factors = special_factors || any_special(b + k * columns + j, width, 1);
    }
    for (std::size_t i = 0; i < rows; ++i) {
      float* const sums = d + i * columns + j;
      if (special_factors || any_special(sums, width, 1)) {
        float before[width];
        std::copy_n(sums, width, before);
        add_finite(cores, block, depth, sums, of_a[i], of_b);
        add_special(columns, depth, before, sums, a + i * depth, b + j);
      } else {
        add_finite(cores, block, depth, sums, of_a[i], of_b);
      }
    }
  }
}

}  // namespace cottention::emulation
