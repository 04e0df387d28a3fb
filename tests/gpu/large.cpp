// What only a GPU has room and time for: tensors of more than 2^31 elements.
#include <cstdint>
#include <vector>

#include <cottention/forward.cuh>

#include "bench/gpu/buffer.hpp"
#include "support/catch.hpp"
#include "support/error.hpp"
#include "support/extents.hpp"
#include "support/oracle.hpp"

namespace {

using namespace cottention;
using bench::Buffer;
using T = bfloat16;
using P = Problem<T, HeadDim{64, 64}, Mask::causal, Scale::by_key>;

bool has_room(double bytes) {
  std::size_t room = 0, total = 0;
  REQUIRE(cudaMemGetInfo(&room, &total) == cudaSuccess);
  if (static_cast<double>(room) < bytes) WARN("skipped: the device has " << room << " bytes of free memory");
  return static_cast<double>(room) >= bytes;
}

/// Random q, k and v, and o, contiguous.
struct Tensors {
  Shape shape;
  std::int64_t count = shape.batch * shape.seq_q * shape.heads_q * shape.dim_qk;
  Buffer<T> q = bench::random_buffer<T>(count, 1), k = bench::random_buffer<T>(count, 2),
            v = bench::random_buffer<T>(count, 3), o = Buffer<T>(count);
  std::vector<float> m_host;
  Buffer<float> m = bench::uploaded(m_host);

  ForwardArguments<T> arguments() const {
    ForwardArguments<T> args;
    args.shape = shape;
    args.q = {q.data()};
    args.k = {k.data()};
    args.v = {v.data()};
    args.o = {o.data()};
    args.scale_logit = m.data();
    args.plan = Plan::batch_invariant;
    return args;
  }
};

void run(const ForwardArguments<T>& args) {
  const std::size_t bytes = workspace_bytes<P>(args);
  const Buffer<unsigned char> scratch(static_cast<std::int64_t>(bytes));
  const CallStatus status = forward<P>(args, {scratch.data(), bytes}, nullptr);
  INFO(status.reason);
  REQUIRE(status.ok());
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
}

std::vector<T> part_of(const Buffer<T>& buffer, std::int64_t first, std::int64_t count) {
  std::vector<T> part(static_cast<std::size_t>(count));
  REQUIRE(cudaMemcpy(part.data(), buffer.data() + first, part.size() * sizeof(T), cudaMemcpyDeviceToHost) ==
          cudaSuccess);
  return part;
}

std::vector<double> widened(const std::vector<T>& x) {
  std::vector<double> wide;
  for (const T value : x) wide.push_back(to_double(value));
  return wide;
}

std::vector<float> some_logits(std::int64_t heads) {
  std::vector<float> m;
  for (std::int64_t h = 0; h < heads; ++h) m.push_back(0.01f * static_cast<float>(h));
  return m;
}

}  // namespace

TEST_CASE("Batches of more than 2^31 elements are right at their start, middle and end", "[long]") {
  const Shape shape = support::Extents{32800, 16, 16, 64, 64, 64, 64};  // 2,149,580,800 elements
  if (!has_room(18e9)) return;
  const Tensors x{.shape = shape, .m_host = some_logits(shape.heads_q)};
  run(x.arguments());
  const std::int64_t each = x.count / shape.batch;
  for (const std::int64_t b : {std::int64_t{0}, shape.batch / 2, shape.batch - 1}) {
    const auto q = part_of(x.q, b * each, each), k = part_of(x.k, b * each, each),
               v = part_of(x.v, b * each, each), o = part_of(x.o, b * each, each);
    ForwardArguments<T> args;
    args.shape = shape;
    args.shape.batch = 1;
    args.q = {q.data()};
    args.k = {k.data()};
    args.v = {v.data()};
    args.scale_logit = x.m_host.data();
    const auto expected = support::definition(Mask::causal, Scale::by_key, args);
    INFO("sequence " << b);
    CHECK(support::relative_error(widened(o), expected.o) <= support::bounds<T>.forward);
  }
}

TEST_CASE("The last head of a sequence of more than 2^31 elements is as it is alone", "[long]") {
  const Shape shape = support::Extents{1, 524'300, 524'300, 64, 64, 64, 64};  // 2,147,532,800 elements
  if (!has_room(19e9)) return;
  const Tensors all{.shape = shape, .m_host = some_logits(shape.heads_q)};
  run(all.arguments());

  Shape one = shape;
  one.heads_q = one.heads_kv = 1;
  Tensors alone{.shape = one, .m_host = {all.m_host.back()}};
  const std::int64_t row = shape.heads_q * shape.dim_qk, last = row - shape.dim_qk;
  const auto extract = [&](const Buffer<T>& from, Buffer<T>& to) {
    const auto width = static_cast<std::size_t>(shape.dim_qk) * sizeof(T);
    REQUIRE(cudaMemcpy2D(to.data(), width, from.data() + last, static_cast<std::size_t>(row) * sizeof(T),
                         width, static_cast<std::size_t>(shape.seq_q),
                         cudaMemcpyDeviceToDevice) == cudaSuccess);
  };
  extract(all.q, alone.q);
  extract(all.k, alone.k);
  extract(all.v, alone.v);
  run(alone.arguments());
  const std::vector<T> expected = alone.o.download();
  extract(all.o, alone.o);
  const std::vector<T> found = alone.o.download();
  REQUIRE(found.size() == expected.size());
  std::size_t different = 0;
  for (std::size_t i = 0; i < found.size(); ++i) different += found[i].bits != expected[i].bits;
  CHECK(different == 0);
}
