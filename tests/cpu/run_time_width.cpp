// Calls that choose the width of vectors at run time, in a program compiled for the baseline of x86-64 (see
// CMakeLists.txt): every width that this machine has, and the choice.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include <cottention/cpu.hpp>
#include <cottention/reference.hpp>

#include "support/catch.hpp"
#include "support/error.hpp"

namespace cottention::test {
namespace {

using support::bounds;

constexpr std::int64_t tokens = 75, heads = 4, heads_kv = 2, dim_qk = 21, dim_v = 37;

template <Element T>
std::vector<T> draw(unsigned seed, std::int64_t count) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<T> x(static_cast<std::size_t>(count));
  for (T& value : x) value = static_cast<T>(normal(random));
  return x;
}

template <class T>
double error_of(const std::vector<T>& x, const std::vector<double>& expected) {
  std::vector<double> wide;
  for (const T value : x) wide.push_back(to_double(value));
  return support::relative_error(wide, expected);
}

template <class T>
bool same_bits(const std::vector<T>& x, const std::vector<T>& y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0;
}

/// Inputs of grouped heads, dimensions that fill no vector and a ragged last chunk, and what calls make of
/// them.
template <Element T>
struct Calls {
  using P = Problem<T, any_head_dim, Mask::causal, Scale::by_key>;

  std::vector<T> q = draw<T>(1, tokens*heads*dim_qk), k = draw<T>(2, tokens*heads_kv*dim_qk),
                 v = draw<T>(3, tokens*heads_kv*dim_v), dout = draw<T>(4, tokens*heads*dim_v);
  std::vector<T> o = dout, dq = q, dk = k, dv = v, stepped = dout;
  std::vector<float> m{0.3f, -0.2f}, dm{0, 0}, h = std::vector<float>(heads_kv * dim_qk * dim_v);
  std::int64_t count = 0;
  std::vector<std::byte> memory = std::vector<std::byte>(std::size_t{1} << 21);

  Workspace workspace() {
    void* aligned = memory.data();
    std::size_t bytes = memory.size();
    std::align(workspace_alignment, 1, aligned, bytes);
    return {aligned, bytes};
  }
  static Shape shape() { return {1, tokens, tokens, heads, heads_kv, dim_qk, dim_v}; }
  ForwardArguments<T> forward() {
    return {.shape = shape(),
            .q = {q.data()},
            .k = {k.data()},
            .v = {v.data()},
            .o = {o.data()},
            .scale_logit = m.data()};
  }
  BackwardArguments<T> backward() {
    return {.shape = shape(),
            .q = {q.data()},
            .k = {k.data()},
            .v = {v.data()},
            .dout = {dout.data()},
            .dq = {dq.data()},
            .dk = {dk.data()},
            .dv = {dv.data()},
            .scale_logit = m.data(),
            .dscale_logit = dm.data()};
  }
  StepArguments<T> step() {
    return {.shape = shape(),
            .q = {q.data()},
            .k = {k.data()},
            .v = {v.data()},
            .o = {stepped.data()},
            .scale_logit = m.data(),
            .pool = {h.data(), &count},
            .pool_slots = 1};
  }
};

/// Three threads, one after the other.
constexpr cpu::Execution three_in_turn(int max_vector_bytes) {
  return {.threads = 3,
          .run =
              [](void*, int threads, void (*body)(void* data, int thread), void* data) {
                for (int t = threads; t-- > 0;) body(data, t);
              },
          .max_vector_bytes = max_vector_bytes};
}

/// f(bytes) for each width that calls can be limited to here.
template <class F>
void each_width(F f) {
  for (const int bytes : {16, 32, 64})
    if (cpu::vector_width({.max_vector_bytes = bytes}) == bytes) f(bytes);
}

#if defined(__x86_64__)
TEST_CASE("A call takes the widest vectors that the processor has and that it is allowed") {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && line.rfind("flags", 0) != 0) {
  }
  std::istringstream flags(line);
  int has_avx2 = 0, has_avx512 = 0, has_amx = 0;
  for (std::string flag; flags >> flag;) {
    has_avx2 += flag == "avx2" || flag == "fma" || flag == "f16c";
    has_avx512 += flag == "avx512f" || flag == "avx512bw" || flag == "avx512cd" || flag == "avx512dq" ||
                  flag == "avx512vl";
    has_amx += flag == "amx_tile" || flag == "amx_bf16";
  }
  REQUIRE(!line.empty());
  const int widest = has_avx2 < 3 ? 16 : has_avx512 < 5 ? 32 : 64;
  CHECK(cpu::native_vector_bytes == 16);
  CHECK(cpu::vector_width() == widest);
  for (const int limit : {1, 16, 31, 32, 63, 64, 128})
    CHECK(cpu::vector_width({.max_vector_bytes = limit}) == std::min(widest, limit < 32   ? 16
                                                                             : limit < 64 ? 32
                                                                                          : 64));
  using InBf16 = Calls<bfloat16>::P;
  CHECK(cpu::uses_matrix_unit<InBf16>() == (widest == 64 && has_amx == 2));
  CHECK(!cpu::uses_matrix_unit<InBf16>({.max_vector_bytes = 32}));
  CHECK(!cpu::uses_matrix_unit<InBf16>({.matrix_unit = false}));
  CHECK(!cpu::uses_matrix_unit<Calls<half>::P>());
}
#endif

