// What `step` refuses on a device, and what memory it moves.
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <cottention/owned_workspace.cuh>

#include "support/catch.hpp"
#include "support/cuda_step.hpp"
#include "support/step_cases.hpp"

#if __has_include(<emulation.hpp>)
#include <emulation.hpp>

#include "support/host_calls.hpp"
#endif

using cottention::bfloat16, cottention::half, cottention::Mask, cottention::Scale, cottention::CallStatus;
using namespace support;

namespace {

using P = cottention::Problem<half, cottention::HeadDim{24, 40}, Mask::causal, Scale::by_key>;
using Arguments = cottention::StepArguments<half>;

std::string outcome(const CallStatus& status) {
  return status.ok() ? "ok" : std::string(to_string(status.code)) + ": " + status.reason;
}

std::size_t launches() {
#if __has_include(<emulation.hpp>)
  return cottention::emulation::launches().size();
#else
  return 0;
#endif
}

/// Makes calls whose arguments `change` has broken. Each must return `expected` and launch and write nothing.
class Refusals {
 public:
  Refusals()
      : inputs_({.shape = {2, 3, 3, 4, 2, 24, 40}}), pool_(inputs_.shape(), 3), before_(inputs_.shape(), 3) {
    const auto forward = inputs_.forward();
    sound_ = {.shape = forward.shape,
              .q = forward.q,
              .k = forward.k,
              .v = forward.v,
              .o = o_.view(),
              .scale_logit = forward.scale_logit,
              .pool = pool_.view(),
              .pool_slots = 3};
    sound_ = mirror_.step(sound_);
  }

  const Arguments& sound() const { return sound_; }

  template <class Change>
  void check(Change change, const std::string& expected, cottention::Workspace workspace = {}) {
    INFO(expected);
    Arguments args = sound_;
    change(args);
    const std::size_t before = launches();
    CHECK(outcome(cottention::step<P>(args, workspace, nullptr)).find(expected) == 0);
    CHECK(outcome(cottention::step<P, cottention::tuning::step_tilings<P>.list[0]>(args, workspace, nullptr))
              .find(expected) == 0);
    CHECK(launches() == before);
    mirror_.download();
    CHECK(pool_ == before_);
    for (const double x : o_.values()) CHECK(x != x);
  }

  CallStatus run() const { return cottention::step<P>(sound_, {}, nullptr); }

 private:
  Inputs<half> inputs_;
  Pool<half> pool_, before_;
  TensorBuffer<half> o_{Layout::bshd, 2, 3, 4, 40};
  Mirror mirror_;
  Arguments sound_;
};

template <class T>
T* moved(T* data, std::size_t bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(data) + bytes);
}

}  // namespace

TEST_CASE("Step on a device: bad arguments are refused with their reason, nothing launched") {
  Refusals refusals;
  refusals.check([](Arguments& a) { a.k.data = nullptr; }, "null pointer: k.data = null: ");
  refusals.check([](Arguments& a) { a.q.data = nullptr; }, "null pointer: q.data = null: ");
  refusals.check([](Arguments& a) { a.pool.h = nullptr; }, "null pointer: pool.h = null: ");
  refusals.check([](Arguments& a) { a.pool.count = nullptr; }, "null pointer: pool.count = null: ");
  refusals.check([](Arguments& a) { a.v.data = moved(a.v.data, 8); }, "bad option: v.data = ");
  refusals.check([](Arguments& a) { a.pool.h = moved(a.pool.h, 4); }, "bad option: pool.h = ");
  refusals.check([](Arguments& a) { a.pool.count = moved(a.pool.count, 4); }, "bad option: pool.count = ");
  refusals.check([](Arguments& a) { a.q.strides.head = 28; }, "bad stride: q.strides.head = 28: ");
  refusals.check([](Arguments& a) { a.o.strides.seq = 40; }, "bad stride: o.strides.seq = 40: ");
  refusals.check([](Arguments& a) { a.o.data = const_cast<half*>(a.v.data); }, "bad stride: ");
  refusals.check([](Arguments& a) { a.shape.dim_v = 48; }, "bad shape: shape.dim_v = 48: ");
  refusals.check([](Arguments& a) { a.shape.seq_k = 2; }, "bad shape: shape.seq_k = 2: ");
  refusals.check([](Arguments& a) { a.shape.heads_q = 3; }, "bad shape: shape.heads_q = 3: ");
  refusals.check([](Arguments& a) { a.pool_slots = 1; }, "bad slot: pool_slots = 1: ");
}

