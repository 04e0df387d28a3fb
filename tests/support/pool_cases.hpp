// Forward calls whose states live in a pool, made by any backend and checked against the reference.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "support/catch.hpp"
#include "support/error.hpp"
#include "support/forward_check.hpp"
#include "support/problem_generator.hpp"
#include "support/step_cases.hpp"

namespace support {

/// Where the sequences of a call have their states.
struct PoolSlots {
  std::vector<std::int32_t> read{}, write{};  ///< empty: null
  std::int64_t pool_slots = 0;
  bool one_pool = true;  ///< whether states are read from the pool that they are written to
};

/// For any number of sequences: slots that are read and written, the same and others, read alone, written
/// alone and neither, in one pool and in two; one that all read; and those of null.
inline std::vector<PoolSlots> pool_slots(std::int64_t batch) {
  const auto n = static_cast<std::size_t>(batch);
  const auto slots = batch + 4;
  std::vector<std::int32_t> backwards(n), moved(n), mixed_read(n), mixed_write(n), shared(n, 2), none(n, -1);
  for (std::size_t b = 0; b < n; ++b) {
    const auto slot = static_cast<std::int32_t>(b);
    backwards[b] = static_cast<std::int32_t>(slots) - 1 - slot;
    moved[b] = (slot + 1) % static_cast<std::int32_t>(batch + 2);
    mixed_read[b] = slot % 3 == 1 ? -1 : slot + 1;
    mixed_write[b] = slot % 3 == 2 ? -7 : slot + 1;
  }
  std::vector<std::int32_t> of_first(n, -1);  // the others are idle
  if (n > 0) of_first[0] = 3;
  std::vector<std::int32_t> lower(n), upper(n);
  const std::vector<std::int32_t> last(n, static_cast<std::int32_t>(2 * batch));  // one state, many readers
  for (std::size_t b = 0; b < n; ++b) {
    lower[b] = static_cast<std::int32_t>(b);
    upper[b] = static_cast<std::int32_t>(batch) + lower[b];
  }
  return {{.read = upper, .write = lower, .pool_slots = 2 * batch},
          {.read = last, .write = lower, .pool_slots = 2 * batch + 1},
          {.read = mixed_read, .write = mixed_write, .pool_slots = slots},
          {.read = shared, .write = moved, .pool_slots = slots, .one_pool = false},
          {.read = backwards, .write = backwards, .pool_slots = slots},
          {.read = none, .write = backwards, .pool_slots = slots},
          {.read = of_first, .write = of_first, .pool_slots = slots},
          {.read = backwards, .write = none, .pool_slots = slots},
          {.write = backwards, .pool_slots = slots, .one_pool = false},
          {.read = moved, .pool_slots = slots, .one_pool = false}};
}

/// Makes one call, whose arguments are in host memory and valid.
template <cottention::Element T>
using Forward = std::function<void(const cottention::ForwardArguments<T>&)>;

/// The call of `inputs` with states in pools. Returns o.
template <cottention::Element T>
std::vector<double> run_pool(const Forward<T>& forward, const Inputs<T>& inputs, Pool<T>& read,
                             Pool<T>& written, const PoolSlots& slots,
                             cottention::Plan plan = cottention::Plan::automatic) {
  auto args = inputs.forward();
  args.plan = plan;
  const cottention::Shape& s = args.shape;
  TensorBuffer<T> o(Layout::bshd, args.cu_seqlens_q.given() ? 1 : s.batch, s.seq_q, s.heads_q, s.dim_v);
  args.o = o.view();
  args.initial_state = {read.view().h, read.view().count};
  args.final_state = written.view();
  args.pool_slots = slots.pool_slots;
  if (!slots.read.empty()) args.read_slot = slots.read.data();
  if (!slots.write.empty()) args.write_slot = slots.write.data();
  forward(args);
  CHECK(read.guards_untouched());
  CHECK(written.guards_untouched());
  CHECK(o.surroundings_untouched());
  return o.values();
}

/// Checks a call with states in pools: outputs, states that are written, and that all others keep every bit.
template <cottention::Element T>
void check_pool(const Forward<T>& forward, const Case& c, const PoolSlots& slots) {
  const Inputs<T> inputs(c);
  const cottention::Shape& s = inputs.shape();
  Pool<T> read(s, slots.pool_slots), written(s, slots.pool_slots, slots.one_pool ? 7 : 8);
  const Pool<T> read_before(s, slots.pool_slots);
  Pool<T> expected(s, slots.pool_slots, slots.one_pool ? 7 : 8);
  auto args = inputs.forward();
  args.initial_state = read_before.of(0);
  args.pool_slots = slots.pool_slots;
  if (!slots.read.empty()) args.read_slot = slots.read.data();
  const Output of_reference = expected_output(c, args);

  const std::vector<double> o = run_pool(forward, inputs, slots.one_pool ? written : read, written, slots);
  CHECK(relative_error(o, of_reference.o) <= bounds<T>.forward);
  CHECK(zero_where_masked(o, args.query_mask, s.heads_q * s.dim_v));
  if (args.cu_seqlens_q.given()) {
    const auto behind =
        o.begin() + static_cast<std::ptrdiff_t>(inputs.start_q(s.batch) * s.heads_q * s.dim_v);
    CHECK(std::all_of(behind, o.end(), [](double x) { return x == 0; }));
  }
  std::vector<double> got_h, expected_h;
  std::vector<char> used(static_cast<std::size_t>(slots.pool_slots));
  const std::int64_t size = s.heads_kv * s.dim_qk * s.dim_v;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    const std::int64_t from = slots.read.empty() ? b : slots.read.data()[b],
                       to = slots.write.empty() ? b : slots.write.data()[b];
    if (to < 0) continue;
    used.data()[to] = 1;
    append(got_h, written.h(to));
    append(expected_h, rows_of(of_reference.h, {b, b + 1}, size));
    CHECK(written.count(to) == of_reference.count.data()[b]);
    // A sequence without tokens leaves its state as it was, or copies it.
    if (inputs.length_k(b) == 0 && from >= 0) CHECK(same_bits(written.h(to), read_before.h(from)));
  }
  CHECK(relative_error(got_h, expected_h) <= bounds<T>.state);
  for (std::int64_t slot = 0; slot < slots.pool_slots; ++slot)
    if (used.data()[slot] == 0) {
      CHECK(same_bits(written.h(slot), expected.h(slot)));
      CHECK(written.count(slot) == expected.count(slot));
    }
  if (!slots.one_pool) CHECK(read == read_before);
}