TEMPLATE_TEST_CASE("Calls are right at every width that is chosen at run time", "", float, half, bfloat16) {
  using T = TestType;
  using P = typename Calls<T>::P;
  Calls<T> reference;
  const auto expected = reference::forward<P>(reference.forward());
  const auto gradient = reference::backward<P>(reference.backward());
  each_width([&](int bytes) {
    INFO("vectors of " << bytes << " bytes");
    Calls<T> one, three;
    const cpu::Execution alone{.threads = 1, .max_vector_bytes = bytes}, threads = three_in_turn(bytes);
    REQUIRE(cpu::forward<P>(one.forward(), one.workspace(), alone).ok());
    REQUIRE(cpu::forward<P>(three.forward(), three.workspace(), threads).ok());
    CHECK(error_of(one.o, expected.o) < bounds<T>.forward);
    CHECK(same_bits(one.o, three.o));

    REQUIRE(cpu::step<P>(one.step(), one.workspace(), alone).ok());
    CHECK(error_of(one.stepped, expected.o) < bounds<T>.forward);
    CHECK(error_of(one.h, expected.h) < bounds<T>.state);

    if constexpr (std::is_same_v<T, float>) {
      REQUIRE(cpu::backward<P>(one.backward(), one.workspace(), alone).ok());
      REQUIRE(cpu::backward<P>(three.backward(), three.workspace(), threads).ok());
      CHECK(error_of(one.dq, gradient.dq) < bounds<T>.gradient);
      CHECK(error_of(one.dk, gradient.dk) < bounds<T>.gradient);
      CHECK(error_of(one.dv, gradient.dv) < bounds<T>.gradient);
      CHECK(error_of(one.dm, gradient.dscale_logit) < bounds<T>.gradient);
      CHECK(same_bits(one.dq, three.dq));
      CHECK(same_bits(one.dk, three.dk));
      CHECK(same_bits(one.dv, three.dv));
      CHECK(same_bits(one.dm, three.dm));
    }
  });
}

TEST_CASE("Without a limit the bits are those of the widest vectors, and not those of the narrowest") {
  using P = Calls<float>::P;
  Calls<float> chosen;
  REQUIRE(cpu::forward<P>(chosen.forward(), chosen.workspace(), {.threads = 1}).ok());
  for (const int bytes : {16, cpu::vector_width()}) {
    Calls<float> limited;
    const cpu::Execution execution{.threads = 1, .max_vector_bytes = bytes};
    REQUIRE(cpu::forward<P>(limited.forward(), limited.workspace(), execution).ok());
    CHECK(same_bits(limited.o, chosen.o) == (bytes == cpu::vector_width()));
  }
}

}  // namespace
}  // namespace cottention::test
