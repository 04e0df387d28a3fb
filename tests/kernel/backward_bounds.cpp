// Causal gradients made together take S apart from its end, and bound what that leaves in dq. Inputs for
// which it would be too much, each in a way of its own: the bound has to see it, and dq be made anew.
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include <emulation.hpp>

#include "support/catch.hpp"
#include "support/cuda_backward.hpp"

using cottention::bfloat16, cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale;
using namespace support;

namespace {

constexpr int dim = 16;
constexpr std::int64_t early = 64, tokens = 160;

/// Factors of the element at a position and column of q, k, v and dout.
struct Factors {
  double q = 1, k = 1, v = 1, dout = 1;
};

/// Of dq, the first `checked` positions; 0: all.
template <class T, Scale scale>
void check_with(
    const std::function<Factors(std::int64_t, int)>& factors_of,
    const std::function<void(Inputs<T>&)>& change = [](Inputs<T>&) {}, std::int64_t checked = 0,
    std::int64_t length = tokens) {
  using P = Problem<T, HeadDim{dim, dim}, Mask::causal, scale>;
  Inputs<T> inputs(Case{.mask = P::mask, .scale = P::scale, .shape = {1, length, length, 1, 1, dim, dim}});
  for (std::int64_t position = 0; position < length; ++position)
    for (int column = 0; column < dim; ++column) {
      const Factors f = factors_of(position, column);
      const auto multiply = [&](TensorBuffer<T>& x, double factor) {
        T& value = x.row(position, 0)[column];
        value = from_double<T>(cottention::to_double(value) * factor);
      };
      multiply(inputs.q(), f.q);
      multiply(inputs.k(), f.k);
      multiply(inputs.v(), f.v);
      multiply(inputs.dout(), f.dout);
    }
  change(inputs);
  const Output forward = run_cuda_forward<P>(inputs.forward(), {.split = {1}});
  const std::vector<float> final_h(forward.h.begin(), forward.h.end());
  auto args = inputs.backward();
  args.dfinal_state = nullptr;  // it would cover what the early tokens lack
  args.final_h = final_h.data();
  Gradient got = run_cuda_backward<P>(args, {.split = {1}});
  Gradient expected = gradient(P::mask, P::scale, args);
  for (auto* dq : {&got.dq, &expected.dq})
    if (checked > 0) dq->resize(static_cast<std::size_t>(checked * dim));
  CHECK(relative_error(got.dq, expected.dq) <= bounds<T>.gradient);
  CHECK(relative_error(got.dscale_logit, expected.dscale_logit, size_of_dscale_logit(inputs, expected)) <=
        bounds<T>.gradient);
}

}  // namespace

TEST_CASE("dq is right where early queries are short, and so dq long") {
  check_with<bfloat16, Scale::none>([](std::int64_t position, int) {
    return position < early ? Factors{.q = 0x1p-20} : Factors{.v = 0x1p12};
  });
}

TEST_CASE("dq is right where large terms of a chunk cancel") {
  check_with<bfloat16, Scale::none>(
      [](std::int64_t position, int) {
        return position < early ? Factors{} : Factors{.v = 0x1p16, .dout = 0};
      },
      [](Inputs<bfloat16>& inputs) {
        for (std::int64_t position = early; position + 1 < tokens; position += 2)
          for (int column = 0; column < dim; ++column) {
            // 3 x is exact for x with 5 bits.
            bfloat16& k = inputs.k().row(position, 0)[column];
            k = from_double<bfloat16>(static_cast<double>(static_cast<int>(4 * cottention::to_double(k))));
            inputs.k().row(position + 1, 0)[column] = from_double<bfloat16>(3 * cottention::to_double(k));
            inputs.v().row(position + 1, 0)[column] =
                from_double<bfloat16>(-cottention::to_double(inputs.v().row(position, 0)[column]));
          }
      });
}

TEST_CASE("dq is right where squares leave the range of fp32") {
  constexpr double ratio = 0x1p12;
  for (const auto& [v, dout] : {std::pair{1e10, 1e12}, std::pair{1.0, 1e-27}, std::pair{1e-27, 1.0}})
    check_with<bfloat16, Scale::none>([v = v, dout = dout](std::int64_t position, int) {
      const double rise = position < early ? 1 / ratio : ratio;
      return Factors{.v = v * rise, .dout = dout / rise};
    });
}