TEST_CASE("choice says which blocks step gets, and launches nothing") {
  Refusals refusals;
  const std::size_t before = launches();
  constexpr cottention::tuning::TilingTable tilings = cottention::tuning::step_tilings<P>;
  Arguments args = refusals.sound();
  args.shape.batch = 100'000;
  const auto many = cottention::choice<P>(args);
  CHECK(many.tiling == tilings.list[0]);
  CHECK(many.launches == 1);
  CHECK(many.workspace_bytes == 0);
  CHECK(cottention::choice<P, tilings.list[0]>(refusals.sound()).tiling == tilings.list[0]);
  args.shape.batch = 1;
  CHECK(cottention::choice<P>(args).tiling == tilings.list[tilings.count - 1]);
  args.shape.batch = 0;
  CHECK(cottention::choice<P>(args).launches == 0);
  args.shape.batch = std::int64_t{1} << 40;
  cottention::StepChoice chosen;
  CHECK(cottention::choice<P>(args, chosen).code == cottention::StatusCode::bad_shape);
  CHECK(launches() == before);
}

TEST_CASE("Step on a device: what exceeds a grid or the kernel's counters is refused") {
  constexpr std::int64_t most = (std::int64_t{1} << 31) - 1;
  Refusals refusals;
  const auto lanes = [](Arguments& a, std::int64_t batch) {
    a.shape.batch = batch;
    a.shape.heads_q = a.shape.heads_kv = 1;
    a.o.data = nullptr;
    a.q = {};
    a.k.strides.batch = a.v.strides.batch = 0;
    // Beyond where any device memory lies: as many slots as lanes reach far.
    a.slot = reinterpret_cast<const std::int32_t*>(std::uintptr_t{1} << 56);
  };
  refusals.check(
      [&](Arguments& a) { lanes(a, most + 1); },
      "bad shape: shape.batch = 2147483648: must be at most 2147483647 on a device with 1 key heads");
  refusals.check([&](Arguments& a) { lanes(a, std::int64_t{1} << 50); },
                 "bad shape: shape.batch = 1125899906842624: ");
  refusals.check(
      [](Arguments& a) {
        a.shape.heads_kv = a.shape.heads_q = 1 << 18;
        a.k.strides = a.v.strides = a.q.strides = {.batch = 0, .seq = 0, .head = 0};
        a.o.data = nullptr;
        a.scale_logit = reinterpret_cast<const float*>(std::uintptr_t{1} << 46);
        a.pool.h = reinterpret_cast<float*>(std::uintptr_t{1} << 45);  // room for as many heads
      },
      "bad shape: shape.heads_kv = 262144: must be at most 262143 on a device");
  refusals.check(
      [](Arguments& a) {
        a.shape.seq_q = a.shape.seq_k =
            (most - 65'535) / 3 + 1;  // rows that end before 2^31 with their chunk
        a.k.strides = a.v.strides = a.q.strides = {.batch = 0, .seq = 0, .head = 0};
        a.o.data = nullptr;
      },
      "bad shape: shape.seq_q = 715806038: must be at most 715806037 on a device");
}

TEST_CASE("Step on a device: no workspace is needed, and one that grows stays empty") {
  const Refusals calls;
  std::size_t bytes = 1;
  CHECK(cottention::workspace_bytes<P>(calls.sound(), bytes).ok());
  CHECK(bytes == 0);
  cottention::DeviceWorkspace workspace;
  CHECK(outcome(cottention::step<P>(calls.sound(), workspace, nullptr)) == "ok");
  CHECK(workspace.bytes() == 0);
  Arguments args = calls.sound();
  args.shape.dim_v = 48;
  bytes = 1;
  CHECK(outcome(cottention::workspace_bytes<P>(args, bytes)) ==
        "bad shape: shape.dim_v = 48: must be 40, the dim_v of the Problem");
  CHECK(bytes == 0);
}

#if __has_include(<emulation.hpp>)

TEST_CASE("Step on a device: a device without room for a block is told, nothing launched") {
  const RestoreOptions restore;
  Refusals refusals;
  cottention::emulation::options().shared_bytes_per_block = 1024;
  refusals.check([](Arguments&) {},
                 "unsupported: device: has 1024 bytes of shared memory for a thread block");
}

TEST_CASE("Step is refused where its kernel does not run") {
  Refusals refusals;
  check_refused_without_code([&] { return refusals.run(); });
}

TEST_CASE("Step asks about a device and its kernel once") {
  Refusals refusals;
  check_asks_once([&] { return refusals.run(); });
}

namespace {

/// Bytes of global memory that one call moves, in whole sectors.
cottention::emulation::Statistics traffic_of(const Case& c, const Lanes& lanes) {
  const Inputs<bfloat16> inputs(c);
  Pool<bfloat16> pool(c.shape, c.shape.batch);
  const CudaStep<bfloat16> step = cuda_step<bfloat16>(c.shape.dim_qk, c.shape.dim_v, c.scale);
  cottention::emulation::clear_statistics();
  run_step(device_stepper(step), inputs, pool, lanes);
  CHECK(cottention::emulation::launches().size() == 1);
  return cottention::emulation::statistics();
}

}  // namespace

TEST_CASE("Step on a device: states are read once and written once, whatever the tokens and the group") {
  for (const std::int64_t dim : {64, 128})
    for (const std::int64_t tokens : {1, 3})
      for (const std::int64_t group : {1, 4}) {
        const Case c{
            .shape = {17, tokens, tokens, 8 * group, 8, dim, dim}};  // more blocks than multiprocessors
        INFO(describe<bfloat16>(c));
        const auto traffic = traffic_of(c, {});
        const std::int64_t head = 2 * tokens * c.shape.batch * dim;  // bytes of one head of q, k, v or o
        const std::int64_t times =
            dim / 64;  // blocks that have columns of one state each read its keys and queries
        const auto states = static_cast<double>(4 * c.shape.batch * 8 * dim * dim);
        const double read = states + static_cast<double>(8 * head * (times * (group + 1) + 1));
        const double written = states + static_cast<double>(8 * head * group);
        const auto sectors_read = static_cast<double>(32 * traffic.global_sectors_read);
        const auto sectors_written = static_cast<double>(32 * traffic.global_sectors_written);
        CHECK(sectors_read >= read);
        CHECK(sectors_read <= 1.05 * read);
        CHECK(sectors_written >= written);
        CHECK(sectors_written <= 1.05 * written);
      }
}

TEST_CASE("Step on a device: drafts write no state, what has no effect moves nothing") {
  const Case c{.shape = {4, 2, 2, 2, 2, 64, 64}};
  const auto draft = traffic_of(c, {.accepted = {0, 0, 0, 0}});
  CHECK(draft.global_bytes_written == 4 * 2 * 2 * 64 * sizeof(bfloat16));
  const auto idle = traffic_of(c, {.slot = {-1, -1, -1, -1}});
  CHECK(idle.global_bytes_written == 0);
  CHECK(idle.global_sectors_read <= 4 * idle.blocks);  // once a warp
  const auto nothing = traffic_of(c, {.accepted = {0, 0, 0, 0}, .output = Presence::absent});
  CHECK(nothing.global_bytes_written == 0);
  CHECK(nothing.global_sectors_read <= 4 * nothing.blocks);
}

#endif
