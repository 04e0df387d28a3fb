// Runs the CUDA calls on all parts of a problem in the emulator, with threads as ranks of NCCL.
#pragma once

#include <exception>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <nccl.h>

#include <cottention/nccl.cuh>
#include <cottention/sequence_parallel.cuh>

#include "support/cases.hpp"
#include "support/cuda_backward.hpp"
#include "support/cuda_forward.hpp"
#include "support/mirror.hpp"
#include "support/split.hpp"

namespace support {

/// The communicators of so many ranks.
class NcclRanks {
 public:
  explicit NcclRanks(int ranks) : communicators_(static_cast<std::size_t>(ranks)) {
    REQUIRE(ncclCommInitAll(communicators_.data(), ranks, nullptr) == ncclSuccess);
  }
  ~NcclRanks() {
    for (const ncclComm_t communicator : communicators_) (void)ncclCommDestroy(communicator);
  }
  NcclRanks(const NcclRanks&) = delete;
  NcclRanks& operator=(const NcclRanks&) = delete;

  ncclComm_t operator[](int rank) const { return communicators_[static_cast<std::size_t>(rank)]; }

  /// The statuses of body(rank, communicator) of all ranks, each on a thread and a stream of its own.
  template <class Body>
  std::vector<cottention::CallStatus> run(Body body) {
    std::vector<cottention::CallStatus> statuses(communicators_.size());
    std::vector<std::thread> threads;
    for (std::size_t r = 0; r < communicators_.size(); ++r)
      threads.emplace_back([this, r, &statuses, &body] {
        const cottention::emulation::TurnOfRank turn(communicators_[r]);
        try {
          cudaStream_t stream = nullptr;
          (void)cudaStreamCreate(&stream);
          statuses[r] = with_stream(static_cast<int>(r), stream, body);
          (void)cudaStreamDestroy(stream);
        } catch (const std::exception& error) {
          statuses[r] =
              cottention::CallStatus::failure(cottention::StatusCode::cuda_error, "%s", error.what());
          (void)ncclCommAbort(communicators_[r]);
        }
      });
    for (std::thread& thread : threads) thread.join();
    return statuses;
  }

 private:
  template <class Body>
  cottention::CallStatus with_stream(int rank, cudaStream_t stream, Body& body) {
    cottention::NcclCommunicator communicator((*this)[rank], stream);
    if (!communicator.status()) return communicator.status();
    return body(communicator, stream);
  }

  std::vector<ncclComm_t> communicators_;
};

/// Agrees and calls. All arguments are to device memory.
template <cottention::AnyProblem P, cottention::Tiling... tiling, class Arguments, cottention::Communicator C>
cottention::CallStatus agree_and_call(const Arguments& args,
                                      const cottention::SequencePart<typename P::element>& part, C& ranks,
                                      cottention::Workspace workspace, cudaStream_t stream,
                                      cottention::Split split = {}) {
  cottention::PartAgreement agreement;
  if (cottention::CallStatus status =
          cottention::agree<P, tiling...>(args, part, ranks, workspace, agreement, split);
      !status)
    return status;
  if constexpr (requires { args.dout; })
    return cottention::backward<P, tiling...>(args, part, agreement, ranks, workspace, stream, split);
  else
    return cottention::forward<P, tiling...>(args, part, agreement, ranks, workspace, stream, split);
}

/// A problem whose ranks' memory is on the device.
template <cottention::AnyProblem P, cottention::Tiling... tiling>
class DeviceParts {
 public:
  using T = typename P::element;

  DeviceParts(SplitProblem<T>& problem, bool keeps_h) {
    const auto whole = problem.inputs().backward();
    const cottention::Shape& s = whole.shape;
    const std::int64_t batch = whole.cu_seqlens_q.given() ? 1 : s.batch;
    const auto copy = [&](const auto& x, std::int64_t seq, std::int64_t heads, std::int64_t dim) {
      (void)mirror_.tensor(x, batch, seq, heads, dim);
    };
    copy(whole.q, s.seq_q, s.heads_q, s.dim_qk);
    copy(whole.k, s.seq_k, s.heads_kv, s.dim_qk);
    copy(whole.v, s.seq_k, s.heads_kv, s.dim_v);
    copy(whole.dout, s.seq_q, s.heads_q, s.dim_v);
    copy(problem.whole_o(), s.seq_q, s.heads_q, s.dim_v);
    copy(problem.whole_dq(), s.seq_q, s.heads_q, s.dim_qk);
    copy(problem.whole_dk(), s.seq_k, s.heads_kv, s.dim_qk);
    copy(problem.whole_dv(), s.seq_k, s.heads_kv, s.dim_v);
    for (int r = 0; r < problem.ranks(); ++r) {
      parts_.push_back(problem.part(r, false));
      if (keeps_h)
        parts_.back().incoming_h = mirror_.array(problem.incoming_h(r).data(), problem.incoming_h(r).count());
      forward_.push_back(on_device(problem.forward(r)));
      backward_.push_back(on_device(problem.backward(r)));
    }
  }

  int ranks() const { return static_cast<int>(parts_.size()); }
  cottention::SequencePart<T>& part(int rank) { return parts_[static_cast<std::size_t>(rank)]; }
  cottention::ForwardArguments<T>& forward(int rank) { return forward_[static_cast<std::size_t>(rank)]; }
  cottention::BackwardArguments<T>& backward(int rank) { return backward_[static_cast<std::size_t>(rank)]; }

