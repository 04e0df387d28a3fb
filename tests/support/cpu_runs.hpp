// Runs a call of the CPU backend between guard zones, on memory born as NaN, and checks its results.
#pragma once

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include <cottention/reference.hpp>

#include "support/backward_check.hpp"
#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/cpu_calls.hpp"
#include "support/error.hpp"
#include "support/executor.hpp"
#include "support/forward_check.hpp"
#include "support/oracle.hpp"
#include "support/problem_generator.hpp"
#include "support/workspace.hpp"

namespace support {

/// Whether a call must raise no floating-point exception that a host may have made a trap: on finite inputs,
/// whatever the workspace held. Clang does not keep to exceptions.
enum class Exceptions { allowed, none };

/// How a call is made, but for its inputs.
struct Manner {
  cottention::cpu::Execution execution{};
  Layout layout = Layout::bshd;  ///< of outputs
  FinalState final_state = FinalState::separate;
  Exceptions exceptions = Exceptions::allowed;
};

/// Runs a call whose status must be ok, in a workspace of exactly the size it asks for, full of signalling
/// NaNs.
template <class Arguments>
void run(const Call<Arguments>& call, const Arguments& args, const cottention::cpu::Execution& execution,
         [[maybe_unused]] Exceptions exceptions = Exceptions::allowed) {
  ExactWorkspace workspace(call.workspace_bytes(args, execution));
  if constexpr (std::is_same_v<decltype(args.q.data), const double*>)
    workspace.fill(std::uint64_t{0xfff4000000000000});
  else
    workspace.fill(std::uint32_t{0xffa00000});
  std::feclearexcept(FE_ALL_EXCEPT);
  const cottention::CallStatus status = call.run(args, workspace.view(), execution);
  [[maybe_unused]] const int raised = std::fetestexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW);
  INFO(status.reason);
  REQUIRE(status.ok());
  CHECK(workspace.guards_untouched());
#if !defined(__clang__)
  if (exceptions == Exceptions::none) CHECK(raised == 0);
#endif
}

/// `args` has the inputs; outputs are added here.
template <cottention::Element T>
Output run_forward(const ForwardCall<T>& call, cottention::ForwardArguments<T> args,
                   const Manner& manner = {}) {
  const cottention::Shape& s = args.shape;
  const std::int64_t batch = args.cu_seqlens_q.given() ? 1 : s.batch;
  TensorBuffer<T> o(manner.layout, batch, s.seq_q, s.heads_q, s.dim_v);
  Buffer<cottention::Accumulate<T>> h(s.batch * s.heads_kv * s.dim_qk * s.dim_v);
  Buffer<std::int64_t> count(s.batch);
  args.o = o.view();
  if (manner.final_state != FinalState::absent) args.final_state = {h.data(), count.data()};
  if (manner.final_state == FinalState::in_place) {
    std::copy_n(args.initial_state.h, h.count(), h.data());
    std::copy_n(args.initial_state.count, count.count(), count.data());
    args.initial_state = {h.data(), count.data()};
  }
  run(call, args, manner.execution, manner.exceptions);
  CHECK(o.surroundings_untouched());
  CHECK(h.guards_untouched());
  CHECK(count.guards_untouched());
  if (manner.final_state == FinalState::absent) return {.o = o.values(), .h = {}, .count = {}};
  return {.o = o.values(), .h = values_of(h), .count = {count.data(), count.data() + count.count()}};
}

/// All gradients. `args` has the inputs.
template <cottention::Element T>
Gradient run_backward(const BackwardCall<T>& call, cottention::BackwardArguments<T> args,
                      const Manner& manner = {}) {
  using A = cottention::Accumulate<T>;
  const cottention::Shape& s = args.shape;
  const std::int64_t batch = args.cu_seqlens_q.given() ? 1 : s.batch;
  TensorBuffer<T> dq(manner.layout, batch, s.seq_q, s.heads_q, s.dim_qk);
  TensorBuffer<T> dk(manner.layout, batch, s.seq_k, s.heads_kv, s.dim_qk);
  TensorBuffer<T> dv(manner.layout, batch, s.seq_k, s.heads_kv, s.dim_v);
  Buffer<A> dscale_logit(s.heads_kv), dinitial_state(s.batch * s.heads_kv * s.dim_qk * s.dim_v);
  args.dq = dq.view();
  args.dk = dk.view();
  args.dv = dv.view();
  args.dscale_logit = dscale_logit.data();
  args.dinitial_state = dinitial_state.data();
  run(call, args, manner.execution, manner.exceptions);
  for (const TensorBuffer<T>* x : {&dq, &dk, &dv}) CHECK(x->surroundings_untouched());
  CHECK(dscale_logit.guards_untouched());
  CHECK(dinitial_state.guards_untouched());
  return {.dq = dq.values(),
          .dk = dk.values(),
          .dv = dv.values(),
          .dscale_logit = values_of(dscale_logit),
          .dinitial_state = values_of(dinitial_state)};
}

/// Finite inputs; gradients of small rows are past the range of 16 bits.
template <cottention::Element T>
Manner raising_none(const Case& c, Manner manner) {
  if (sizeof(T) > 2 || c.rows == Rows::normal) manner.exceptions = Exceptions::none;
  return manner;
}

/// Generates a case, runs it and checks it.
template <cottention::Element T>
void check_forward(const Case& c, const Manner& manner = {}) {
  Inputs<T> inputs(c);
  INFO(describe<T>(c) << ", threads " << manner.execution.threads);
  check_output(inputs,
               run_forward(cpu_forward<T>(c.mask, c.scale), inputs.forward(), raising_none<T>(c, manner)));
}

template <cottention::Element T>
void check_backward(const Case& c, const Manner& manner = {}) {
  Inputs<T> inputs(c);
  INFO(describe<T>(c) << ", threads " << manner.execution.threads);
  check_gradient(
      inputs, run_backward(cpu_backward<T>(c.mask, c.scale), inputs.backward(), raising_none<T>(c, manner)));
}

}  // namespace support
