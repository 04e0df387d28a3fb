// Calls of the CUDA forward: what they refuse, the workspaces that they are given, what they leave alone.
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>

#include "support/host_calls.hpp"
#endif

#include <cottention/owned_workspace.cuh>

#include "support/catch.hpp"
#include "support/cuda_forward.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale, cottention::Split,
    cottention::CallStatus, cottention::StatusCode;
using namespace support;

namespace {

using P = Problem<float, HeadDim{16, 24}, Mask::causal, Scale::by_key>;

/// Valid arguments, in device memory; o stays NaN unless something is launched.
struct Call {
  Inputs<float> inputs;
  TensorBuffer<float> o;
  Mirror mirror;
  cottention::ForwardArguments<float> args;
  cottention::Workspace workspace{};
  Split split{};

  explicit Call(const Case& c)
      : inputs(c), o(Layout::bshd, c.shape.batch, c.shape.seq_q, c.shape.heads_q, c.shape.dim_v) {
    args = inputs.forward();
    args.o = o.view();
    args = mirror.forward(args);
  }

  CallStatus run() const { return cottention::forward<P>(args, workspace, nullptr, split); }

  /// The call is refused with this code and a reason that starts with `reason`, and writes nothing.
  void refuse(StatusCode code, const std::string& reason) {
    const CallStatus status = run();
    INFO(status.reason);
    CHECK(status.code == code);
    CHECK(std::string(status.reason).substr(0, reason.size()) == reason);
    mirror.download();
    bool untouched = true;
    for (const double x : o.values()) untouched = untouched && x != x;
    CHECK(untouched);
  }
};

const Case plain{.shape = {2, 70, 70, 2, 1, 16, 24}};
const Case lengthy{.shape = {1, 1100, 1100, 1, 1, 16, 24}};

}  // namespace

TEST_CASE("A device refuses null and misaligned pointers, with the argument and the rule") {
  {
    Call call(plain);
    call.args.k.data = nullptr;
    call.refuse(StatusCode::null_pointer, "k.data = null");
  }
  {
    Call call(plain);
    ++call.args.q.data;
    call.args.shape.seq_q = call.args.shape.seq_k = 60;
    call.refuse(StatusCode::bad_option, "q.data = ");
  }
  {
    Call call(plain);
    ++call.args.o.data;
    call.args.shape.seq_q = call.args.shape.seq_k = 60;
    call.refuse(StatusCode::bad_option, "o.data = ");
  }
}

TEST_CASE("A device refuses rows that are not multiples of 16 bytes apart") {
  Call call(plain);
  call.args.shape.seq_q = call.args.shape.seq_k = 40;
  call.args.v.strides = {.batch = 40 * 25, .seq = 25, .head = 25};
  call.refuse(StatusCode::bad_stride, "v.strides.");
}

TEST_CASE("A device refuses shapes that its kernels cannot count") {
  {
    Call call(plain);
    call.args.shape.dim_v = 16;
    call.refuse(StatusCode::bad_shape, "shape.dim_v = 16");
  }
  {
    Call call(plain);
    call.args.shape.batch = call.args.shape.heads_q = call.args.shape.heads_kv = 1;
    call.args.shape.seq_q = call.args.shape.seq_k = (std::int64_t{1} << 31) - 1;
    call.refuse(StatusCode::bad_shape, "shape.seq_q = 2147483647: must be at most");
  }
  {
    Call call(plain);
    constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
    call.args.shape.seq_q = call.args.shape.seq_k = call.args.shape.heads_q = 0;
    call.args.shape.heads_kv = most;
    call.refuse(StatusCode::bad_shape, "shape.heads_kv = 9223372036854775807: must be at most");
  }
}

TEST_CASE("A device refuses checkpoints") {
  Call call(plain);
  call.args.checkpoint_interval = cottention::checkpoint_chunk;
  call.refuse(StatusCode::unsupported, "checkpoint_interval = 128: must be 0 on a device");
}

