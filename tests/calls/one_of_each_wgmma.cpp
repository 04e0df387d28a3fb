// Forward and backward on the wgmma engine from the PTX that nvcc generates: one kernel of each kind
// that the calls launch, in as few instantiations as that takes. wgmma.cpp and wgmma_gradient.cpp have the
// rest.
#include <concepts>
#include <cstdint>
#include <vector>

#include "support/catch.hpp"
#include "support/cuda_backward.hpp"
#include "support/cuda_forward.hpp"
#include "support/left_out.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale, cottention::Tiling;
namespace recurrence = cottention::recurrence;
using namespace support;

namespace {

template <int qk, int v, Mask mask>
using Of = Problem<bf16, HeadDim{qk, v}, mask, Scale::by_key>;
template <cottention::AnyProblem P, recurrence::Output output>
constexpr Tiling tiling_of() {
  return cottention::tuning::wgmma_recurrence<cottention::kernel::Roles<P, output>>;
}

template <cottention::AnyProblem P>
constexpr bool is_wide = P::head_dim.v == 80;

}  // namespace

// What none of the calls below launches.
template <cottention::AnyProblem P, Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm90::KeyGradients<P, tiling>> = !is_wide<P>;
template <cottention::AnyProblem P, recurrence::Output output, Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Walk<cottention::kernel::Roles<P, output>, tiling>> =
        is_wide<P> ? output == recurrence::Output::dk || output == recurrence::Output::dv
                   : std::same_as<typename P::element, fp16> || P::scale == Scale::by_query;
template <cottention::AnyProblem P, recurrence::Output output, Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Reduce<cottention::kernel::Roles<P, output>, tiling>> =
        is_wide<P>&& P::mask == Mask::causal;
template <cottention::kernel::AnyRoles R, Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm80::Walk<R, tiling>> = true;
template <cottention::kernel::AnyRoles R, Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm80::Reduce<R, tiling>> = true;

namespace {

Case of_length(std::int64_t n) {
  return {.shape = {2, n, n, 2, 1, 0, 0}, .padding = Padding::middle, .initial_state = Presence::present};
}

/// Checks what the one kernel for all gradients writes. Of the call's other kernels only the sum for the
/// gradient of scale_logit runs, so that the others are not compiled; heads whose dq is to be made again keep
/// the first one.
template <cottention::AnyProblem P>
void check_fused_backward(Case c) {
  namespace host = cottention::host;
  using T = typename P::element;
  using Gradient = cottention::sm90::Gradient<P, cottention::tuning::wgmma_fused_backward<P>>;
  c.mask = P::mask;
  c.scale = P::scale;
  c.shape.dim_qk = P::head_dim.qk;
  c.shape.dim_v = P::head_dim.v;
  Inputs<T> inputs(c);
  auto args = inputs.backward();
  std::vector<float> final_h = final_h_of(inputs);
  args.final_h = final_h.data();
  GradientBuffers<T> out(args.shape, args.shape.batch, Layout::bshd);
  for (const Wanted wanted : every_gradient) out.ask(wanted, args);
  Mirror mirror;
  const auto device_args = mirrored(mirror, args);
  cottention::device::Properties device;
  REQUIRE(cottention::device::current_device(device).ok());
  const host::BackwardCall<P> call(device_args, {1}, device);
  std::vector<unsigned char> scratch(call.workspace_bytes(), nan_byte);
  host::Launches launches(device, nullptr);
  bool launched = false;
  call.kernels(mirror.array(scratch.data(), static_cast<std::int64_t>(scratch.size())),
               [&]<class Kernel>(cottention::device::Grid grid, const auto& params) {
                 constexpr bool is_fused = std::same_as<Kernel, Gradient>;
                 if constexpr (is_fused || std::same_as<Kernel, cottention::kernel::ScaleGrad<T>>) {
                   launches.template prepare<Kernel>();
                   launches.template launch<Kernel>(grid, params());
                   launched = launched || is_fused;
                 }
               });
  INFO(launches.status().reason);
  REQUIRE(launches.status().ok());
  CHECK(launched);
  mirror.download();
  CHECK(out.surroundings_untouched());
  check_gradient(inputs, out.values());
}

}  // namespace

TEST_CASE("Forward of the wgmma engine from PTX: sequences whole and in pieces are right") {
  using Causal = Of<64, 64, Mask::causal>;
  using Bidirectional = Of<64, 80, Mask::bidirectional>;
  for (const std::int64_t n : {1, 70, 300})
    for (const int pieces : {1, 3}) {
      check_cuda_forward<Causal, tiling_of<Causal, recurrence::Output::o>()>(of_length(n),
                                                                             {.split = {pieces}});
      check_cuda_forward<Bidirectional, tiling_of<Bidirectional, recurrence::Output::o>()>(
          of_length(n), {.split = {pieces}});
    }
}

TEST_CASE("dk and dv in one kernel of the wgmma engine from PTX are right") {
  for (const std::int64_t n : {1, 300})
    check_cuda_backward<Of<64, 80, Mask::causal>>(of_length(n), {.split = {1}});
}

TEST_CASE("Backward of the wgmma engine from PTX: sequences whole and in pieces are right") {
  using P = Of<64, 64, Mask::causal>;
  for (const std::int64_t n : {1, 70, 300})
    for (const int pieces : {1, 3})
      check_cuda_backward<P, tiling_of<P, recurrence::Output::dv>()>(of_length(n), {.split = {pieces}});
}

TEST_CASE("Backward of the wgmma engine from PTX: all gradients of one kernel are right") {
  for (const std::int64_t n : {70, 300}) {
    check_fused_backward<Of<64, 64, Mask::causal>>(of_length(n));
    check_fused_backward<Problem<bf16, HeadDim{64, 64}, Mask::causal, Scale::by_query>>(of_length(n));
  }
  check_fused_backward<Problem<fp16, HeadDim{64, 64}, Mask::causal, Scale::by_key>>(of_length(200));
}
