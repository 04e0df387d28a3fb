// One step of training over one long sequence, of which each GPU of this machine has a part: o, the loss, and
// all gradients, with NCCL between a thread for each GPU. Then the first GPU does the same alone, and what
// all have made is compared.
//
//     sequence_parallel_cuda [TOKENS]
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <cottention/nccl.cuh>
#include <cottention/owned_workspace.cuh>
#include <cottention/sequence_parallel.cuh>

#include "device_support.hpp"
#include "support.hpp"

namespace cottention::example {
using Attention = Problem<float, HeadDim{32, 32}, Mask::causal, Scale::by_key>;
constexpr std::int64_t dim = 32;

void check_nccl(ncclResult_t result) {
  if (result == ncclSuccess) return;
  std::fprintf(stderr, "NCCL: %s\n", ncclGetErrorString(result));
  std::exit(1);
}

/// What a step is given, and what it makes, in host memory.
struct Step {
  explicit Step(std::int64_t tokens_)
      : tokens(tokens_), o(elements()), dq(elements()), dk(elements()), dv(elements()) {
    std::mt19937 random(1);
    for (std::vector<float>* x : {&q, &k, &v, &target}) *x = random_tensor<float>(tokens * dim, random);
  }
  std::size_t elements() const { return static_cast<std::size_t>(tokens * dim); }

  std::int64_t tokens;
  std::vector<float> q, k, v, target, o, dq, dk, dv;
  double loss = 0;
  float dm = 0;
};

/// The tokens of one GPU, in its memory.
class Tokens {
 public:
  Tokens(Step& step, std::int64_t first, std::int64_t count) : step_(step), first_(first), count_(count) {
    check(stream_.create());
    for (const auto& [device, host] : {std::pair{&q_, &step.q}, {&k_, &step.k}, {&v_, &step.v}})
      check(device->upload(rows(*host), stream_));
    for (DeviceArray<float>* x : {&o_, &dout_, &dq_, &dk_, &dv_}) check(x->reserve(elements()));
    check(m_.upload(std::span<const float>(&m_value, 1), stream_));
    check(dm_.reserve(1));
  }

  const Stream& stream() const { return stream_; }
  ForwardArguments<float> forward() const {
    return {.shape = shape(),
            .q = {q_.data()},
            .k = {k_.data()},
            .v = {v_.data()},
            .o = {o_.data()},
            .scale_logit = m_.data()};
  }
  BackwardArguments<float> backward() const {
    return {.shape = shape(),
            .q = {q_.data()},
            .k = {k_.data()},
            .v = {v_.data()},
            .dout = {dout_.data()},
            .dq = {dq_.data()},
            .dk = {dk_.data()},
            .dv = {dv_.data()},
            .scale_logit = m_.data(),
            .dscale_logit = dm_.data()};
  }
  /// Half the mean square of o - target, of these tokens; dout becomes its gradient.
  double loss() {
    check(o_.download(rows(step_.o), stream_));
    check(stream_.wait());
    slope_.resize(elements());
    double sum = 0;
    for (std::size_t i = 0; i < slope_.size(); ++i) {
      const float difference = rows(step_.o)[i] - rows(step_.target)[i];
      slope_[i] = difference / static_cast<float>(step_.tokens);
      sum += 0.5 * difference * difference / static_cast<double>(step_.tokens);
    }
    check(dout_.upload(slope_, stream_));
    return sum;
  }
  /// Brings the gradients to the host.
  void download(float& dm) {
    check(dq_.download(rows(step_.dq), stream_));
    check(dk_.download(rows(step_.dk), stream_));
    check(dv_.download(rows(step_.dv), stream_));
    check(dm_.download(std::span<float>(&dm, 1), stream_));
    check(stream_.wait());
  }

 private:
  static constexpr float m_value = 0.5f;

  std::size_t elements() const { return static_cast<std::size_t>(count_ * dim); }
  Shape shape() const {
    return {.batch = 1,
            .seq_q = count_,
            .seq_k = count_,
            .heads_q = 1,
            .heads_kv = 1,
            .dim_qk = dim,
            .dim_v = dim};
  }
  std::span<float> rows(std::vector<float>& x) const { return {x.data() + first_ * dim, elements()}; }

