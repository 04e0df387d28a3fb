// Forward calls that leave states at checkpoints, made by any backend and checked against the reference and
// against calls that go on from a checkpoint.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/catch.hpp"
#include "support/part.hpp"
#include "support/pool_cases.hpp"

namespace support {

/// A batch with checkpoints: where each is kept, in an order of slots that is not that of tokens; every
/// fourth one is not.
struct Checkpoints {
  std::int64_t interval = 0, columns = 0;
  std::vector<std::int32_t> slot{}, read{}, write{};  ///< slot: (batch, columns)
  std::int64_t pool_slots = 0;

  Checkpoints(std::int64_t every, std::int64_t batch, std::int64_t longest)
      : interval(every), columns(longest / every + 1) {
    pool_slots = batch * (columns + 1) + 3;
    for (std::int64_t b = 0; b < batch; ++b) {
      // The first two read what they write, and the others read nothing.
      write.push_back(static_cast<std::int32_t>(pool_slots - 1 - b));
      read.push_back(b < 2 ? write.back() : -1);
      for (std::int64_t i = 0; i < columns; ++i)
        slot.push_back(i % 4 == 2 ? -1 : static_cast<std::int32_t>(i * batch + b));
    }
  }
};

/// The call of `inputs` with these checkpoints; returns o.
template <cottention::Element T>
std::vector<double> run_checkpoints(const Forward<T>& forward, const Inputs<T>& inputs, Pool<T>& pool,
                                    const Checkpoints& at, bool keeps) {
  auto args = inputs.forward();
  const cottention::Shape& s = args.shape;
  TensorBuffer<T> o(Layout::bshd, args.cu_seqlens_q.given() ? 1 : s.batch, s.seq_q, s.heads_q, s.dim_v);
  args.o = o.view();
  args.initial_state = {pool.view().h, pool.view().count};
  args.final_state = pool.view();
  args.pool_slots = at.pool_slots;
  args.read_slot = at.read.data();
  args.write_slot = at.write.data();
  args.checkpoint_interval = at.interval;
  args.max_checkpoints = at.columns;
  if (keeps) args.checkpoint_slot = at.slot.data();
  args.plan = cottention::Plan::batch_invariant;
  forward(args);
  CHECK(pool.guards_untouched());
  CHECK(o.surroundings_untouched());
  return o.values();
}

/// Goes on at row `from` of sequence b, from `initial`, which may be null, in one call, and checks that its
/// bits are those of `o`, and of the final state in `expected`.
template <cottention::Element T>
void check_resumed(const Forward<T>& forward, const Inputs<T>& inputs, std::int64_t b, std::int64_t from,
                   cottention::ConstState<cottention::Accumulate<T>> initial, std::int64_t interval,
                   const std::vector<double>& o, const std::vector<double>& expected_h,
                   std::int64_t expected_count) {
  const cottention::Shape& s = inputs.shape();
  const std::int64_t length = inputs.length_q(b), width = s.heads_q * s.dim_v;
  auto args = part(inputs.forward(), b, {from, length}, {from, length});
  TensorBuffer<T> rows(Layout::bshd, 1, length - from, s.heads_q, s.dim_v);
  Buffer<cottention::Accumulate<T>> h(s.heads_kv * s.dim_qk * s.dim_v);
  Buffer<std::int64_t> count(1);
  args.o = rows.view();
  args.initial_state = initial;
  args.final_state = {h.data(), count.data()};
  args.checkpoint_interval = interval;
  args.plan = cottention::Plan::batch_invariant;
  forward(args);
  INFO("sequence " << b << " from row " << from);
  const std::int64_t first = inputs.start_q(b) + from;
  CHECK(same_bits(rows.values(), rows_of(o, {first, first + length - from}, width)));
  CHECK(same_bits(values_of(h), expected_h));
  CHECK(count[0] == expected_count);
}

/// Checks outputs and the states at checkpoints, that all other slots keep every bit, that states are not
/// other ones where they are not kept, and that a sequence that goes on at any checkpoint, or is alone, has
/// the bits that it has here.
template <cottention::Element T>
void check_checkpoints(const Forward<T>& forward, const Case& c, std::int64_t interval) {
  const Inputs<T> inputs(c);
  const cottention::Shape& s = inputs.shape();
  const Checkpoints at(interval, s.batch, s.seq_k);
  const Pool<T> before(s, at.pool_slots);
  Pool<T> pool(s, at.pool_slots), without(s, at.pool_slots);
  const std::vector<double> o = run_checkpoints(forward, inputs, pool, at, true);
  CHECK(same_bits(o, run_checkpoints(forward, inputs, without, at, false)));

  auto of_reference = inputs.forward();
  of_reference.initial_state = before.of(0);
  of_reference.pool_slots = at.pool_slots;
  of_reference.read_slot = at.read.data();
  CHECK(relative_error(o, expected_output(c, of_reference).o) <= bounds<T>.forward);

  std::vector<double> got, expected;
  std::vector<char> used(static_cast<std::size_t>(at.pool_slots));
  for (std::int64_t b = 0; b < s.batch; ++b) {
    const std::int64_t length = inputs.length_k(b), read = at.read.data()[b], write = at.write.data()[b];
    const auto initial = read < 0 ? cottention::ConstState<cottention::Accumulate<T>>{} : before.of(read);
    used.data()[write] = 1;
    CHECK(same_bits(pool.h(write), without.h(write)));
    if (length == 0 && read >= 0) CHECK(same_bits(pool.h(write), before.h(read)));
    check_resumed(forward, inputs, b, 0, initial, interval, o, pool.h(write), pool.count(write));
    for (std::int64_t i = 0; i <= length / interval; ++i) {
      const bool last = i == length / interval;  // the final state
      const std::int64_t rows = last ? length : (i + 1) * interval,
                         slot = last ? write : at.slot.data()[b * at.columns + i];
      if (slot < 0) continue;
      used.data()[slot] = 1;
      auto prefix = part(inputs.forward(), b, {0, rows}, {0, rows});
      prefix.initial_state = initial;
      const Output state = expected_output(c, prefix);
      append(got, pool.h(slot));
      append(expected, state.h);
      CHECK(pool.count(slot) == state.count.front());
      if (!last)
        check_resumed(forward, inputs, b, rows, pool.of(slot), interval, o, pool.h(write), pool.count(write));
    }
  }
  CHECK(relative_error(got, expected) <= bounds<T>.state);
  for (std::int64_t slot = 0; slot < at.pool_slots; ++slot)
    if (used.data()[slot] == 0) {
      CHECK(same_bits(pool.h(slot), before.h(slot)));
      CHECK(pool.count(slot) == before.count(slot));
    }
}

}  // namespace support