TEST_CASE("A device refuses a split that is out of range and a workspace that is too small") {
  {
    Call call(plain);
    call.split.pieces = 65;
    call.refuse(StatusCode::bad_option, "split.pieces = 65");
  }
  {
    Call call(plain);
    call.split.pieces = -1;
    call.refuse(StatusCode::bad_option, "split.pieces = -1");
  }
  Call call(lengthy);
  call.split.pieces = 2;
  const std::size_t bytes = cottention::workspace_bytes<P>(call.args, call.split);
  REQUIRE(bytes > 0);
  call.refuse(StatusCode::bad_workspace, "workspace.data = null");
  std::vector<unsigned char> scratch(bytes + 256);
  unsigned char* memory = call.mirror.array(scratch.data(), static_cast<std::int64_t>(scratch.size()));
  call.workspace = {memory, bytes - 1};
  call.refuse(StatusCode::bad_workspace, "workspace.bytes = ");
  call.workspace = {memory + 64, bytes};
  call.refuse(StatusCode::bad_workspace, "workspace.data = ");
  call.workspace = {memory, bytes};
  CHECK(call.run().ok());
}

TEST_CASE("Without cuts no workspace is asked for") {
  Call call(lengthy);
  CHECK(cottention::workspace_bytes<P>(call.args, {1}) == 0);
  call.split.pieces = 1;
  CHECK(call.run().ok());
}

// ---- What a call will run

TEST_CASE("choice says what forward runs, and launches nothing") {
  constexpr cottention::Tiling own{.chunk = 8, .warps = 1, .stages = 1, .columns = 16};
  Call call(lengthy);
  const LaunchCount launches;
  const auto chosen = cottention::choice<P>(call.args, {2});
  CHECK(chosen.o.tiling == cottention::tuning::tuned_forward<P>);
  CHECK(chosen.o.tiling.engine == cottention::Engine::mma_sync);
  CHECK(chosen.o.pieces == 2);
  CHECK(chosen.launches == 3);  // Reduce, Prefix and Walk
  CHECK(chosen.workspace_bytes == cottention::workspace_bytes<P>(call.args, {2}));
  const auto whole = cottention::choice<P, own>(call.args, {1});
  CHECK(whole.o.tiling == own);
  CHECK(whole.o.pieces == 1);
  CHECK(whole.launches == 1);
  CHECK(whole.workspace_bytes == 0);
  std::int64_t count = 0;
  call.args.final_state.count = &count;
  CHECK(cottention::choice<P>(call.args, {1}).launches == 2);  // Count too
  call.args.shape = Extents{1, 0, 0, 1, 1, 16, 24};
  const auto counted = cottention::choice<P>(call.args);  // Count alone
  CHECK(counted.o.tiling.chunk == 0);
  CHECK(counted.o.pieces == 0);
  CHECK(counted.launches == 1);
  launches.check(0);
}

TEST_CASE("choice is refused where the call would be, for its shape, its split or its shared memory") {
  Call call(lengthy);
  cottention::ForwardChoice chosen{.launches = 7};
  CHECK(cottention::choice<P>(call.args, chosen, {65}).code == StatusCode::bad_option);
  CHECK(chosen.launches == 0);
  CHECK(cottention::choice<P>(call.args, {65}).launches == 0);
  constexpr cottention::Tiling large{.chunk = 64, .warps = 1, .stages = 12, .columns = 16};
  const CallStatus status = cottention::choice<P, large>(call.args, chosen);
  CHECK(status.code == StatusCode::unsupported);
  CHECK(std::string(status.reason).find("device: has ") == 0);
  CHECK(chosen.launches == 0);
  call.args.shape.dim_v = 16;
  CHECK(cottention::choice<P>(call.args, chosen).code == StatusCode::bad_shape);
}

// ---- Workspaces that grow

namespace {

using cottention::DeviceWorkspace;

struct TestStream {
  cudaStream_t stream = nullptr;
  TestStream() { REQUIRE(cudaStreamCreate(&stream) == cudaSuccess); }
  ~TestStream() { (void)cudaStreamDestroy(stream); }
};

/// What `call()` returns while `stream` captures it.
template <class F>
CallStatus captured(cudaStream_t stream, F call) {
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess);
  const CallStatus status = call();
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
  return status;
}

}  // namespace