  /// Scratch memory of exactly the size that the call asks for, full of NaN.
  template <class Arguments>
  cottention::Workspace workspace(const Arguments& args, cottention::Split split = {}) {
    std::size_t bytes = 0;
    const cottention::CallStatus status =
        cottention::part_workspace_bytes<P, tiling...>(args, ranks(), bytes, split);
    INFO(status.reason);
    REQUIRE(status.ok());
    scratch_.push_back(std::make_unique<std::vector<unsigned char>>(bytes, nan_byte));
    return {mirror_.array(scratch_.back()->data(), static_cast<std::int64_t>(bytes)), bytes};
  }

  /// `forward` and then `backward` of every rank. Returns their statuses. One that fails ends the others.
  std::vector<cottention::CallStatus> run(NcclRanks& nccl, cottention::Split split = {}) {
    std::vector<cottention::Workspace> workspaces;
    for (int r = 0; r < ranks(); ++r) {
      workspaces.push_back(workspace(forward(r), split));
      workspaces.push_back(workspace(backward(r), split));
    }
    return nccl.run([&](cottention::NcclCommunicator& rank, cudaStream_t stream) {
      const int r = rank.rank();
      const cottention::Workspace* const own = workspaces.data() + 2 * r;
      cottention::CallStatus status =
          agree_and_call<P, tiling...>(forward(r), part(r), rank, own[0], stream, split);
      if (status) status = agree_and_call<P, tiling...>(backward(r), part(r), rank, own[1], stream, split);
      if (!status) (void)ncclCommAbort(nccl[r]);
      return status;
    });
  }

  void download() { mirror_.download(); }

 private:
  cottention::ForwardArguments<T> on_device(cottention::ForwardArguments<T> args) {
    auto alone = args;
    alone.q = alone.k = alone.v = {};
    alone.o = {};
    alone = mirror_.forward(alone);
    alone.q = within(args.q), alone.k = within(args.k), alone.v = within(args.v), alone.o = within(args.o);
    return alone;
  }
  cottention::BackwardArguments<T> on_device(cottention::BackwardArguments<T> args) {
    auto alone = args;
    alone.q = alone.k = alone.v = alone.dout = {};
    alone.dq = alone.dk = alone.dv = {};
    alone = mirrored(mirror_, alone);
    alone.q = within(args.q), alone.k = within(args.k), alone.v = within(args.v);
    alone.dout = within(args.dout);
    alone.dq = within(args.dq), alone.dk = within(args.dk), alone.dv = within(args.dv);
    return alone;
  }
  template <class E>
  cottention::Tensor<E> within(cottention::Tensor<E> x) const {
    x.data = mirror_.within(x.data);
    return x;
  }

  Mirror mirror_;
  std::vector<std::unique_ptr<std::vector<unsigned char>>> scratch_;
  std::vector<cottention::SequencePart<T>> parts_;
  std::vector<cottention::ForwardArguments<T>> forward_;
  std::vector<cottention::BackwardArguments<T>> backward_;
};

/// A case with the Problem's mask, scale and head dims, and with strides that devices take.
template <cottention::AnyProblem P>
Case cuda_case(Case c) {
  c.mask = P::mask;
  c.scale = P::scale;
  c.shape.dim_qk = P::head_dim.qk;
  c.shape.dim_v = P::head_dim.v;
  if (c.layout == Layout::gaps) c.layout = Layout::aligned_gaps;
  return c;
}

/// Checks both calls of those of `some` that have the mask and scale of P, on 1 to 7 ranks by turns.
template <cottention::AnyProblem P, cottention::Tiling... tiling>
void check_cuda_parts(const std::vector<Case>& some, cottention::Split split = {}) {
  using T = typename P::element;
  constexpr int numbers[] = {3, 1, 4, 2, 7};
  Random random(31);
  std::size_t turn = 0;
  for (const Case& given : some) {
    if (given.mask != P::mask || given.scale != P::scale) continue;
    const Case c = cuda_case<P>(given);
    const int number = numbers[turn++ % 5];
    Inputs<T> inputs(c);
    const std::vector<Cut> cuts = random_cuts(inputs, number, random);
    INFO(describe<T>(c) << ", ranks " << number << ", pieces " << split.pieces);
    SplitProblem<T> problem(inputs, cuts, c.layout);
    DeviceParts<P, tiling...> parts(problem, turn % 2 == 0);
    NcclRanks ranks(number);
    for (const cottention::CallStatus& status : parts.run(ranks, split)) {
      INFO(status.reason);
      REQUIRE(status.ok());
    }
    parts.download();
    CHECK(problem.surroundings_untouched());
    check_output(inputs, problem.output());
    check_gradient(inputs, problem.gradient(number - 1));
  }
}

/// All cases of a few sequences each.
inline std::vector<Case> all_options() {
  std::vector<Case> all;
  for (const auto& some : {cases::packed(), cases::paddings(), cases::groups(), cases::states(),
                           cases::cross_attention(), cases::layouts()})
    all.insert(all.end(), some.begin(), some.end());
  return all;
}

/// Every `nth` of them, with every scale and with the masks that it can have.
inline std::vector<Case> some_options(std::size_t nth, std::size_t first) {
  const std::vector<Case> all = all_options();
  std::vector<Case> some;
  for (std::size_t i = first; i < all.size(); i += nth) {
    for (const cottention::Mask mask : {cottention::Mask::causal, cottention::Mask::bidirectional})
      for (const cottention::Scale scale :
           {cottention::Scale::none, cottention::Scale::by_key, cottention::Scale::by_query}) {
        Case c = all[i];
        if (mask == cottention::Mask::causal && c.mask != mask) continue;  // lengths of keys of their own
        c.mask = mask;
        c.scale = scale;
        some.push_back(c);
      }
  }
  return some;
}

}  // namespace support
