// Forward and backward on the wgmma engine from the PTX that nvcc generates: one kernel of each kind
// that the calls launch, in as few instantiations as that takes, and sequences as short as it takes to cut
// them. wgmma.cpp, wgmma_gradient.cpp and wgmma_key_gradients.cpp have the rest.
#include <array>
#include <concepts>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/cuda_backward.hpp"
#include "support/cuda_forward.hpp"
#include "support/wgmma_alone.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale, cottention::Tiling;
namespace recurrence = cottention::recurrence;
using namespace support;

// What none of the calls below launches: of dims 64 x 80 dk and dv are made together, of whole sequences.
template <cottention::AnyProblem P, recurrence::Output output, Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Walk<cottention::kernel::Roles<P, output>, tiling>> =
        P::head_dim.v == 80 && (output == recurrence::Output::dk || output == recurrence::Output::dv);
template <cottention::AnyProblem P, recurrence::Output output, Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Reduce<cottention::kernel::Roles<P, output>, tiling>> =
        P::head_dim.v == 80 && P::mask == Mask::causal;

namespace {

template <int qk, int v, Mask mask>
using Of = Problem<bf16, HeadDim{qk, v}, mask, Scale::by_key>;
template <cottention::AnyProblem P, recurrence::Output output>
constexpr Tiling tiling_of() {
  return cottention::tuning::wgmma_recurrence<cottention::kernel::Roles<P, output>>;
}

template <cottention::AnyProblem P>
cottention::Shape shape_of(std::int64_t n) {
  return {2, n, n, 2, 1, P::head_dim.qk, P::head_dim.v};
}

Case of_length(std::int64_t n) {
  return {.shape = {2, n, n, 2, 1, 0, 0}, .padding = Padding::middle, .initial_state = Presence::present};
}

template <class Kernel, class... Kernels>
inline constexpr bool is_one_of = (std::same_as<Kernel, Kernels> || ...);

/// Launches those of a backward call's kernels that are listed, and those that no engine has a kernel of its
/// own for; the others are not compiled. Each that is listed must be launched once, and together they must
/// make what is wanted.
template <cottention::AnyProblem P, class... Kernels>
void check_kernels(Case c, std::span<const Wanted> wanted, Presence final_h, int pieces = 1) {
  namespace host = cottention::host;
  namespace kernel = cottention::kernel;
  using T = typename P::element;
  c.mask = P::mask;
  c.scale = P::scale;
  c.shape.dim_qk = P::head_dim.qk;
  c.shape.dim_v = P::head_dim.v;
  Inputs<T> inputs(c);
  INFO(describe<T>(c) << ", pieces " << pieces);
  auto args = inputs.backward();
  std::vector<float> h;
  if (final_h == Presence::present) {
    h = final_h_of(inputs);
    args.final_h = h.data();
  }
  GradientBuffers<T> out(args.shape, args.shape.batch, Layout::bshd);
  for (const Wanted what : wanted) out.ask(what, args);
  Mirror mirror;
  const auto device_args = mirrored(mirror, args);
  cottention::device::Properties device;
  REQUIRE(cottention::device::current_device(device).ok());
  const host::BackwardCall<P> call(device_args, {pieces}, device);
  std::vector<unsigned char> scratch(call.workspace_bytes(), nan_byte);
  host::Launches launches(device, nullptr);
  int launched = 0;
  call.kernels(
      mirror.array(scratch.data(), static_cast<std::int64_t>(scratch.size())),
      [&]<class Kernel>(cottention::device::Grid grid, const auto& params) {
        constexpr bool is_listed = is_one_of<Kernel, Kernels...>;
        if constexpr (is_listed || is_one_of<Kernel, kernel::ScaleGrad<T>, kernel::Prefix<T, P::mask>>) {
          launches.template prepare<Kernel>();
          launches.template launch<Kernel>(grid, params());
          launched += is_listed;
        }
      });
  INFO(launches.status().reason);
  REQUIRE(launches.status().ok());
  CHECK(launched == sizeof...(Kernels));
  mirror.download();
  CHECK(out.surroundings_untouched());
  const Gradient expected = gradient(c.mask, c.scale, inputs.backward());
  Gradient got = out.values();
  if (args.dq.data == nullptr) got.dq = expected.dq;
  check_gradient(inputs, got, expected);
}

/// The one kernel for all gradients. Heads whose dq is to be made again keep the first one.
template <cottention::AnyProblem P>
void check_fused_backward(Case c) {
  check_kernels<P, cottention::sm90::Gradient<P, cottention::tuning::wgmma_fused_backward<P>>>(
      c, every_gradient, Presence::present);
}

/// The kernel for dk and dv; Reduce before it where attention is bidirectional.
template <cottention::AnyProblem P>
void check_key_gradients(std::int64_t n) {
  namespace sm90 = cottention::sm90;
  constexpr std::array wanted{Wanted::dk, Wanted::dv, Wanted::dscale_logit, Wanted::dinitial_state};
  constexpr Tiling tiling = cottention::tuning::wgmma_key_gradients<P>;
  if constexpr (P::mask == Mask::causal)
    check_kernels<P, sm90::KeyGradients<P, tiling>>(of_length(n), wanted, Presence::absent);
  else
    check_kernels<P,
                  sm90::Reduce<cottention::kernel::Roles<P, recurrence::Output::dk>,
                               tiling_of<P, recurrence::Output::dk>()>,
                  sm90::KeyGradientApply<P, tiling>>(of_length(n), wanted, Presence::absent);
}

/// Forward with the sequences in so many pieces, which the length has to allow.
template <cottention::AnyProblem P>
void check_forward(std::int64_t n, int pieces) {
  constexpr Tiling tiling = tiling_of<P, recurrence::Output::o>();
  const cottention::ForwardArguments<typename P::element> args{.shape = shape_of<P>(n)};
  REQUIRE(cottention::choice<P, tiling>(args, {pieces}).o.pieces == pieces);
  check_cuda_forward<P, tiling>(of_length(n), {.split = {pieces}});
}
/// Backward likewise, with kernels of its own for each gradient.
template <cottention::AnyProblem P>
void check_backward(std::int64_t n, int pieces) {
  constexpr Tiling tiling = tiling_of<P, recurrence::Output::dv>();
  using T = typename P::element;
  T gradient{};
  cottention::BackwardArguments<T> args{.shape = shape_of<P>(n)};
  args.dq.data = args.dk.data = args.dv.data = &gradient;
  const auto chosen = cottention::choice<P, tiling>(args, {pieces});
  REQUIRE(chosen.dq.pieces == pieces);
  REQUIRE(chosen.dk.pieces == pieces);
  REQUIRE(chosen.dv.pieces == pieces);
  check_cuda_backward<P, tiling>(of_length(n), {.split = {pieces}});
}

}  // namespace