TEST_CASE("Forward with a device workspace that grows gives what it gives with one of the caller's") {
  Call call(lengthy);
  call.split.pieces = 2;
  std::size_t needed = 0;
  REQUIRE(cottention::workspace_bytes<P>(call.args, needed, call.split).ok());
  REQUIRE(needed > 0);
  CHECK(needed == cottention::workspace_bytes<P>(call.args, call.split));
  std::vector<unsigned char> scratch(needed);
  call.workspace = {call.mirror.array(scratch.data(), static_cast<std::int64_t>(needed)), needed};
  REQUIRE(call.run().ok());
  call.mirror.download();
  const std::vector<double> expected = call.o.values();

  DeviceWorkspace workspace;
  const TestStream stream;
  const auto run = [&](Split split) {
    call.o = TensorBuffer<float>(Layout::bshd, 1, 1100, 1, 24);
    Mirror mirror;
    auto args = call.args;
    args.o = mirror.tensor(call.o.view(), 1, 1100, 1, 24);
    const CallStatus status = cottention::forward<P>(args, workspace, stream.stream, split);
    REQUIRE(cudaStreamSynchronize(stream.stream) == cudaSuccess);
    mirror.download();
    return status;
  };
  REQUIRE(run({1}).ok());  // not cut, it needs none
  CHECK(workspace.bytes() == 0);
  REQUIRE(run(call.split).ok());
  CHECK(call.o.values() == expected);
  CHECK(workspace.bytes() == needed);
  const void* const data = workspace.get().data;
  REQUIRE(run(call.split).ok());
  CHECK(call.o.values() == expected);
  CHECK(workspace.get().data == data);
  // In more pieces: at least half as much again.
  REQUIRE(run({3}).ok());
  CHECK(workspace.bytes() == needed + needed / 2);
  REQUIRE(run({4}).ok());
  CHECK(workspace.bytes() >= cottention::workspace_bytes<P>(call.args, {4}));

  const std::size_t bytes = workspace.bytes();
  DeviceWorkspace moved = std::move(workspace);
  CHECK(workspace.bytes() == 0);
  CHECK(moved.bytes() == bytes);
  REQUIRE(run(call.split).ok());
  workspace = std::move(moved);
  CHECK(moved.bytes() == 0);
  CHECK(workspace.bytes() == bytes);
  workspace.release();
  CHECK(workspace.bytes() == 0);
  call.split.pieces = 65;
  CHECK(run(call.split).code == StatusCode::bad_option);
  call.args.q.data = nullptr;
  CHECK(run({2}).code == StatusCode::null_pointer);
  CHECK(workspace.bytes() == 0);  // what is refused does not make it grow
  const CallStatus status = workspace.reserve(std::size_t{1} << 50);
  CHECK(status.code == StatusCode::cuda_error);
  CHECK(status.cuda_error == cudaErrorMemoryAllocation);
  CHECK(std::string(status.reason) == "cudaMalloc for the workspace: out of memory");
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(workspace.reserve(1000).ok());
}

TEST_CASE("A captured call finds its workspace large enough, and keeps it") {
  Call call(lengthy);
  const TestStream stream;
  DeviceWorkspace workspace;
  const auto run = [&](Split split) {
    return cottention::forward<P>(call.args, workspace, stream.stream, split);
  };
  const std::size_t needed = cottention::workspace_bytes<P>(call.args, {2});
  CallStatus status = captured(stream.stream, [&] { return run({2}); });
  CHECK(status.code == StatusCode::bad_workspace);
  CHECK(std::string(status.reason) ==
        "workspace.bytes = 0: must be at least " + std::to_string(needed) +
            ", and cannot grow while the stream is captured. Remedy: call reserve(" + std::to_string(needed) +
            ") before");
  REQUIRE(workspace.reserve(needed).ok());
  const void* const data = workspace.get().data;
  status = captured(stream.stream, [&] { return run({2}); });
  CHECK(std::string(status.reason) == "");
  CHECK(run({2}).ok());
  status = run({3});
  CHECK(status.code == StatusCode::bad_workspace);
  CHECK(std::string(status.reason).find("because a captured call has its address") != std::string::npos);
  CHECK(workspace.get().data == data);
  workspace.release();
  CHECK(run({3}).ok());
  REQUIRE(cudaStreamSynchronize(stream.stream) == cudaSuccess);
}

