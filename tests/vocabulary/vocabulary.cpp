// The words every backend shares: elements and their rounding, problems, strides, statuses, arguments.
#include <cottention/arguments.hpp>
#include <cottention/element.hpp>
#include <cottention/problem.hpp>
#include <cottention/recurrence.hpp>
#include <cottention/status.hpp>
#include <cottention/tensor.hpp>
#include <cottention/tiling.hpp>
#include <cottention/workspace_layout.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"

#if __has_include(<cuda_fp16.h>) && __has_include(<cuda_bf16.h>) && __has_include(<vector_types.h>) && \
    __has_include(<nv/target>)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace cottention::test {  // not a using-directive: CUDA has a global half
namespace {

/// A 16-bit format by its fields, decoded and rounded by the definition.
template <class T>
struct Format;
template <>
struct Format<half> {
  static constexpr int exponent_bits = 5, fraction_bits = 10;
};
template <>
struct Format<bfloat16> {
  static constexpr int exponent_bits = 8, fraction_bits = 7;
};

template <class T>
constexpr std::uint32_t infinity_bits = ((1u << Format<T>::exponent_bits) - 1) << Format<T>::fraction_bits;

/// The value of a finite pattern without sign; for the pattern of infinity, what the next finite value would
/// be.
template <class T>
double decode(std::uint32_t magnitude) {
  constexpr int fraction_bits = Format<T>::fraction_bits;
  constexpr int bias = (1 << (Format<T>::exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(magnitude >> fraction_bits);
  const double fraction = std::ldexp(magnitude & ((1u << fraction_bits) - 1), -fraction_bits);
  return exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias);
}

/// Rounding to nearest, ties to even, by comparing distances to both neighbours. All of it is exact in
/// double.
template <class T>
class NearestEven {
 public:
  NearestEven() {
    for (std::uint32_t m = 0; m <= infinity_bits<T>; ++m) values_.push_back(decode<T>(m));
  }
  std::uint32_t operator()(float x) const {
    const std::uint32_t sign = std::signbit(x) ? 0x8000u : 0u;
    const double magnitude = std::fabs(static_cast<double>(x));
    const auto above = std::lower_bound(values_.begin(), values_.end(), magnitude);
    if (above == values_.end()) return sign | infinity_bits<T>;
    auto bits = static_cast<std::uint32_t>(above - values_.begin());
    if (*above != magnitude) {
      const double up = *above - magnitude, down = magnitude - *(above - 1);
      if (down < up || (down == up && bits % 2 == 1)) --bits;
    }
    return sign | bits;
  }
  const std::vector<double>& values() const { return values_; }

 private:
  std::vector<double> values_;
};

}  // namespace

TEMPLATE_TEST_CASE("Every 16-bit pattern widens to its value and rounds back to itself", "", half, bfloat16) {
  int wrong = 0;
  for (std::uint32_t u = 0; u < 0x10000u; ++u) {
    const auto x = TestType::from_bits(static_cast<std::uint16_t>(u));
    const auto wide = static_cast<float>(x);
    const std::uint32_t magnitude = u & 0x7fffu;
    const bool negative = u >= 0x8000u;
    bool right = std::signbit(wide) == negative;
    if (magnitude < infinity_bits<TestType>)
      right = right && std::fabs(static_cast<double>(wide)) == decode<TestType>(magnitude) &&
              TestType(wide).bits == u;
    else if (magnitude == infinity_bits<TestType>)
      right = right && std::isinf(wide) && TestType(wide).bits == u;
    else
      right = right && std::isnan(wide) && (TestType(wide).bits & 0x7fffu) > infinity_bits<TestType> &&
              (TestType(wide).bits & 0x8000u) == (u & 0x8000u);
    wrong += !right;
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("Rounding goes to the nearest value and ties go to even", "", half, bfloat16) {
  const NearestEven<TestType> nearest;
  int wrong = 0, checked = 0;
  const auto check = [&](float x) {
    for (const float signed_x : {x, -x}) {
      wrong += TestType(signed_x).bits != nearest(signed_x);
      ++checked;
    }
  };

  SECTION("at every value, every midpoint and both floats beside each") {
    const auto& values = nearest.values();
    for (std::size_t i = 0; i + 1 < values.size(); ++i)
      for (const double x : {values[i], (values[i] + values[i + 1]) / 2}) {
        const auto exact = static_cast<float>(x);
        REQUIRE(static_cast<double>(exact) == x);
        check(exact);
        check(std::nextafter(exact, 0.0f));
        check(std::nextafter(exact, std::numeric_limits<float>::infinity()));
      }
  }
  SECTION("at floats of random bits, seed 1") {
    std::mt19937 random(1);
    while (checked < 2'000'000) {
      const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(random()) & 0x7fffffffu);
      if (!std::isnan(x)) check(x);
    }
  }
  SECTION("at floats spread evenly over the exponents of half, seed 2") {
    std::mt19937 random(2);
    std::uniform_real_distribution<float> exponent(-27.0f, 17.0f);
    while (checked < 2'000'000) check(std::exp2(exponent(random)));
  }
  SECTION("at float's smallest subnormal, largest value and infinity") {
    check(std::numeric_limits<float>::denorm_min());
    check(std::numeric_limits<float>::max());
    check(std::numeric_limits<float>::infinity());
    CHECK(TestType(std::numeric_limits<float>::max()).bits == infinity_bits<TestType>);
  }
  CHECK(checked > 0);
  CHECK(wrong == 0);
}

TEST_CASE("half overflows to infinity from 65520 on and underflows to zero up to 2^-25") {
  CHECK(half(65519.996f).bits == 0x7bff);
  CHECK(half(65520.0f).bits == 0x7c00);
  CHECK(half(-65520.0f).bits == 0xfc00);
  CHECK(half(0x1p-25f).bits == 0x0000);
  CHECK(half(-0x1p-25f).bits == 0x8000);
  CHECK(half(0x1.000002p-25f).bits == 0x0001);
  CHECK(half(0x1.8p-24f).bits == 0x0002);  // a tie between 1 and 2 steps
}

TEMPLATE_TEST_CASE("Rounding keeps a NaN a NaN whatever its payload", "", half, bfloat16) {
  int wrong = 0;
  const auto check = [&](std::uint32_t bits) {
    const TestType rounded(std::bit_cast<float>(bits));
    wrong += (rounded.bits & 0x7fffu) <= infinity_bits<TestType> || (rounded.bits >> 15) != (bits >> 31);
  };
  for (std::uint32_t sign : {0u, 0x80000000u}) {
    for (int bit = 0; bit < 23; ++bit) check(sign | 0x7f800000u | 1u << bit);
    check(sign | 0x7fffffffu);
  }
  CHECK(wrong == 0);
}

TEST_CASE("Element types work at compile time") {
  STATIC_REQUIRE(half(1.0f).bits == 0x3c00);
  STATIC_REQUIRE(half(-2.5f).bits == 0xc100);
  STATIC_REQUIRE(half(0x1p-24f).bits == 0x0001);
  STATIC_REQUIRE(static_cast<float>(half::from_bits(0x0001)) == 0x1p-24f);
  STATIC_REQUIRE(bfloat16(1.0f).bits == 0x3f80);
  STATIC_REQUIRE(static_cast<float>(bfloat16::from_bits(0xc020)) == -2.5f);
  STATIC_REQUIRE(to_double(half(0.5f)) == 0.5);
  STATIC_REQUIRE(to_double(bfloat16(0.5f)) == 0.5);
  STATIC_REQUIRE(to_double(0.1f) == static_cast<double>(0.1f));
  STATIC_REQUIRE(to_double(0.1) == 0.1);
}

TEST_CASE("Elements are double, float, half and bfloat16 and nothing else") {
  STATIC_REQUIRE((Element<double> && Element<float> && Element<half> && Element<bfloat16>));
  STATIC_REQUIRE_FALSE((Element<int> || Element<const float> || Element<long double> || Element<float&>));
  STATIC_REQUIRE(std::is_same_v<Accumulate<double>, double>);
  STATIC_REQUIRE(std::is_same_v<Accumulate<float>, float>);
  STATIC_REQUIRE(std::is_same_v<Accumulate<half>, float>);
  STATIC_REQUIRE(std::is_same_v<Accumulate<bfloat16>, float>);
  CHECK(std::string(element_name<double>) == "fp64");
  CHECK(std::string(element_name<float>) == "fp32");
  CHECK(std::string(element_name<half>) == "fp16");
  CHECK(std::string(element_name<bfloat16>) == "bf16");
}

TEST_CASE("16-bit elements do not convert by accident") {
  STATIC_REQUIRE_FALSE(std::is_convertible_v<float, half>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<half, float>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<float, bfloat16>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<half, bfloat16>);
  STATIC_REQUIRE(std::is_trivially_default_constructible_v<half>);
  STATIC_REQUIRE(std::is_trivially_default_constructible_v<bfloat16>);
}

#ifdef __CUDA_BF16_H__
TEST_CASE("half and bfloat16 have the memory of CUDA's types") {
  STATIC_REQUIRE((sizeof(half) == sizeof(__half) && alignof(half) == alignof(__half)));
  STATIC_REQUIRE((sizeof(bfloat16) == sizeof(__nv_bfloat16) && alignof(bfloat16) == alignof(__nv_bfloat16)));
  int wrong = 0;
  for (std::uint32_t u = 0; u < 0x10000u; ++u) {
    const auto x = half::from_bits(static_cast<std::uint16_t>(u));
    const auto y = bfloat16::from_bits(static_cast<std::uint16_t>(u));
    __half cuda_x;
    __nv_bfloat16 cuda_y;
    std::memcpy(static_cast<void*>(&cuda_x), &x, sizeof x);
    std::memcpy(static_cast<void*>(&cuda_y), &y, sizeof y);
    const auto same = [](float a, float b) {
      return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) ||
             (std::isnan(a) && std::isnan(b));
    };
    wrong += !same(static_cast<float>(x), __half2float(cuda_x));
    wrong += !same(static_cast<float>(y), __bfloat162float(cuda_y));
  }
  CHECK(wrong == 0);
}
#endif

TEST_CASE("A Problem carries its element, head dimensions, mask and scale") {
  using P = Problem<half, HeadDim{64, 128}, Mask::bidirectional, Scale::by_query>;
  STATIC_REQUIRE(std::is_same_v<P::element, half>);
  STATIC_REQUIRE(std::is_same_v<P::accumulate, float>);
  STATIC_REQUIRE(P::head_dim == HeadDim{64, 128});
  STATIC_REQUIRE(P::mask == Mask::bidirectional);
  STATIC_REQUIRE(P::scale == Scale::by_query);
  STATIC_REQUIRE(AnyProblem<P>);
  STATIC_REQUIRE(AnyProblem<Problem<double, any_head_dim, Mask::causal, Scale::none>>);
  STATIC_REQUIRE_FALSE((AnyProblem<int> || AnyProblem<const P>));
}

TEST_CASE("A Tiling is a template value") {
  constexpr Tiling tiling{.chunk = 32};
  STATIC_REQUIRE(std::integral_constant<int, tiling.chunk>::value == 32);
  STATIC_REQUIRE(tiling == Tiling{32, 0, 0, 0, 1});
  STATIC_REQUIRE_FALSE(tiling == Tiling{64});
}

/// Another library's 16-bit type.
class Foreign {
 public:
  Foreign() = default;
  explicit Foreign(std::uint16_t bits) : bits_(bits) {}
  std::uint16_t bits() const { return bits_; }

 private:
  std::uint16_t bits_;
};

// Compiled as users compile: there a compiler takes it that types which may not alias lie apart.
#if defined(__clang__)
#define COTTENTION_TEST_OPTIMISED
#else
#define COTTENTION_TEST_OPTIMISED __attribute__((optimize("O3")))
#endif

/// The bits of *x once *y is written, which lies in the same place.
template <class T>
COTTENTION_TEST_OPTIMISED [[gnu::noinline]] std::uint16_t bits_after_write(Foreign* x, T* y) {
  *x = Foreign(0x3c00);
  *y = T::from_bits(0x4000);
  return x->bits();
}
template <class T>
COTTENTION_TEST_OPTIMISED [[gnu::noinline]] std::uint16_t bits_after_read(Foreign* x, const T* y) {
  *x = Foreign(0x3c00);
  const std::uint16_t before = y->bits;
  *x = Foreign(0x4000);
  return static_cast<std::uint16_t>(y->bits - before);
}

TEMPLATE_TEST_CASE("Pointers to other libraries' 16-bit types become pointers to ours, and may alias them",
                   "", half, bfloat16) {
  Foreign x[2] = {Foreign(0x3c00), Foreign(0x4000)};
  const Foreign* read_only = x;
  CHECK(as_elements<TestType>(x)[1].bits == 0x4000);
  CHECK(bits_after_write(x, as_elements<TestType>(x)) == 0x4000);
  CHECK(bits_after_read(x, as_elements<TestType>(read_only)) == 0x400);
  STATIC_REQUIRE(std::is_same_v<decltype(as_elements<TestType>(x)), TestType*>);
  STATIC_REQUIRE(std::is_same_v<decltype(as_elements<TestType>(read_only)), const TestType*>);
  void* untyped = x;
  const void* read_only_untyped = x;
  STATIC_REQUIRE(std::is_same_v<decltype(as_elements<TestType>(untyped)), TestType*>);
  STATIC_REQUIRE(std::is_same_v<decltype(as_elements<TestType>(read_only_untyped)), const TestType*>);
  CHECK(as_elements<TestType>(read_only_untyped) == as_elements<TestType>(x));
  const TestType own = TestType::from_bits(0x3c00);
  CHECK(as_elements<TestType>(&own) == &own);
  std::uint16_t bits = 0x3c00;
  CHECK(as_elements<TestType>(&bits)->bits == 0x3c00);
  float wide = 1;
  untyped = &wide;
  CHECK(*as_elements<float>(untyped) == 1);
}

TEST_CASE("Strides left contiguous follow from the shape") {
  constexpr std::int64_t seq = 5, heads = 3, dim = 7;
  STATIC_REQUIRE(resolve({}, seq, heads, dim) == Strides{.batch = 105, .seq = 21, .head = 7});
}

TEST_CASE("Strides that are given stay as they are") {
  STATIC_REQUIRE(resolve({.batch = 0, .seq = -40, .head = 8}, 5, 3, 7) == Strides{0, -40, 8});
  STATIC_REQUIRE(resolve({.batch = 1000, .seq = contiguous, .head = contiguous}, 5, 3, 7) ==
                 Strides{1000, 21, 7});
}

TEST_CASE("Strides left contiguous make room for the strides given inside them") {
  // q of a packed buffer [batch, seq, 3, heads, dim]
  STATIC_REQUIRE(resolve({.seq = 63}, 5, 3, 7) == Strides{315, 63, 7});
  // [batch, heads, seq, dim] with the batch left out
  STATIC_REQUIRE(resolve({.seq = 7, .head = 35}, 5, 3, 7) == Strides{105, 7, 35});
  // the stride of a single head does not matter, nor does a stride too large to be multiplied overflow
  STATIC_REQUIRE(resolve({.head = 1000}, 5, 1, 7) == Strides{35, 7, 1000});
  STATIC_REQUIRE(resolve({.seq = std::int64_t{1} << 62}, 5, 3, 7).batch ==
                 std::numeric_limits<std::int64_t>::max());
}

TEST_CASE("bshd and bhsd stand for the strides of those orders of axes") {
  STATIC_REQUIRE(resolve(bshd, 5, 3, 7) == Strides{.batch = 105, .seq = 21, .head = 7});
  constexpr Strides strides = resolve(bhsd, 5, 3, 7);
  STATIC_REQUIRE(strides == Strides{.batch = 105, .seq = 7, .head = 35});
  STATIC_REQUIRE(resolve(strides, 5, 3, 7) == strides);
  // a single head or position, and none
  STATIC_REQUIRE(resolve(bhsd, 5, 1, 7) == Strides{.batch = 35, .seq = 7, .head = 35});
  STATIC_REQUIRE(resolve(bhsd, 1, 3, 7) == Strides{.batch = 21, .seq = 7, .head = 7});
  STATIC_REQUIRE(resolve(bhsd, 0, 3, 7).seq == 7);
  // heads outside of seq with rows of a given distance, and where products overflow
  STATIC_REQUIRE(resolve({.seq = 10, .head = outside_seq}, 5, 3, 7) == Strides{150, 10, 50});
  STATIC_REQUIRE(resolve({.seq = -10, .head = outside_seq}, 5, 3, 7) == Strides{150, -10, 50});
  STATIC_REQUIRE(resolve({.seq = std::int64_t{1} << 62, .head = outside_seq}, 5, 3, 7).head ==
                 std::numeric_limits<std::int64_t>::max());
}

TEST_CASE("A CallStatus is a success unless it says otherwise") {
  constexpr CallStatus status;
  STATIC_REQUIRE(status.ok());
  STATIC_REQUIRE(static_cast<bool>(status));
  STATIC_REQUIRE(status.reason[0] == '\0');
  STATIC_REQUIRE(std::is_trivially_copyable_v<CallStatus>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<CallStatus, bool>);
}

TEST_CASE("A failed CallStatus holds its code and a formatted reason") {
  const CallStatus status =
      CallStatus::failure(StatusCode::bad_shape, "shape.%s = %lld: must be at least %d", "batch", -3LL, 0);
  CHECK_FALSE(status.ok());
  CHECK_FALSE(static_cast<bool>(status));
  CHECK(status.code == StatusCode::bad_shape);
  CHECK(status.cuda_error == 0);
  CHECK(std::string(status.reason) == "shape.batch = -3: must be at least 0");
}

TEST_CASE("A reason that is too long is cut off and stays terminated") {
  const std::string text(300, 'x');
  const CallStatus status = CallStatus::failure(StatusCode::bad_option, "%s", text.c_str());
  CHECK(std::string(status.reason, sizeof status.reason) ==
        std::string(sizeof status.reason - 1, 'x') + '\0');
}

TEST_CASE("Every status code has its own name") {
  std::set<std::string> names;
  for (int code = 0; code <= static_cast<int>(StatusCode::cuda_error); ++code)
    names.insert(to_string(static_cast<StatusCode>(code)));
  CHECK(names.size() == static_cast<std::size_t>(StatusCode::cuda_error) + 1);
  CHECK(names.count("unknown") == 0);
  CHECK(std::string(to_string(static_cast<StatusCode>(1000))) == "unknown");
}

TEST_CASE("Offsets read int32 and int64 alike and null as not given") {
  static constexpr std::int32_t as_int32[] = {0, 3, 7};
  static constexpr std::int64_t as_int64[] = {0, 3, std::int64_t{1} << 40};
  STATIC_REQUIRE_FALSE((Offsets{}.given() || Offsets{nullptr}.given()));
  STATIC_REQUIRE_FALSE(Offsets{static_cast<const std::int32_t*>(nullptr)}.given());
  // Not at compile time: UndefinedBehaviorSanitizer makes g++ compare addresses at run time.
  CHECK((Offsets{as_int32}.given() && Offsets{as_int32}[2] == 7));
  CHECK((Offsets{as_int64}.given() && Offsets{as_int64}[2] == std::int64_t{1} << 40));
}

TEST_CASE("Arguments are plain structs that start empty") {
  STATIC_REQUIRE(std::is_aggregate_v<ForwardArguments<half>>);
  STATIC_REQUIRE(std::is_aggregate_v<BackwardArguments<half>>);
  STATIC_REQUIRE(std::is_aggregate_v<StepArguments<half>>);
  STATIC_REQUIRE(std::is_trivially_copyable_v<ForwardArguments<half>>);
  STATIC_REQUIRE(std::is_same_v<decltype(StepArguments<double>{}.pool), State<double>>);
  STATIC_REQUIRE(std::is_same_v<decltype(StepArguments<half>{}.pool), State<float>>);
  STATIC_REQUIRE(std::is_same_v<decltype(ForwardArguments<double>{}.scale_logit), ScaleLogit<double>>);
  STATIC_REQUIRE(std::is_same_v<decltype(BackwardArguments<bfloat16>{}.scale_logit), ScaleLogit<float>>);
  float o[8] = {};
  const ForwardArguments<float> args{.shape = {.batch = 1, .seq_q = 2},
                                     .o = {.data = o, .strides = {.seq = 4}}};
  CHECK(args.shape.seq_q == 2);
  CHECK(args.shape.heads_kv == 0);
  CHECK(args.o.data == o);
  CHECK(args.o.strides == Strides{contiguous, 4, contiguous});
  CHECK(args.q.data == nullptr);
  CHECK(args.plan == Plan::automatic);
  STATIC_REQUIRE(std::has_single_bit(workspace_alignment));
}

TEST_CASE("In the table of recurrences, rows and terms are on opposite sides and dimensions fit") {
  using namespace recurrence;
  for (const Output output : {Output::o, Output::dq, Output::dk, Output::dv}) {
    const Roles roles = roles_of(output);
    CAPTURE(static_cast<int>(output));
    CHECK(side_of(roles.a) == roles.rows);
    CHECK(side_of(roles.b) == other(roles.rows));
    CHECK(side_of(roles.c) == other(roles.rows));
    CHECK(is_normalized(roles.a) == is_normalized(roles.b));  // a . b is over one dimension
    CHECK(is_normalized(roles.c) == has_dim_qk(output));      // the output has the columns of c
    CHECK((direction_of(output, Mask::causal) == Direction::forward) == (roles.rows == Side::queries));
    CHECK(direction_of(output, Mask::bidirectional) == Direction::forward);
    if (roles.norm_backward) CHECK(side_of(norm_input(output)) == roles.rows);
    // The weight of a position enters once: with v or with the output when scaling by key, and so on.
    for (const Scale scale : {Scale::none, Scale::by_key, Scale::by_query}) {
      const int weights = is_weighted(roles.a, scale) + is_weighted(roles.b, scale) +
                          is_weighted(roles.c, scale) + (scale != Scale::none && roles.weighted_by == scale);
      CHECK(weights == (scale == Scale::none ? 0 : 1));
    }
  }
}

TEST_CASE("A rule of splitting makes pieces of whole chunks within its limits") {
  using recurrence::piece_rows, recurrence::SplitRule;
  STATIC_REQUIRE(piece_rows(1000, {}, 32) == 1024);
  STATIC_REQUIRE(piece_rows(0, {}, 32) == 32);
  STATIC_REQUIRE(piece_rows(1000, {.wanted = 3, .max_pieces = 64}, 32) == 352);
  STATIC_REQUIRE(piece_rows(1000, {.wanted = 8, .min_rows = 300, .max_pieces = 64}, 32) == 320);
  STATIC_REQUIRE(piece_rows(1000, {.wanted = 1, .max_rows = 256, .max_pieces = 64}, 32) == 256);
  STATIC_REQUIRE(piece_rows(1000, {.wanted = 1, .max_rows = 100, .max_pieces = 4}, 32) == 256);
}

TEST_CASE("A carver counts what it places, and more bytes than there are addresses for do not fit") {
  using cottention::detail::Carver;
  alignas(64) std::byte memory[1024];
  Carver counting, placing(memory);
  const auto take = [](Carver& carver) {
    carver.take<double>(3);
    carver.take<std::byte>(65);
    return carver.take<float>(2, 5);
  };
  CHECK(take(counting) == nullptr);
  CHECK(reinterpret_cast<std::byte*>(take(placing)) == memory + 64 + 128);
  CHECK(counting.bytes() == 64 + 128 + 64);
  CHECK(placing.bytes() == counting.bytes());
  CHECK(counting.take<std::byte>(0) == nullptr);
  CHECK(counting.bytes() == 256);
  constexpr std::int64_t large = std::int64_t{1} << 40;
  CHECK(placing.take<float>(large, large, large) == nullptr);
  CHECK_FALSE(placing.fits());
  CHECK(placing.bytes() == 0);
  Carver outer;  // what does not fit a part does not fit the whole
  outer.take<std::byte>(1, placing.extent());
  CHECK_FALSE(outer.fits());
}

}  // namespace cottention::test