TEST_CASE("Forward of the wgmma engine from PTX: sequences whole and in pieces are right") {
  using Causal = Of<64, 64, Mask::causal>;
  using Bidirectional = Of<64, 80, Mask::bidirectional>;
  for (const auto& [n, pieces] : {std::pair{1, 1}, {70, 1}, {520, 2}}) {
    check_forward<Causal>(n, pieces);
    check_forward<Bidirectional>(n, pieces);
  }
}

TEST_CASE("dk and dv in one kernel of the wgmma engine from PTX are right") {
  for (const std::int64_t n : {1, 300})
    check_cuda_backward<Of<64, 80, Mask::causal>>(of_length(n), {.split = {1}});
  check_key_gradients<Of<64, 80, Mask::causal>>(70);
  check_key_gradients<Of<64, 80, Mask::bidirectional>>(200);
  check_key_gradients<Problem<fp16, HeadDim{64, 64}, Mask::causal, Scale::by_key>>(200);
}

TEST_CASE("Backward of the wgmma engine from PTX: sequences whole and in pieces are right") {
  for (const auto& [n, pieces] : {std::pair{1, 1}, {70, 1}, {520, 2}})
    check_backward<Of<64, 64, Mask::causal>>(n, pieces);
}

TEST_CASE("Backward of the wgmma engine from PTX: all gradients of one kernel are right") {
  for (const std::int64_t n : {70, 300}) {
    check_fused_backward<Of<64, 64, Mask::causal>>(of_length(n));
    check_fused_backward<Problem<bf16, HeadDim{64, 64}, Mask::causal, Scale::by_query>>(of_length(n));
  }
  check_fused_backward<Problem<fp16, HeadDim{64, 64}, Mask::causal, Scale::by_key>>(of_length(200));
}
