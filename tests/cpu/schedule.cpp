// How piece sequences are shared out: every piece once, sums in order, no thread left waiting for nothing.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include <cottention/cpu/backward.hpp>
#include <cottention/cpu/form.hpp>
#include <cottention/cpu/schedule.hpp>

#include "support/catch.hpp"
#include "support/executor.hpp"
#include "support/extents.hpp"

namespace cottention::test {
namespace {

using support::Extents;

using namespace cottention::cpu;

/// Tasks made of nothing but numbers: the state of piece p is p + 1, and the prefix before it the sum of
/// those before.
struct Numbers {
  std::vector<SplitCounts> extents;
  std::vector<bool> whole;                 // tasks that are not split
  std::vector<std::int64_t> prefix;        // of each entry
  std::vector<std::int64_t> task;          // in each entry
  std::vector<std::vector<int>> computed;  // of each task, how often each piece's outputs were
  std::vector<int> ended;
  std::vector<double> scale_grad;  // of each task

  bool is_split(std::int64_t i) const { return !whole[static_cast<std::size_t>(i)]; }
  SplitCounts extent(std::int64_t i) const { return extents[static_cast<std::size_t>(i)]; }
  void begin(std::int64_t i, int entry) {
    prefix[static_cast<std::size_t>(entry)] = 0;
    task[static_cast<std::size_t>(entry)] = i;
  }
  void end(std::int64_t i, int entry, double scale_grad_sum) {
    ++ended[static_cast<std::size_t>(i)];
    const std::int64_t sums = extent(i).sums;
    CHECK(prefix[static_cast<std::size_t>(entry)] == sums * (sums + 1) / 2);
    scale_grad[static_cast<std::size_t>(i)] = scale_grad_sum;
  }
};

/// A piece's part of the sum for the gradient of m: the order of the sum shows in its bits.
double part(std::int64_t piece) { return 1.0 / static_cast<double>(piece + 3); }

/// Runs the tasks on simulated threads that take random times. Returns how often one waited for a prefix.
int simulate(Numbers& jobs, int threads, int entry_count, unsigned seed) {
  const std::size_t tasks = jobs.extents.size(), entries = static_cast<std::size_t>(entry_count);
  jobs.prefix.assign(entries, -1);
  jobs.task.assign(entries, -1);
  jobs.computed.clear();
  for (const SplitCounts& extent : jobs.extents)
    jobs.computed.emplace_back(static_cast<std::size_t>(extent.walks), 0);
  jobs.ended.assign(tasks, 0);
  jobs.scale_grad.assign(tasks, -1);
  jobs.whole.resize(tasks, false);
  std::vector<SplitProgress> open(entries);
  SplitQueue<Numbers> queue(jobs, open.data(), entry_count, static_cast<std::int64_t>(tasks));
  using Kind = Assignment::Kind;
  struct Thread {
    Assignment assignment;
    int busy = 0;
    bool summed = false, finished = false;
  };
  std::vector<Thread> pool(static_cast<std::size_t>(threads));
  std::mt19937 random(seed);
  int waits = 0;
  for (int finished = 0, idle = 0; finished < threads; ++idle) {
    REQUIRE(idle < 100'000);  // everybody waiting for nobody
    Thread& thread = pool[random() % pool.size()];
    if (thread.finished || --thread.busy > 0) continue;
    const Assignment& assignment = thread.assignment;
    const Kind kind = assignment.kind;
    if (kind == Kind::walk || kind == Kind::reduce || kind == Kind::apply) {
      const auto entry = static_cast<std::size_t>(assignment.entry);
      const std::int64_t task = jobs.task[entry], piece = assignment.piece;
      const SplitCounts extent = jobs.extent(task);
      if (kind != Kind::apply && !thread.summed) {  // as the driver does between its two passes over a piece
        if (!open[entry].is_added_up_to(piece)) {
          ++waits;
          continue;
        }
        CHECK(jobs.prefix[entry] == piece * (piece + 1) / 2);
        if (piece < extent.sums) jobs.prefix[entry] += piece + 1, open[entry].added();
        thread.summed = true;
        thread.busy = kind == Kind::walk ? 6 + static_cast<int>(random() % 5) : 0;
        continue;
      }
      if (kind == Kind::apply) CHECK(jobs.prefix[entry] == extent.sums * (extent.sums + 1) / 2);
      if (kind != Kind::reduce)
        ++jobs.computed[static_cast<std::size_t>(task)][static_cast<std::size_t>(piece)];
      queue.done(assignment, part(piece));
    }
    thread = {.assignment = queue.next(), .busy = 4 + static_cast<int>(random() % 3)};
    thread.finished = thread.assignment.kind == Kind::none;
    finished += thread.finished;
    if (thread.assignment.kind != Kind::wait) idle = 0;
  }
  for (std::size_t task = 0; task < tasks; ++task) {
    const bool split = !jobs.whole[task];
    CHECK(jobs.ended[task] == (split ? 1 : 0));
    for (const int times : jobs.computed[task]) CHECK(times == (split ? 1 : 0));
    double sum = 0;
    for (std::int64_t piece = 0; piece < jobs.extents[task].walks; ++piece) sum += part(piece);
    if (split) CHECK(jobs.scale_grad[task] == sum);
  }
  return waits;
}

TEST_CASE(
    "The outputs of every piece of every split task are computed once, from the sum of the pieces before") {
  for (const int threads : {1, 2, 3, 5, 16})
    for (const int entry_count : {1, 2, 3})
      for (unsigned seed = 1; seed <= 10; ++seed) {
        CAPTURE(threads, entry_count, seed);
        Numbers jobs;
        jobs.extents = {{199, 200, true}, {64, 64, true}, {1, 2, true}, {64, 150, false},
                        {5, 9, false},    {0, 3, false},  {7, 7, true}, {8, 0, false}};
        jobs.whole = {false, false, false, true, false, false, false, false};
        simulate(jobs, threads, entry_count, seed);
        jobs.whole[3] = false;
        simulate(jobs, threads, entry_count, seed);
      }
}

TEST_CASE("A single thread waits for nobody") {
  Numbers jobs;
  jobs.extents = {{64, 64, true}, {9, 10, true}, {9, 9, false}};
  CHECK(simulate(jobs, 1, 1, 1) == 0);
  CHECK(simulate(jobs, 1, 3, 1) == 0);
}

TEST_CASE("Pieces whose outputs are not complete are claimed up to a limit") {
  SplitProgress task;
  task.open(0, {100, 100, true});
  for (std::int64_t piece = 0; piece < SplitProgress::max_in_flight; ++piece)
    REQUIRE(task.claim(0).piece == piece);
  CHECK(task.claim(0).kind == Assignment::Kind::wait);
  task.walked(1, 0.5);
  CHECK(task.claim(0).kind == Assignment::Kind::wait);
  task.walked(0, 0.25);
  CHECK(task.claim(0).piece == SplitProgress::max_in_flight);
  CHECK(task.scale_grad_sum() == 0.75);
}

TEST_CASE(
    "Tasks that would leave threads idle are left over: of equal ones the last, else those of two outputs") {
  using Range = std::pair<std::int64_t, std::int64_t>;  // the first one, and how many
  const auto left_over = [](std::int64_t tasks, std::int64_t two_outputs, std::int64_t threads,
                            bool packed = false) {
    const LeftOverTasks left =
        left_over_tasks({.tasks = tasks, .two_output_tasks = two_outputs, .packed = packed}, threads);
    std::int64_t first = tasks, count = 0;
    for (std::int64_t i = tasks; i-- > 0;)
      if (left.contain(i)) first = i, ++count;
    CHECK(count == left.count());
    return Range{first, count};
  };
  CHECK(left_over(5, 0, 2) == Range{4, 1});
  CHECK(left_over(6, 0, 2).second == 0);
  CHECK(left_over(5, 0, 3) == Range{3, 2});
  CHECK(left_over(7, 0, 4).second == 0);  // three of four threads have work
  CHECK(left_over(2, 1, 2) == Range{0, 1});
  CHECK(left_over(6, 3, 2) == Range{2, 1});
  CHECK(left_over(4, 2, 2).second == 0);
  CHECK(left_over(4, 2, 4) == Range{0, 2});
  CHECK(left_over(8, 4, 3) == Range{6, 2});
  CHECK(left_over(6, 3, 2, true).second == 0);
}

TEST_CASE("Pieces cover a sequence, and follow its length and the size of the state alone") {
  for (const std::int64_t state : {16 * 16, 64 * 64, 128 * 128, 256 * 256, 1024 * 1024})
    for (std::int64_t length : {0, 1, 31, 32, 33, 4096, 4097, 5000, 65536, 131072, 1 << 20, 123456789}) {
      const Pieces pieces(length, state, 32);
      CAPTURE(state, length, pieces.rows, pieces.count);
      CHECK(pieces.rows % 32 == 0);
      CHECK(pieces.rows / 32 == chunks_per_piece(state, 32));
      CHECK((pieces.rows / 32 <= 2 || pieces.rows / 32 * state <= 1 << 18));
      std::int64_t covered = 0;
      for (std::int64_t piece = 0; piece < (std::min)(pieces.count, std::int64_t{1000}); ++piece) {
        CHECK(pieces.first(piece) == covered);
        CHECK(pieces.last(piece) > covered);
        covered = pieces.last(piece);
      }
      CHECK((pieces.count > 1000 || covered == length));
    }
  CHECK(Pieces(512, 64 * 64, 32).count == 1);
  CHECK(Pieces(513, 64 * 64, 32).count == 2);
  CHECK(Pieces(513, 128 * 128, 32).count == 3);
  CHECK(Pieces(513, 64 * 64, 128).count == 2);
  CHECK(Pieces(1024, 1024 * 1024, 128).count == 8);
  CHECK(chunks_per_piece(16 * 16, 256) == 2);
}

TEST_CASE("A sequence is one chunk where that takes the fewest multiply-adds") {
  constexpr std::int64_t chunk = 32;
  const auto cost = [](const WalkExtents& x, std::int64_t rows) {  // in chunks of so many rows
    const std::int64_t state = x.dim_a * x.dim_c, outputs = x.two_outputs ? 2 : 1;
    if (x.causal) {
      const std::int64_t applied = outputs * (x.initial ? x.a_rows : x.a_rows - rows);
      const std::int64_t absorbed = x.final ? x.a_rows : x.a_rows - rows;
      return outputs * x.a_rows * rows * (x.dim_a + x.dim_c) / 2 + (applied + absorbed) * state;
    }
    if (rows < x.a_rows) return (outputs * x.a_rows + x.bc_rows) * state;
    return outputs * x.a_rows * x.bc_rows * (x.dim_a + x.dim_c) +
           (x.initial ? outputs * x.a_rows : 0) * state + (x.final ? x.bc_rows : 0) * state;
  };
  for (int kind = 0; kind < 16; ++kind)
    for (const std::int64_t dim_c : {16, 48, 64, 256, 1024})
      for (const std::int64_t dim_a : {64, 128, 1024}) {
        WalkExtents x{.dim_a = dim_a,
                      .dim_c = dim_c,
                      .causal = (kind & 1) != 0,
                      .two_outputs = (kind & 2) != 0,
                      .initial = (kind & 4) != 0,
                      .final = (kind & 8) != 0};
        bool single = true;
        for (x.a_rows = 64; x.a_rows <= 4096; x.a_rows += 16) {
          x.bc_rows = x.a_rows;
          CAPTURE(kind, dim_a, dim_c, x.a_rows);
          CHECK(is_single_chunk(x) == (cost(x, x.a_rows) <= cost(x, chunk)));
          CHECK((single || !is_single_chunk(x)));  // up to one length
          single = is_single_chunk(x);
        }
      }
  CHECK(is_single_chunk({.a_rows = 128, .bc_rows = 128, .dim_a = 64, .dim_c = 64}));
  CHECK(!is_single_chunk({.a_rows = 129, .bc_rows = 129, .dim_a = 64, .dim_c = 64}));
  CHECK(is_single_chunk({.a_rows = 96, .bc_rows = 96, .dim_a = 64, .dim_c = 64, .two_outputs = true}));
  CHECK(!is_single_chunk({.a_rows = 97, .bc_rows = 97, .dim_a = 64, .dim_c = 64, .two_outputs = true}));
  CHECK(is_single_chunk({.a_rows = 64, .bc_rows = 64, .dim_a = 64, .dim_c = 64, .causal = false}));
  CHECK(!is_single_chunk({.a_rows = 65, .bc_rows = 65, .dim_a = 64, .dim_c = 64, .causal = false}));
  CHECK(!is_single_chunk({.a_rows = 0, .bc_rows = 9, .dim_a = 64, .dim_c = 64, .causal = false}));
  CHECK(chunk_rows(1024, 1023, 32, false) == 32);
  CHECK(chunk_rows(1024, 1024, 32, false) == 128);
  CHECK(chunk_rows(16384, 64, 48, false) == 96);
  CHECK(chunk_rows(64, 64, 32, true) == 128);
  CHECK(!is_single_chunk({.a_rows = 9, .bc_rows = 0, .dim_a = 64, .dim_c = 64, .causal = false}));
}

TEST_CASE(
    "The gradient of m of a piece sequence is the same bits whichever threads walk and reduce its pieces") {
  using P = Problem<float, any_head_dim, Mask::causal, Scale::by_key>;
  constexpr std::int64_t tokens = 20'000, dim = 8;
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  std::vector<float> rows[4];
  for (auto& x : rows)
    for (std::int64_t e = 0; e < tokens * dim; ++e) x.push_back(normal(random));
  const float m = 0.5f;
  const auto gradient = [&](int threads) {
    float dm = std::numeric_limits<float>::quiet_NaN();
    const BackwardArguments<float> args{.shape = Extents{1, tokens, tokens, 1, 1, dim, dim},
                                        .q = {rows[0].data()},
                                        .k = {rows[1].data()},
                                        .v = {rows[2].data()},
                                        .dout = {rows[3].data()},
                                        .scale_logit = &m,
                                        .dscale_logit = &dm};
    const Execution execution = support::executor(threads);
    std::vector<std::byte> memory(workspace_bytes<P>(args, execution) + workspace_alignment, std::byte{0xff});
    void* aligned = memory.data();
    std::size_t left = memory.size();
    std::align(workspace_alignment, 1, aligned, left);
    const CallStatus status = backward<P>(args, {aligned, left}, execution);
    REQUIRE(status.ok());
    return dm;
  };
  const float alone = gradient(1);
  CHECK(std::isfinite(alone));
  for (int run = 0; run < 10; ++run)
    for (const int threads : {2, 3, 8}) CHECK(gradient(threads) == alone);
}

}  // namespace
}  // namespace cottention::test
