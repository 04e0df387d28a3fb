// Calls in CUDA graphs, and from several threads on several streams at once.
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <cottention/backward.cuh>
#include <cottention/forward.cuh>
#include <cottention/step.cuh>

#include "bench/gpu/buffer.hpp"
#include "support/catch.hpp"

namespace {

using namespace cottention;
using bench::Buffer;
using T = bfloat16;
using P = Problem<T, HeadDim{64, 64}, Mask::causal, Scale::by_key>;

void require_ok(const CallStatus& status) {
  if (!status) throw std::runtime_error(status.reason);
}

class Stream {
 public:
  Stream() {
    bench::require_success(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~Stream() { (void)cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void wait() const { bench::require_success(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// A prompt, its gradients, and then steps, of its first token again: everything in memory of its own.
class Session {
 public:
  explicit Session(std::uint32_t seed)
      : q_(inputs(seed)), k_(inputs(seed + 1)), v_(inputs(seed + 2)), dout_(inputs(seed + 3)) {
    scratch_ = Buffer<unsigned char>(static_cast<std::int64_t>(workspace_bytes<P>(prompt(), split)));
    backward_scratch_ =
        Buffer<unsigned char>(static_cast<std::int64_t>(workspace_bytes<P>(gradients(), split)));
    bench::require_success(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // all of it is filled
  }

  void enqueue_prompt(cudaStream_t stream) const {
    require_ok(forward<P>(prompt(), {scratch_.data(), scratch_.bytes()}, stream, split));
    require_ok(
        backward<P>(gradients(), {backward_scratch_.data(), backward_scratch_.bytes()}, stream, split));
  }
  void enqueue_step(cudaStream_t stream) const {
    StepArguments<T> args;
    args.shape = shape_of(1);
    args.q = {q_.data()};
    args.k = {k_.data()};
    args.v = {v_.data()};
    args.o = {step_o_.data()};
    args.scale_logit = m_.data();
    args.pool = {h_.data(), count_.data()};
    args.pool_slots = batch;
    require_ok(step<P>(args, {}, stream));
  }

  bool is_split() const { return scratch_.bytes() > 0 && backward_scratch_.bytes() > 0; }

  /// The bits of everything that calls write.
  std::string bits() const {
    const auto text_of = [](const auto& buffer) {
      const auto values = buffer.download();
      return std::string(reinterpret_cast<const char*>(values.data()), buffer.bytes());
    };
    return text_of(o_) + text_of(step_o_) + text_of(h_) + text_of(count_) + text_of(dq_) + text_of(dk_) +
           text_of(dv_) + text_of(dm_);
  }

 private:
  static constexpr std::int64_t batch = 2, seq = 1000, heads = 3, dim = 64;
  static constexpr Split split{3};

  static Shape shape_of(std::int64_t tokens) {
    return {.batch = batch,
            .seq_q = tokens,
            .seq_k = tokens,
            .heads_q = heads,
            .heads_kv = heads,
            .dim_qk = dim,
            .dim_v = dim};
  }
  static Buffer<T> inputs(std::uint32_t seed) {
    return bench::random_buffer<T>(batch * seq * heads * dim, seed);
  }

  ForwardArguments<T> prompt() const {
    ForwardArguments<T> args;
    args.shape = shape_of(seq);
    args.q = {q_.data()};
    args.k = {k_.data()};
    args.v = {v_.data()};
    args.o = {o_.data()};
    args.scale_logit = m_.data();
    args.final_state = {h_.data(), count_.data()};
    return args;
  }

  /// With the final state that the prompt leaves, before steps go on from it.
  BackwardArguments<T> gradients() const {
    BackwardArguments<T> args;
    args.shape = prompt().shape;
    args.q = {q_.data()};
    args.k = {k_.data()};
    args.v = {v_.data()};
    args.dout = {dout_.data()};
    args.dq = {dq_.data()};
    args.dk = {dk_.data()};
    args.dv = {dv_.data()};
    args.scale_logit = m_.data();
    args.dscale_logit = dm_.data();
    args.final_h = h_.data();
    return args;
  }

  Buffer<T> q_, k_, v_, dout_, o_{batch * seq * heads * dim}, step_o_{batch * heads * dim};
  Buffer<T> dq_{batch * seq * heads * dim}, dk_{batch * seq * heads * dim}, dv_{batch * seq * heads * dim};
  Buffer<float> m_ = bench::uploaded(std::vector<float>(heads, 0.5f)), h_{batch * heads * dim * dim},
                dm_{heads};
  Buffer<std::int64_t> count_{batch};
  Buffer<unsigned char> scratch_, backward_scratch_;
};

/// What a prompt, its gradients and two steps leave.
std::string expected_bits(std::uint32_t seed) {
  const Session session(seed);
  const Stream stream;
  session.enqueue_prompt(stream.get());
  session.enqueue_step(stream.get());
  session.enqueue_step(stream.get());
  stream.wait();
  return session.bits();
}

cudaGraphExec_t capture(const Stream& stream, const Session& session) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed) == cudaSuccess);
  session.enqueue_prompt(stream.get());
  session.enqueue_step(stream.get());
  session.enqueue_step(stream.get());
  REQUIRE(cudaStreamEndCapture(stream.get(), &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
  return executable;
}

}  // namespace

TEST_CASE("Calls captured in a graph leave the bits that they leave alone, at every replay") {
  const std::string expected = expected_bits(1);
  const Session session(1);
  REQUIRE(session.is_split());  // so that a call is several kernels
  const Stream stream;
  const cudaGraphExec_t graph = capture(stream, session);
  CHECK(session.bits() != expected);  // nothing has run yet
  for (int replay = 0; replay < 3; ++replay) {
    REQUIRE(cudaGraphLaunch(graph, stream.get()) == cudaSuccess);
    stream.wait();
    CHECK(session.bits() == expected);
  }
  CHECK(cudaGraphExecDestroy(graph) == cudaSuccess);
}

TEST_CASE("Threads that call at the same time, each on a stream of its own, do not disturb each other") {
  constexpr std::uint32_t count = 8;
  std::vector<std::string> expected, found(count);
  for (std::uint32_t i = 0; i < count; ++i) expected.push_back(expected_bits(10 * i));
  std::vector<std::thread> threads;
  for (std::uint32_t i = 0; i < count; ++i)
    threads.emplace_back([i, &found] {
      try {
        const Session session(10 * i);
        const Stream stream;
        for (int again = 0; again < 20; ++again) session.enqueue_prompt(stream.get());
        session.enqueue_step(stream.get());
        session.enqueue_step(stream.get());
        stream.wait();
        found[i] = session.bits();
      } catch (const std::exception& error) {
        found[i] = error.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (std::uint32_t i = 0; i < count; ++i) CHECK(found[i] == expected[i]);
}
