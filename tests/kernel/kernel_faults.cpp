// Kernels of the wgmma engine on one head of keys and a few chunks: with the library's own headers no
// schedule of the emulator may report anything, with each fault of faults.py some schedule has to.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include <cottention/host/tensor_maps.cuh>
#include <cottention/sm90/apply.cuh>
#include <cottention/sm90/gradient.cuh>
#include <cottention/sm90/key_gradient_apply.cuh>
#include <cottention/sm90/key_gradients.cuh>
#include <emulation.hpp>

#include "device/support.hpp"
#include "faults.hpp"
#include "support/random.hpp"

namespace {

using namespace cottention;

constexpr HeadDim dims{64, 64};
using Causal = Problem<bfloat16, dims, Mask::causal, Scale::none>;
using Bidirectional = Problem<bfloat16, dims, Mask::bidirectional, Scale::none>;
using Answer = kernel::Roles<Bidirectional, recurrence::Output::o>;
constexpr Tiling fused_tiling{
    .chunk = sm90::chunk_rows, .warps = 16, .stages = 2, .columns = dims.v, .engine = Engine::wgmma};
constexpr Tiling apply_tiling{.chunk = sm90::chunk_rows,
                              .warps = sm90::warps_of<Answer>,
                              .stages = 2,
                              .columns = dims.v,
                              .engine = Engine::wgmma};
// With two stages buffers are used again within the head.
constexpr Tiling keys_tiling{
    .chunk = sm90::chunk_rows, .warps = 12, .stages = 2, .columns = dims.v, .engine = Engine::wgmma};
constexpr Tiling keys_apply_tiling{
    .chunk = sm90::chunk_rows, .warps = 8, .stages = 2, .columns = dims.v, .engine = Engine::wgmma};
static_assert(dims.qk == dims.v);

/// What a kernel runs on.
struct Size {
  int length, group;  // tokens, query heads
};
template <class Kernel>
constexpr Size size_of = {4 * sm90::chunk_rows - 20, 1};

std::vector<bfloat16> random_rows(std::uint64_t seed, int count) {
  support::Random random(seed);
  std::vector<bfloat16> rows;
  for (int i = 0; i < count * dims.qk; ++i) rows.push_back(bfloat16(static_cast<float>(random.normal())));
  return rows;
}

std::vector<float> random_state() {
  support::Random random(5);
  std::vector<float> state;
  for (int i = 0; i < dims.qk * dims.v; ++i) state.push_back(static_cast<float>(random.normal()));
  return state;
}

class Head {
 public:
  explicit Head(Size size) : size_(size) {}

  Size size() const { return size_; }
  tile::View<const bfloat16> q() { return {q_.data(), 0, size_.group * dims.qk, dims.qk}; }
  tile::View<const bfloat16> k() { return {k_.data(), 0, dims.qk, dims.qk}; }
  tile::View<const bfloat16> v() { return {v_.data(), 0, dims.v, dims.v}; }
  tile::View<const bfloat16> g() { return {g_.data(), 0, size_.group * dims.v, dims.v}; }
  tile::View<bfloat16> dq() { return {out_[0].data(), 0, size_.group * dims.qk, dims.qk}; }
  /// o, or a gradient of keys.
  tile::View<bfloat16> out(int i) { return {out_[i].data(), 0, dims.v, dims.v}; }
  const float* final_h() { return final_h_.data(); }
  int* redo_flags() { return redo_flags_.data(); }
  float* whole_d() { return whole_d_.data(); }

  /// The bits of all outputs.
  std::vector<std::uint16_t> bits() {
    std::vector<std::uint16_t> bits;
    for (const auto& array : out_)
      for (const bfloat16 x : array.values()) {
        bits.emplace_back();
        std::memcpy(&bits.back(), &x, sizeof x);
      }
    return bits;
  }

