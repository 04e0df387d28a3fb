// Walk of the wgmma engine on one head of a few chunks. Compiled with a header of faults.py, it succeeds if
// some schedule reports that fault; with the library's own headers, if no schedule reports anything.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <cottention/host/tensor_maps.cuh>
#include <cottention/sm90/walk.cuh>
#include <emulation.hpp>

#include "device/support.hpp"
#include "support/random.hpp"

#ifdef COTTENTION_FAULT
#include "fault.hpp"
constexpr bool is_faulty = true;
#else
constexpr bool is_faulty = false;
constexpr const char* expected_report = "";
#endif

namespace {

using namespace cottention;

// With these dims there is one buffer for H alone, which the next chunk's overwrites.
constexpr HeadDim dims{80, 64};
using R = kernel::Roles<Problem<bfloat16, dims, Mask::causal, Scale::by_key>, recurrence::Output::o>;
constexpr Tiling tiling{.chunk = sm90::chunk_rows,
                        .warps = sm90::warps_of<R>,
                        .stages = 2,
                        .columns = dims.v,
                        .engine = Engine::wgmma};
using Kernel = sm90::Walk<R, tiling>;
static_assert(sm90::StateRing<R>::size == 1);
constexpr int length = 5 * sm90::chunk_rows - 20;

std::vector<bfloat16> random_rows(int dim, std::uint64_t seed) {
  support::Random random(seed);
  std::vector<bfloat16> rows;
  for (int i = 0; i < length * dim; ++i) rows.push_back(bfloat16(static_cast<float>(random.normal())));
  return rows;
}

struct Inputs {
  std::vector<bfloat16> q = random_rows(dims.qk, 1), k = random_rows(dims.qk, 2), v = random_rows(dims.v, 3);
};

double dot(const std::vector<bfloat16>& x, int i, const std::vector<bfloat16>& y, int j) {
  double sum = 0;
  for (int d = 0; d < dims.qk; ++d)
    sum += to_double(x[static_cast<std::size_t>(i * dims.qk + d)]) *
           to_double(y[static_cast<std::size_t>(j * dims.qk + d)]);
  return sum;
}

/// o_i = sum over j <= i of (q^_i . k^_j) v_j
std::vector<double> expected_output(const Inputs& inputs) {
  std::vector<double> out(static_cast<std::size_t>(length * dims.v));
  for (int i = 0; i < length; ++i)
    for (int j = 0; j <= i; ++j) {
      const double cosine = dot(inputs.q, i, inputs.k, j) /
                            std::sqrt(dot(inputs.q, i, inputs.q, i) * dot(inputs.k, j, inputs.k, j));
      for (int d = 0; d < dims.v; ++d)
        out[static_cast<std::size_t>(i * dims.v + d)] +=
            cosine * to_double(inputs.v[static_cast<std::size_t>(j * dims.v + d)]);
    }
  return out;
}

/// What the schedule in force finds; empty: nothing.
std::string outcome(const Inputs& inputs, const std::vector<double>& expected) {
  device_test::DeviceArray<bfloat16> q(inputs.q), k(inputs.k), v(inputs.v), out(expected.size());
  kernel::RecurrenceParams<bfloat16> common;
  common.a = {q.data(), 0, dims.qk, dims.qk};
  common.b = {k.data(), 0, dims.qk, dims.qk};
  common.c = {v.data(), 0, dims.v, dims.v};
  common.out = {out.data(), 0, dims.v, dims.v};
  common.seq_rows = common.seq_terms = length;
  common.heads_kv = 1;
  common.chunk = tiling.chunk;
  Kernel::Params params;
  device_test::require_success(host::complete<Kernel>(params, common, 1), "encode_map");
  try {
    device_test::run<Kernel>({}, params);
  } catch (const emulation::Error& error) {
    return error.what();
  }
  const std::vector<bfloat16> found = out.values();
  double error = 0, scale = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(to_double(found[i]) - expected[i], 2);
    scale += expected[i] * expected[i];
  }
  // Bfloat16 has 8 bits: half a unit in the last place of the output and of the scores is 2^-9 relative each.
  return std::sqrt(error / scale) <= 0x1p-8 ? "" : "wrong answer";
}

}  // namespace

int main() {
  const Inputs inputs;
  const std::vector<double> expected = expected_output(inputs);
  bool any = false, reported = false;
  emulation::for_each_schedule([&](const auto& options) {
    if (reported) return;
    const std::string text = outcome(inputs, expected);
    std::printf("%s: %s\n", emulation::describe(options).c_str(), text.empty() ? "nothing" : text.c_str());
    any = any || !text.empty();
    reported = is_faulty && text.find(expected_report) != std::string::npos;
  });
  return is_faulty ? !reported : any;
}
