// Rules of validation.hpp about arrays that share memory: an output with anything, in any layout.
#include <cottention/validation.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/validation.hpp"

namespace cottention::test {

TEST_CASE("An output that shares memory with a tensor is refused") {
  CHECK(forward_with([](auto& args) { args.o.data = at<float>(0x100000); }) ==
        "bad stride: o.data = 0x100000: is written, so must share no memory with q.data = 0x100000");
  // The last element of k: 2 * 5 * 2 * 64 * 4 bytes on, less 4.
  CHECK(forward_with([](auto& args) { args.o.data = at<float>(0x2013fc); }) ==
        "bad stride: o.data = 0x2013fc: is written, so must share no memory with k.data = 0x200000");
  CHECK(forward_with([](auto& args) { args.o.data = at<float>(0x201400); }) == "ok");
  CHECK(backward_with([](auto& args) { args.dv.data = args.dk.data; }) ==
        "bad stride: dk.data = 0x600000: is written, so must share no memory with dv.data = 0x600000");
  CHECK(backward_with([](auto& args) { args.dq.data = at<float>(0x400000); }) ==
        "bad stride: dq.data = 0x400000: is written, so must share no memory with dout.data = 0x400000");
  // Negative strides reach below data.
  CHECK(forward_with([](auto& args) { args.o = {at<float>(0x302000), {-640, -128, -32}}; }) == "ok");
  CHECK(forward_with([](auto& args) {
          args.o = {at<float>(0x301000), {-640, -128, -32}};
        }) == "bad stride: o.data = 0x301000: is written, so must share no memory with v.data = 0x300000");
}

TEST_CASE("An output that shares memory with an option is refused") {
  const auto o_on = [](auto change) { return forward_with(change); };
  const std::string rule = "bad stride: o.data = 0x400000: is written, so must share no memory with ";
  CHECK(o_on([](auto& args) { args.scale_logit = at<const float>(0x4013fc); }) ==
        rule + "scale_logit = 0x4013fc");
  CHECK(o_on([](auto& args) { args.query_mask = at<const std::uint8_t>(0x3ffff7); }) ==
        rule + "query_mask = 0x3ffff7");
  CHECK(o_on([](auto& args) { args.query_mask = at<const std::uint8_t>(0x3ffff6); }) == "ok");
  CHECK(o_on([](auto& args) { args.key_mask = at<const std::uint8_t>(0x4013ff); }) ==
        rule + "key_mask = 0x4013ff");
  CHECK(o_on([](auto& args) { args.initial_state.h = at<const float>(0x401000); }) ==
        rule + "initial_state.h = 0x401000");
  CHECK(o_on([](auto& args) { args.final_state.count = at<std::int64_t>(0x401000); }) ==
        rule + "final_state.count = 0x401000");
  CHECK(o_on([](auto& args) {
          args.cu_seqlens_q = at<const std::int32_t>(0x800000);
          args.cu_seqlens_k = at<const std::int32_t>(0x400100);
        }) == rule + "cu_seqlens_k = 0x400100");
  CHECK(o_on([](auto& args) { args.cu_seqlens_q = args.cu_seqlens_k = at<const std::int64_t>(0x800000); }) ==
        "ok");
  CHECK(
      backward_with([](auto& args) { args.dscale_logit = at<float>(0x800004); }) ==
      "bad stride: dscale_logit = 0x800004: is written, so must share no memory with scale_logit = 0x800000");
  CHECK(backward_with([](auto& args) { args.dinitial_state = at<float>(0x1000000); }) ==
        "bad stride: dinitial_state = 0x1000000: is written, so must share no memory with dfinal_state = "
        "0x1000000");
}

TEST_CASE("What lies in the gaps of a tensor is apart from it, to the byte") {
  // Batches of o are 2560 bytes, 0x10000 elements apart; the gap is 0x400a00 to 0x43ffff.
  const auto in_gap = [](auto change) {
    return forward_with([&](auto& args) {
      args.o.strides.batch = 0x10000;
      change(args);
    });
  };
  const std::string rule = "bad stride: o.data = 0x400000: is written, so must share no memory with ";
  const auto m = [&](std::uintptr_t address) {
    return in_gap([=](auto& args) { args.scale_logit = at<const float>(address); });
  };
  CHECK(m(0x410000) == "ok");
  CHECK(m(0x400a00) == "ok");
  CHECK(m(0x4009fc) == rule + "scale_logit = 0x4009fc");
  CHECK(m(0x43fff8) == "ok");
  CHECK(m(0x43fffc) == rule + "scale_logit = 0x43fffc");
  const auto mask = [&](std::uintptr_t address) {
    return in_gap([=](auto& args) { args.key_mask = at<const std::uint8_t>(address); });
  };
  CHECK(mask(0x400a00) == "ok");
  CHECK(mask(0x4009ff) == rule + "key_mask = 0x4009ff");
  CHECK(mask(0x43fff6) == "ok");
  CHECK(mask(0x43fff7) == rule + "key_mask = 0x43fff7");
  const auto state = [&](std::uintptr_t address) {  // 2 * 2 * 64 * 32 numbers
    return in_gap([=](auto& args) { args.final_state.h = at<float>(address); });
  };
  CHECK(state(0x400a00) == "ok");
  CHECK(state(0x438000) == "ok");
  CHECK(state(0x438004) == rule + "final_state.h = 0x438004");
  CHECK(in_gap([](auto& args) { args.final_state.count = at<std::int64_t>(0x43fff0); }) == "ok");
  CHECK(in_gap([](auto& args) { args.final_state.count = at<std::int64_t>(0x43fff8); }) ==
        rule + "final_state.count = 0x43fff8");
  // A tensor that is read, and rows that walk backwards.
  const auto slope = [](std::uintptr_t address, std::int64_t sign) {
    return backward_with([=](auto& args) {
      args.q.strides.batch = sign * 0x20000;
      args.dscale_logit = at<float>(address);
    });
  };
  CHECK(slope(0x110000, 1) == "ok");
  CHECK(slope(0x180000, 1) ==
        "bad stride: dscale_logit = 0x180000: is written, so must share no memory with q.data = 0x100000");
  CHECK(slope(0x82000, -1) == "ok");
  CHECK(slope(0x80000, -1) ==
        "bad stride: dscale_logit = 0x80000: is written, so must share no memory with q.data = 0x100000");
}

TEST_CASE("Offsets have one more entry than the batch has sequences") {
  const auto offsets_at = [](auto* offsets) {
    return forward_with([=](auto& args) {
      args.cu_seqlens_q = offsets + 0x40000;
      args.cu_seqlens_k = offsets;
    });
  };
  const std::string rule =
      "bad stride: o.data = 0x400000: is written, so must share no memory with cu_seqlens_k = ";
  CHECK(offsets_at(at<const std::int32_t>(0x400000 - 12)) == "ok");
  CHECK(offsets_at(at<const std::int32_t>(0x400000 - 8)) == rule + "0x3ffff8");
  CHECK(offsets_at(at<const std::int64_t>(0x400000 - 24)) == "ok");
  CHECK(offsets_at(at<const std::int64_t>(0x400000 - 16)) == rule + "0x3ffff0");
}

TEST_CASE("Pool and tensors of step must not share memory") {
  CHECK(step_with([](auto& args) { args.o.data = at<float>(0x600000); }) ==
        "bad stride: o.data = 0x600000: is written, so must share no memory with pool.h = 0x600000");
  CHECK(step_with([](auto& args) { args.pool.h = at<float>(0x200000); }) ==
        "bad stride: pool.h = 0x200000: is written, so must share no memory with k.data = 0x200000");
  CHECK(step_with([](auto& args) { args.pool.count = at<std::int64_t>(0x600008); }) ==
        "bad stride: pool.h = 0x600000: is written, so must share no memory with pool.count = 0x600008");
  CHECK(step_with([](auto& args) { args.slot = at<const std::int32_t>(0x700014); }) ==
        "bad stride: pool.count = 0x700000: is written, so must share no memory with slot = 0x700014");
  CHECK(step_with([](auto& args) { args.accepted = at<const std::int32_t>(0x700014); }) ==
        "bad stride: pool.count = 0x700000: is written, so must share no memory with accepted = 0x700014");
}

TEST_CASE("Pools and slots of forward must not share memory") {
  const auto with = [](std::uintptr_t read_slot, std::int64_t pool_slots) {
    return forward_with([=](auto& args) {
      args.pool_slots = pool_slots;
      args.read_slot = at<const std::int32_t>(read_slot);
      args.write_slot = at<const std::int32_t>(0xf00000);
    });
  };
  CHECK(with(0xe00000, 3) == "ok");
  CHECK(with(0xd00014, 3) ==
        "bad stride: final_state.count = 0xd00000: is written, so must share no memory with read_slot = "
        "0xd00014");
  CHECK(with(0xd00014, 2) == "ok");
  CHECK(with(0xe00000, 0x100000 / (4 * 2 * 64 * 32)) == "ok");  // up to where the next array starts
  CHECK(with(0xe00000, 1000) ==
        "bad stride: final_state.h = 0xc00000: is written, so must share no memory with final_state.count = "
        "0xd00000");
}

TEST_CASE("A final state may replace the initial one but not overlap part of it") {
  CHECK(forward_with([](auto& args) {
          args.final_state.h = at<float>(0xa00000);
          args.final_state.count = at<std::int64_t>(0xb00000);
        }) == "ok");
  CHECK(forward_with([](auto& args) { args.final_state.h = at<float>(0xa00004); }) ==
        "bad stride: final_state.h = 0xa00004: is written, so must share no memory with initial_state.h = "
        "0xa00000");
  CHECK(forward_with([](auto& args) { args.final_state.count = at<std::int64_t>(0xb00008); }) ==
        "bad stride: final_state.count = 0xb00008: is written, so must share no memory with "
        "initial_state.count = "
        "0xb00000");
  // In place, it must still keep clear of everything else.
  CHECK(forward_with([](auto& args) {
          args.final_state.h = at<float>(0xa00000), args.o.data = at<float>(0xa00100);
        }) ==
        "bad stride: o.data = 0xa00100: is written, so must share no memory with final_state.h = 0xa00000");
}

TEST_CASE("Tensors may be views of one packed qkv buffer") {
  // [batch, seq, heads_q + 2 heads_kv, dim]
  const Strides strides{.batch = 5 * 8 * 64, .seq = 8 * 64, .head = 64};
  CHECK(forward_with([&](auto& args) {
          args.shape.dim_v = 64;
          args.q.strides = args.k.strides = args.v.strides = strides;
          args.k.data = args.q.data + 4 * 64;
          args.v.data = args.q.data + 6 * 64;
        }) == "ok");
  CHECK(backward_with([&](auto& args) {
          args.shape.dim_v = 64;
          args.dq.strides = args.dk.strides = args.dv.strides = strides;
          args.dk.data = args.dq.data + 4 * 64;
          args.dv.data = args.dq.data + 6 * 64;
        }) == "ok");
}

TEST_CASE("Gradients may be views of one packed buffer of tokens") {
  BackwardArguments<half> args{
      .shape =
          {.batch = 3, .seq_q = 1000, .seq_k = 1000, .heads_q = 12, .heads_kv = 4, .dim_qk = 96, .dim_v = 64},
      .q = {at<const half>(0x10000000)},
      .k = {at<const half>(0x20000000)},
      .v = {at<const half>(0x30000000)},
      .dout = {at<const half>(0x40000000)},
      .scale_logit = at<const float>(0x2000),
      .cu_seqlens_q = at<const std::int32_t>(0x1000),
      .cu_seqlens_k = at<const std::int32_t>(0x1000)};
  half* buffer = at<half>(0x50000000);
  constexpr std::int64_t token = 12 * 96 + 4 * 96 + 4 * 64;
  args.dq = {buffer, {.seq = token, .head = 96}};
  args.dk = {buffer + 12 * 96, {.seq = token, .head = 96}};
  args.dv = {buffer + 16 * 96, {.seq = token, .head = 64}};

  SECTION("each part in its place is accepted") { CHECK(outcome(validate<Causal<half>>(args)) == "ok"); }
  SECTION("dk one element early meets the end of dq") {
    --args.dk.data;
    CHECK(outcome(validate<Causal<half>>(args)) ==
          "bad stride: dq.data = 0x50000000: is written, so must share no memory with dk.data = 0x500008fe");
  }
  SECTION("dv one element late meets the beginning of the next token's dq") {
    ++args.dv.data;
    CHECK(outcome(validate<Causal<half>>(args)) ==
          "bad stride: dq.data = 0x50000000: is written, so must share no memory with dv.data = 0x50000c02");
  }
  SECTION("dv one element early meets the end of dk") {
    --args.dv.data;
    CHECK(outcome(validate<Causal<half>>(args)) ==
          "bad stride: dk.data = 0x50000900: is written, so must share no memory with dv.data = 0x50000bfe");
  }
}

TEST_CASE("Gradients may be interleaved in other orders") {
  const auto with = [](auto change) {
    return backward_with([&](auto& args) {
      args.shape.heads_kv = 4;
      args.shape.dim_v = 64;
      change(args);
    });
  };
  SECTION("[batch, heads, q k v, seq, dim]") {
    CHECK(with([](auto& args) {
            const Strides strides{.batch = 4 * 3 * 5 * 64, .seq = 64, .head = 3 * 5 * 64};
            args.dq.strides = args.dk.strides = args.dv.strides = strides;
            args.dk.data = args.dq.data + 5 * 64;
            args.dv.data = args.dq.data + 10 * 64;
          }) == "ok");
  }
  SECTION("[batch, seq, heads, q k v, dim]") {
    CHECK(with([](auto& args) {
            const Strides strides{.batch = 5 * 4 * 3 * 64, .seq = 4 * 3 * 64, .head = 3 * 64};
            args.dq.strides = args.dk.strides = args.dv.strides = strides;
            args.dk.data = args.dq.data + 64;
            args.dv.data = args.dq.data + 128;
          }) == "ok");
  }
  SECTION("[q k v, batch, seq, heads, dim]") {
    CHECK(with([](auto& args) {
            args.dk.data = args.dq.data + 2 * 5 * 4 * 64;
            args.dv.data = args.dk.data + 2 * 5 * 4 * 64;
          }) == "ok");
  }
  SECTION("every other head, with half as many heads of keys") {
    CHECK(with([](auto& args) {
            args.shape.heads_kv = 2;
            args.dv.data = nullptr;
            args.dq.strides = {.batch = 5 * 8 * 64, .seq = 8 * 64, .head = 2 * 64};
            args.dk.strides = {.batch = 5 * 8 * 64, .seq = 8 * 64, .head = 4 * 64};
            args.dk.data = args.dq.data + 64;
          }) == "ok");
  }
  SECTION("dq runs backwards through its half of the heads") {
    CHECK(with([](auto& args) {
            args.dv.data = nullptr;
            args.dq.strides = {.batch = 5 * 8 * 64, .seq = 8 * 64, .head = -64};
            args.dk.strides = {.batch = 5 * 8 * 64, .seq = 8 * 64, .head = 64};
            args.dk.data = args.dq.data + 64;
          }) == "ok");
  }
}

TEST_CASE("Random small layouts are refused exactly when two elements share an address, seed 3") {
  std::mt19937 random(3);
  const auto pick = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  const auto elements = [](const Tensor<float>& x, std::int64_t batch, std::int64_t seq, std::int64_t heads,
                           std::int64_t dim) {
    std::vector<const float*> all;
    const Strides s = resolve(x.strides, seq, heads, dim);
    for (std::int64_t b = 0; b < batch; ++b)
      for (std::int64_t i = 0; i < seq; ++i)
        for (std::int64_t h = 0; h < heads; ++h)
          for (std::int64_t d = 0; d < dim; ++d)
            all.push_back(
                at<const float>(reinterpret_cast<std::uintptr_t>(x.data) +
                                static_cast<std::uintptr_t>(4 * (b * s.batch + i * s.seq + h * s.head + d))));
    std::sort(all.begin(), all.end());
    return all;
  };
  const auto repeats = [](const std::vector<const float*>& all) {
    return std::adjacent_find(all.begin(), all.end()) != all.end();
  };
  // Mostly layouts that nest in some order, with gaps, so that legal ones are common.
  const auto strides = [&](std::int64_t batch, std::int64_t seq, std::int64_t heads, std::int64_t dim) {
    std::array<std::int64_t, 3> extents{batch, seq, heads}, order{0, 1, 2}, result{};
    std::shuffle(order.begin(), order.end(), random);
    std::int64_t size = dim;
    for (const auto axis : order) {
      const std::int64_t step = pick(0, 5) == 0 ? pick(0, 20) : size + pick(0, 1) * pick(0, 8);
      result[static_cast<std::size_t>(axis)] = pick(0, 3) == 0 ? -step : step;
      size += step * (extents[static_cast<std::size_t>(axis)] - 1);
    }
    return Strides{result[0], result[1], result[2]};
  };

  BackwardArguments<float> args{.q = {at<const float>(0x1000)},
                                .k = {at<const float>(0x2000)},
                                .v = {at<const float>(0x3000)},
                                .dout = {at<const float>(0x4000)},
                                .scale_logit = at<const float>(0x5000)};
  int legal = 0, repeated = 0, shared = 0, wrong = 0;
  for (int trial = 0; trial < 50'000; ++trial) {
    Shape& s = args.shape;
    s = {.batch = pick(1, 3),
         .seq_q = pick(1, 4),
         .seq_k = pick(1, 4),
         .heads_kv = pick(1, 3),
         .dim_qk = pick(1, 5),
         .dim_v = 1};
    s.heads_q = s.heads_kv * pick(1, 2);
    args.dq = {at<float>(0x100000), strides(s.batch, s.seq_q, s.heads_q, s.dim_qk)};
    args.dk = {args.dq.data + pick(-60, 60), strides(s.batch, s.seq_k, s.heads_kv, s.dim_qk)};
    if (pick(0, 1) == 0) args.dk.strides = args.dq.strides;

    auto dq = elements(args.dq, s.batch, s.seq_q, s.heads_q, s.dim_qk);
    const auto dk = elements(args.dk, s.batch, s.seq_k, s.heads_kv, s.dim_qk);
    std::string expected = "ok";
    if (repeats(dq)) {
      expected = "bad stride: dq.strides.";
      ++repeated;
    } else if (std::vector<const float*> both;
               std::set_intersection(dq.begin(), dq.end(), dk.begin(), dk.end(), std::back_inserter(both)),
               !both.empty()) {
      expected = "bad stride: dq.data = ";
      ++shared;
    } else if (repeats(dk)) {
      expected = "bad stride: dk.strides.";
      ++repeated;
    } else {
      ++legal;
    }
    wrong += outcome(validate<Both>(args)).rfind(expected, 0) != 0;
  }
  CHECK(wrong == 0);
  CHECK(legal > 5'000);
  CHECK(repeated > 5'000);
  CHECK(shared > 5'000);
}

TEST_CASE("A layout too intricate to decide is accepted after a bounded search") {
  // Even strides and an odd distance never meet, but only by parity; an unbounded search would try 10^15
  // sums.
  BackwardArguments<float> args{.shape = {.batch = 100'000,
                                          .seq_q = 100'000,
                                          .seq_k = 100'000,
                                          .heads_q = 100'000,
                                          .heads_kv = 100'000,
                                          .dim_qk = 1,
                                          .dim_v = 1},
                                .q = {at<const float>(0x1000), {0, 0, 0}},
                                .k = {at<const float>(0x1000), {0, 0, 0}},
                                .v = {at<const float>(0x1000), {0, 0, 0}},
                                .dout = {at<const float>(0x1000), {0, 0, 0}},
                                .scale_logit = at<const float>(0x2000)};
  args.dq = {at<float>(0x1000000), {200'000LL * 100'000, 200'000, 2}};
  args.dk = {args.dq.data + 1'000'000'001, {210'022LL * 100'006, 210'022, 2 * 50'021}};
  args.shape.heads_kv = args.shape.heads_q = 2;
  CHECK(outcome(validate<Both>(args)) == "ok");
}

}  // namespace cottention::test