 private:
  using Array = device_test::DeviceArray<bfloat16>;
  Size size_;
  int queries_ = size_.length * size_.group;
  std::size_t values_ = std::size_t{dims.v} * static_cast<std::size_t>(queries_);
  Array q_{random_rows(1, queries_)}, k_{random_rows(2, size_.length)}, v_{random_rows(3, size_.length)},
      g_{random_rows(4, queries_)};
  Array out_[3] = {Array(values_), Array(values_), Array(values_)};
  device_test::DeviceArray<float> final_h_{std::vector<float>(std::size_t{dims.qk} * dims.v)};
  device_test::DeviceArray<int> redo_flags_{1};
  device_test::DeviceArray<float> whole_d_{random_state()};
};

kernel::RecurrenceParams<bfloat16> recurrence_params(int length, tile::View<const bfloat16> a,
                                                     tile::View<const bfloat16> b,
                                                     tile::View<const bfloat16> c, tile::View<bfloat16> out) {
  kernel::RecurrenceParams<bfloat16> params;
  params.a = a;
  params.b = b;
  params.c = c;
  params.out = out;
  params.seq_rows = params.seq_terms = length;
  params.heads_kv = 1;
  params.chunk = sm90::chunk_rows;
  return params;
}

using Gradient = sm90::Gradient<Causal, fused_tiling>;
using KeyGradients = sm90::KeyGradients<Causal, keys_tiling>;
using KeyGradientApply = sm90::KeyGradientApply<Bidirectional, keys_apply_tiling>;
using Apply = sm90::Apply<Answer, apply_tiling>;
// D of a chunk orders its queries, but those of its several heads.
template <>
constexpr Size size_of<KeyGradients> = {4 * sm90::chunk_rows - 20, 2};
// Rows that are cleared would show D to the asynchronous proxy too.
template <>
constexpr Size size_of<KeyGradientApply> = {4 * sm90::chunk_rows, 1};

template <AnyProblem P>
kernel::GradientParams<P> gradient_params(Head& head) {
  kernel::GradientParams<P> common;
  const auto [length, group] = head.size();
  common.dq = recurrence_params(length, head.g(), head.v(), head.k(), head.dq());
  common.dk = recurrence_params(length, head.v(), head.g(), head.q(), head.out(1));
  common.dv = recurrence_params(length, head.k(), head.q(), head.g(), head.out(2));
  common.dq.row_group = common.dk.term_group = common.dv.term_group = group;
  common.dq.norm_input = head.q();
  common.dk.norm_input = head.k();
  return common;
}
Gradient::Params params_of(std::type_identity<Gradient>, Head& head) {
  auto common = gradient_params<Causal>(head);
  common.final_h = head.final_h();
  common.redo_flags = head.redo_flags();
  Gradient::Params params;
  device_test::require_success(host::complete<Gradient>(params, common, 1), "encode_map");
  return params;
}
KeyGradients::Params params_of(std::type_identity<KeyGradients>, Head& head) {
  KeyGradients::Params params;
  device_test::require_success(host::complete<KeyGradients>(params, gradient_params<Causal>(head), 1),
                               "encode_map");
  return params;
}
KeyGradientApply::Params params_of(std::type_identity<KeyGradientApply>, Head& head) {
  auto common = gradient_params<Bidirectional>(head);
  common.dk.partial_states = head.whole_d();
  KeyGradientApply::Params params;
  device_test::require_success(host::complete<KeyGradientApply>(params, common, 1), "encode_map");
  return params;
}
Apply::Params params_of(std::type_identity<Apply>, Head& head) {
  Apply::Params params;
  device_test::require_success(
      host::complete<Apply>(
          params, recurrence_params(head.size().length, head.q(), head.k(), head.v(), head.out(0)), 1),
      "encode_map");
  return params;
}

/// What the schedule in force finds in Kernel, whose Params are those of Right; empty: nothing. `expected`:
/// the bits of its outputs, which are set if there are none.
template <class Kernel, class Right>
std::string outcome(std::vector<std::uint16_t>& expected) {
  Head head(size_of<Right>);
  const typename Right::Params right = params_of(std::type_identity<Right>{}, head);
  typename Kernel::Params params;
  static_assert(sizeof params == sizeof right && std::is_trivially_copyable_v<typename Kernel::Params>);
  std::memcpy(static_cast<void*>(&params), &right, sizeof params);
  try {
    device_test::run<Kernel>({}, params);
  } catch (const emulation::Error& error) {
    return error.what();
  }
  const std::vector<std::uint16_t> found = head.bits();
  if (expected.empty()) expected = found;
  return found == expected ? "" : "wrong answer";
}

/// Whether every schedule finds nothing in a kernel, whose outputs are kept.
template <class Right>
bool is_right(const char* name, std::vector<std::uint16_t>& bits) {
  bool right = true;
  emulation::for_each_schedule([&](const auto& options) {
    const std::string text = outcome<Right, Right>(bits);
    if (!text.empty()) std::printf("%s, %s: %s\n", name, emulation::describe(options).c_str(), text.c_str());
    right = right && text.empty();
  });
  return right;
}

/// Whether some schedule reports a fault.
template <class Kernel, class Right>
bool is_reported(const char* name, const char* report, std::vector<std::uint16_t>& bits) {
  bool reported = false;
  emulation::for_each_schedule([&](const auto& options) {
    if (reported) return;
    const std::string text = outcome<Kernel, Right>(bits);
    std::printf("%s, %s: %s\n", name, emulation::describe(options).c_str(),
                text.empty() ? "nothing" : text.c_str());
    reported = text.find(report) != std::string::npos;
  });
  if (!reported) std::printf("FAULT %s: no schedule reported: %s\n", name, report);
  return reported;
}

}  // namespace

int main() {
  std::vector<std::uint16_t> gradient, key_gradients, key_gradient_apply, answer;
  bool holds = is_right<Gradient>("Gradient", gradient);
  holds = is_right<KeyGradients>("KeyGradients", key_gradients) && holds;
  holds = is_right<KeyGradientApply>("KeyGradientApply", key_gradient_apply) && holds;
  holds = is_right<Apply>("Apply", answer) && holds;
  for_each_fault_of_Gradient<Causal, fused_tiling>([&]<class Kernel>(const char* name, const char* report) {
    holds = is_reported<Kernel, Gradient>(name, report, gradient) && holds;
  });
  for_each_fault_of_KeyGradients<Causal, keys_tiling>(
      [&]<class Kernel>(const char* name, const char* report) {
        holds = is_reported<Kernel, KeyGradients>(name, report, key_gradients) && holds;
      });
  for_each_fault_of_KeyGradientApply<Bidirectional, keys_apply_tiling>(
      [&]<class Kernel>(const char* name, const char* report) {
        holds = is_reported<Kernel, KeyGradientApply>(name, report, key_gradient_apply) && holds;
      });
  for_each_fault_of_Apply<Answer, apply_tiling>([&]<class Kernel>(const char* name, const char* report) {
    holds = is_reported<Kernel, Apply>(name, report, answer) && holds;
  });
  return holds ? 0 : 1;
}