TEST_CASE("dq is right where squares of some rows vanish, but not of these rows over the lengths of q") {
  for (const double large : {0x1p13, 0x1p14, 0x1p16}) {
    INFO("large rows of v: " << large);
    check_with<bfloat16, Scale::none>([&](std::int64_t position, int) {
      return position < early ? Factors{.q = 1e-13, .dout = 3e-24} : Factors{.v = large, .dout = 2e-16};
    });
  }
}

TEST_CASE("dq is right where little is left of it after the projection") {
  using cottention::half;
  const auto rise = [](std::int64_t position) { return position < early ? 1 : 0x1p7; };
  check_with<half, Scale::none>(
      [&](std::int64_t position, int) { return Factors{.v = rise(position), .dout = 1 / rise(position)}; },
      [&](Inputs<half>& inputs) {
        const auto change = [](half& x, double factor, double add) {
          x = from_double<half>(cottention::to_double(x) * factor + add);
        };
        for (std::int64_t position = 0; position < tokens; ++position)
          for (int column = 0; column < dim; ++column) {
            const double sign = column % 2 == 0 ? 1 : -1;
            change(inputs.q().row(position, 0)[column], 0.002, sign);
            change(inputs.k().row(position, 0)[column], 0.002, sign);
            change(inputs.v().row(position, 0)[column], 1, rise(position));
            change(inputs.dout().row(position, 0)[column], 1, 1 / rise(position));
          }
      });
}

TEST_CASE("The gradient of scale_logit by query is right where it is small beside dq") {
  check_with<bfloat16, Scale::by_query>([](std::int64_t position, int column) {
    if (position >= early) return Factors{.v = 4, .dout = 2.5e-7};
    return column < dim / 2 ? Factors{.q = 1e-5} : Factors{.k = 1e-5};
  });
}

TEST_CASE("dq is right where one query is so short that its dq is longer than all others") {
  const auto rise = [](std::int64_t position) { return position < early ? 1 : 0x1p12; };
  check_with<bfloat16, Scale::none>(
      [&](std::int64_t position, int) {
        return Factors{
            .q = position == tokens - 1 ? 0x1p-24 : 1, .v = rise(position), .dout = 1 / rise(position)};
      },
      [](Inputs<bfloat16>&) {}, tokens - 1);
}

TEST_CASE("dq is right where all terms are equal, and so their errors") {
  constexpr std::int64_t first = 16;
  const auto check = []<class T>(std::int64_t length, double k0, double k1, double v) {
    check_with<T, Scale::none>(
        [](std::int64_t, int) { return Factors{}; },
        [&](Inputs<T>& inputs) {
          for (std::int64_t position = 0; position < length; ++position)
            for (int column = 0; column < dim; ++column) {
              inputs.k().row(position, 0)[column] = from_double<T>(column < 6 ? k0 : k1);
              inputs.v().row(position, 0)[column] = from_double<T>(v);
              inputs.dout().row(position, 0)[column] = from_double<T>(position < first ? 1 : 0);
            }
        },
        0, length);
  };
  cottention::emulation::for_each_tensor_cores([&](const auto& cores) {
    INFO("blocks of " << cores.terms);
    // Rows whose product with one over their length is split with nearly the largest error that there is.
    check.template operator()<bfloat16>(4096, 1.4453125, 0.55859375, 1);
    // Rows of all bits, of which sums are cut off.
    check.template operator()<cottention::half>(16384, 1.8330078125, 0.7099609375, 1.9990234375);
  });
}

namespace {

/// Ordinary tokens, and after them many whose keys take turns and whose values are all `value`: the turns of
/// `keys` and the third that makes their sum 0. S hardly grows, and what each key is off when it is split
/// adds up. Only ordinary tokens have gradients.
template <class T, Scale scale>
void check_turns(int key0, int key1, double value, std::int64_t late) {
  const int turns[] = {key0, key1, -key0 - key1};
  check_with<T, scale>(
      [](std::int64_t position, int) { return Factors{.dout = position < early ? 1.0 : 0.0}; },
      [&](Inputs<T>& inputs) {
        for (std::int64_t position = early; position < early + late; ++position)
          for (int column = 0; column < dim; ++column) {
            inputs.k().row(position, 0)[column] =
                from_double<T>(column == dim - 1 ? 0 : turns[(column + position) % 3]);
            inputs.v().row(position, 0)[column] = from_double<T>(value);
          }
      },
      0, early + late);
}

}  // namespace

TEST_CASE("dq is right where terms cancel and their errors do not") {
  check_turns<bfloat16, Scale::none>(12, -75, 1.5, 4092);
  check_turns<bfloat16, Scale::none>(1, -3, 1.5, 4092);
  check_turns<cottention::half, Scale::none>(35, -269, 4, 16368);
}