/// Checks that a sequence's bits are those that it has alone, with states of its own, wherever its slots are
/// and whatever else is in the batch.
template <cottention::Element T>
void check_pool_bits(const Forward<T>& forward, const Case& c, const PoolSlots& slots) {
  const Inputs<T> inputs(c);
  const cottention::Shape& s = inputs.shape();
  const Pool<T> before(s, slots.pool_slots);
  Pool<T> pool(s, slots.pool_slots);
  const std::vector<double> o =
      run_pool(forward, inputs, pool, pool, slots, cottention::Plan::batch_invariant);
  const std::int64_t width = s.heads_q * s.dim_v, size = s.heads_kv * s.dim_qk * s.dim_v;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    const std::int64_t length = inputs.length_q(b), from = slots.read.data()[b], to = slots.write.data()[b];
    auto alone = part(inputs.forward(), b, {0, length}, {0, inputs.length_k(b)});
    TensorBuffer<T> rows(Layout::bshd, 1, length, s.heads_q, s.dim_v);
    Buffer<cottention::Accumulate<T>> h(size);
    Buffer<std::int64_t> count(1);
    alone.o = rows.view();
    alone.initial_state = from < 0 ? cottention::ConstState<cottention::Accumulate<T>>{} : before.of(from);
    if (to >= 0) alone.final_state = {h.data(), count.data()};
    alone.plan = cottention::Plan::batch_invariant;
    forward(alone);
    CHECK(same_bits(rows.values(), sequence_rows(o, inputs, b, true, width)));
    if (to >= 0) CHECK(same_bits(values_of(h), pool.h(to)));
  }
}

}  // namespace support