  Step& step_;
  std::int64_t first_, count_;
  Stream stream_;
  DeviceArray<float> q_, k_, v_, o_, dout_, dq_, dk_, dv_, m_, dm_;
  std::vector<float> slope_;
};

/// The part of one GPU: what each of `ranks` threads does.
void run_part(Step& step, ncclComm_t communicator, int device, int ranks, double& loss, float& dm) {
  check(device::status_of(cudaSetDevice(device), "cudaSetDevice"));
  const std::int64_t first = step.tokens * device / ranks;
  Tokens part(step, first, step.tokens * (device + 1) / ranks - first);
  const SequencePart<float> whole_on_all{};
  NcclCommunicator gpus(communicator, part.stream().get());
  check(gpus.status());

  DeviceWorkspace workspace;
  std::size_t forward_bytes = 0, backward_bytes = 0;
  check(part_workspace_bytes<Attention>(part.forward(), ranks, forward_bytes));
  check(part_workspace_bytes<Attention>(part.backward(), ranks, backward_bytes));
  check(workspace.reserve(forward_bytes > backward_bytes ? forward_bytes : backward_bytes));

  // Once for calls of a kind: here the threads wait for each other on the host, and in the calls they do not.
  PartAgreement forward_agreement, backward_agreement;
  check(agree<Attention>(part.forward(), whole_on_all, gpus, workspace.get(), forward_agreement));
  check(agree<Attention>(part.backward(), whole_on_all, gpus, workspace.get(), backward_agreement));

  check(forward<Attention>(part.forward(), whole_on_all, forward_agreement, gpus, workspace.get(),
                           part.stream().get()));
  loss = part.loss();
  check(backward<Attention>(part.backward(), whole_on_all, backward_agreement, gpus, workspace.get(),
                            part.stream().get()));
  part.download(dm);
}

void run_alone(Step& step) {
  check(device::status_of(cudaSetDevice(0), "cudaSetDevice"));
  Tokens all(step, 0, step.tokens);
  DeviceWorkspace workspace;
  check(cottention::forward<Attention>(all.forward(), workspace, all.stream().get()));
  step.loss = all.loss();
  check(cottention::backward<Attention>(all.backward(), workspace, all.stream().get()));
  all.download(step.dm);
}

double error(const std::vector<float>& x, const std::vector<float>& expected) {
  RelativeError e;
  e.add(x, {expected.begin(), expected.end()});
  return e.value();
}

int run(std::int64_t tokens) {
  skip_without_device();
  int ranks = 0;
  check(device::status_of(cudaGetDeviceCount(&ranks), "cudaGetDeviceCount"));
  const auto count = static_cast<std::size_t>(ranks);
  std::vector<ncclComm_t> communicators(count);
  check_nccl(ncclCommInitAll(communicators.data(), ranks, nullptr));  // GPUs 0 to ranks - 1

  Step split(tokens), alone(tokens);
  std::vector<double> losses(count);
  std::vector<float> dm(count);
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < count; ++r)
    threads.emplace_back(
        [&, r] { run_part(split, communicators[r], static_cast<int>(r), ranks, losses[r], dm[r]); });
  for (std::thread& thread : threads) thread.join();
  for (const ncclComm_t communicator : communicators) check_nccl(ncclCommDestroy(communicator));
  for (const double loss : losses) split.loss += loss;
  split.dm = dm[0];  // the same on all

  run_alone(alone);
  const double errors[] = {
      error(split.o, alone.o),   error(split.dq, alone.dq),          error(split.dk, alone.dk),
      error(split.dv, alone.dv), std::fabs(split.dm / alone.dm - 1), std::fabs(split.loss / alone.loss - 1)};
  // Both have errors of their own, of 1e-6 in o and 3e-6 in gradients at most.
  const double bounds[] = {2e-6, 6e-6, 6e-6, 6e-6, 6e-6, 2e-6};
  const char* const names[] = {"o", "dq", "dk", "dv", "dm", "loss"};
  std::printf("%lld tokens, GPUs: %d, loss %.6f\n", static_cast<long long>(tokens), ranks, split.loss);
  bool close = true;
  for (int i = 0; i < 6; ++i) {
    std::printf("%-4s differs by %.1e\n", names[i], errors[i]);
    close = close && errors[i] <= bounds[i];
  }
  return close ? 0 : 1;
}

}  // namespace cottention::example

int main(int argc, char** argv) {
  const std::int64_t tokens = argc > 1 ? std::atoll(argv[1]) : 1'048'576;
  if (tokens >= 1) return cottention::example::run(tokens);
  std::fprintf(stderr, "usage: %s [TOKENS]\n", argv[0]);
  return 2;
}