TEST_CASE("An empty problem succeeds and launches nothing but counts") {
  cottention::ForwardArguments<float> args;
  args.shape = Extents{0, 3, 3, 2, 1, 16, 24};
  CHECK(cottention::forward<P>(args, {}, nullptr).ok());
  args.shape = Extents{2, 0, 0, 2, 1, 16, 24};
  CHECK(cottention::forward<P>(args, {}, nullptr).ok());
  args.shape = Extents{2, 3, 3, 0, 0, 16, 24};
  CHECK(cottention::forward<P>(args, {}, nullptr).ok());
}

#if __has_include(<emulation.hpp>)
TEST_CASE("Forward is refused where its kernels do not run") {
  Call call(plain);
  check_refused_without_code([&] { return call.run(); });
}

TEST_CASE("Forward asks about a device and its kernels once") {
  Call call(plain);
  check_asks_once([&] { return call.run(); });
}

TEST_CASE(
    "Calls with one device workspace follow each other on whatever streams, and leave no memory behind") {
  using cottention::emulation::allocated_bytes, cottention::emulation::launches_before;
  const std::size_t before = allocated_bytes();
  {
    Call call(lengthy);
    const TestStream first, second;
    DeviceWorkspace workspace;
    REQUIRE(cottention::forward<P>(call.args, workspace, first.stream, {2}).ok());
    const std::size_t launched = launches_before(first.stream, first.stream);
    CHECK(launched > 0);
    CHECK(launches_before(second.stream, first.stream) == 0);
    REQUIRE(cottention::forward<P>(call.args, workspace, second.stream, {2}).ok());
    CHECK(launches_before(second.stream, first.stream) == launched);
    REQUIRE(cottention::forward<P>(call.args, workspace, first.stream, {2}).ok());
    CHECK(launches_before(first.stream, second.stream) == launched);
  }
  CHECK(allocated_bytes() == before);
}

TEST_CASE("A workspace that cannot grow while another stream captures stays as it is") {
  Call call(lengthy);
  const TestStream capturing;
  DeviceWorkspace workspace;
  REQUIRE(cottention::forward<P>(call.args, workspace, nullptr, {2}).ok());
  const std::size_t bytes = workspace.bytes();
  const CallStatus status =
      captured(capturing.stream, [&] { return cottention::forward<P>(call.args, workspace, nullptr, {3}); });
  CHECK(status.cuda_error == cudaErrorStreamCaptureUnsupported);
  CHECK(std::string(status.reason) ==
        "cudaFree of the workspace: operation not permitted when stream is capturing");
  CHECK(workspace.bytes() == bytes);
  CHECK(cottention::forward<P>(call.args, workspace, nullptr, {3}).ok());
}

TEST_CASE("Without a device workspace_bytes, choice and calls say so, with CUDA's number") {
  const RestoreOptions restore;
  Call call(lengthy);
  cottention::emulation::options().devices = 0;
  std::size_t bytes = 1;
  const CallStatus status = cottention::workspace_bytes<P>(call.args, bytes);
  CHECK(status.code == StatusCode::cuda_error);
  CHECK(status.cuda_error == cudaErrorNoDevice);
  CHECK(bytes == 0);
  CHECK(cottention::workspace_bytes<P>(call.args) == 0);
  cottention::ForwardChoice chosen;
  CHECK(cottention::choice<P>(call.args, chosen).cuda_error == cudaErrorNoDevice);
  DeviceWorkspace workspace;
  CHECK(cottention::forward<P>(call.args, workspace, nullptr).cuda_error == cudaErrorNoDevice);
  CHECK(workspace.reserve(1).cuda_error == cudaErrorNoDevice);
  // The shape is at fault first.
  call.args.shape.dim_v = 16;
  CHECK(cottention::workspace_bytes<P>(call.args, bytes).code == StatusCode::bad_shape);
}
#endif
