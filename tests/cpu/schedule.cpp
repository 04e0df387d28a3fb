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

/// Tasks made of nothing but numbers: the state of piece p is p + 1, and the prefix behind it the sum of
/// those before. Walks check that they start from the right prefix.
struct Numbers {
  std::vector<SplitCounts> extents;
  std::vector<std::vector<std::int64_t>> states;  // of each entry, as the driver lays them out
  std::vector<std::vector<int>> walked;           // of each task, how often each piece was
  std::vector<int> ended;
  std::vector<bool> whole;  // tasks that are not split

  bool is_split(std::int64_t task) const { return !whole[static_cast<std::size_t>(task)]; }
  SplitCounts extent(std::int64_t task) const { return extents[static_cast<std::size_t>(task)]; }
  void begin(std::int64_t, int entry) {
    states[static_cast<std::size_t>(entry)].assign(max_pieces + 1, -1), at(entry, 0) = 0;
  }
  void add(int entry, int piece) { at(entry, piece + 1) += at(entry, piece); }
  void end(std::int64_t task, int entry) {
    ++ended[static_cast<std::size_t>(task)];
    const int sums = extent(task).sums;
    CHECK(at(entry, sums) == sums * (sums + 1) / 2);
  }
  std::int64_t& at(int entry, int i) {
    return states[static_cast<std::size_t>(entry)][static_cast<std::size_t>(i)];
  }

  /// What a thread does with an assignment.
  void work(const Assignment& assignment, std::int64_t task) {
    if (assignment.yields_sum) at(assignment.entry, assignment.piece + 1) = assignment.piece + 1;
    if (assignment.kind != Assignment::Kind::walk) return;
    ++walked[static_cast<std::size_t>(task)][static_cast<std::size_t>(assignment.piece)];
    const int before = extent(task).causal ? assignment.piece : extent(task).sums;
    CHECK(at(assignment.entry, before) == before * (before + 1) / 2);
  }
};

/// Runs the tasks on simulated threads whose assignments take random times; returns how many reduces there
/// were.
int simulate(Numbers& jobs, int threads, int entry_count, unsigned seed) {
  const std::size_t tasks = jobs.extents.size();
  jobs.states.resize(static_cast<std::size_t>(entry_count));
  jobs.walked.clear();
  for (const SplitCounts& extent : jobs.extents) jobs.walked.emplace_back(extent.walks, 0);
  jobs.ended.assign(tasks, 0);
  jobs.whole.resize(tasks, false);
  std::vector<SplitProgress> open(static_cast<std::size_t>(entry_count));
  SplitQueue<Numbers> queue(jobs, open.data(), entry_count, static_cast<std::int64_t>(tasks), threads);
  struct Thread {
    SplitCursor cursor;
    Assignment assignment;
    int busy = 0;
    bool finished = false;
  };
  std::vector<Thread> pool(static_cast<std::size_t>(threads));
  std::mt19937 random(seed);
  int reduces = 0;
  for (int finished = 0, waits = 0; finished < threads;) {
    Thread& thread = pool[random() % pool.size()];
    if (thread.finished || --thread.busy > 0) continue;
    if (thread.assignment.kind == Assignment::Kind::walk ||
        thread.assignment.kind == Assignment::Kind::reduce) {
      jobs.work(thread.assignment, thread.cursor.task);
      queue.done(thread.assignment);
    }
    thread.assignment = queue.next(thread.cursor);
    reduces += thread.assignment.kind == Assignment::Kind::reduce;
    thread.finished = thread.assignment.kind == Assignment::Kind::none;
    finished += thread.finished;
    thread.busy = thread.assignment.kind == Assignment::Kind::walk ? 10 + static_cast<int>(random() % 5) : 4;
    waits = thread.assignment.kind == Assignment::Kind::wait ? waits + 1 : 0;
    REQUIRE(waits < 10'000);  // everybody waiting for nobody
  }
  for (std::size_t task = 0; task < tasks; ++task) {
    CHECK(jobs.ended[task] == (jobs.whole[task] ? 0 : 1));
    for (const int times : jobs.walked[task]) CHECK(times == (jobs.whole[task] ? 0 : 1));
  }
  return reduces;
}

TEST_CASE("Every piece of every split task is walked once from the sum of the pieces before") {
  for (const int threads : {2, 3, 5, 16})
    for (const int entry_count : {1, 2, 3})
      for (unsigned seed = 1; seed <= 20; ++seed) {
        CAPTURE(threads, entry_count, seed);
        Numbers jobs;
        jobs.extents = {{63, 64, true}, {64, 64, true}, {1, 2, true}, {64, 64, false},
                        {5, 9, false},  {0, 3, false},  {7, 7, true}, {8, 0, false}};
        jobs.whole = {false, false, false, true, false, false, false, false};
        simulate(jobs, threads, entry_count, seed);
        jobs.whole[3] = false;
        simulate(jobs, threads, entry_count, seed);
      }
}

TEST_CASE("A single thread walks a causal task from end to end and reduces nothing") {
  Numbers jobs;
  jobs.extents = {{64, 64, true}, {9, 10, true}};
  CHECK(simulate(jobs, 1, 1, 1) == 0);
}

TEST_CASE("Short sequences have three pieces or more, where two threads have use for them, or one") {
  CHECK(Pieces(1023, 64 * 64, 32).count == 1);
  CHECK(Pieces(1024, 64 * 64, 32).count == 3);
  CHECK(Pieces(4096, 64 * 64, 32).count == 12);
  CHECK(Pieces(4097, 64 * 64, 32).count == 5);
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

TEST_CASE("Two threads read less than half of a long sequence twice") {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    Numbers jobs;
    jobs.extents = {{63, 64, true}};
    const int reduces = simulate(jobs, 2, 1, seed);
    CAPTURE(seed);
    CHECK(reduces > 0);
    CHECK(reduces <= 32);  // 64 / (2 + 0.4) = 27 where both are as fast
  }
}

TEST_CASE("Pieces cover a sequence, and follow its length and the size of the state alone") {
  for (const std::int64_t state : {16 * 16, 64 * 64, 128 * 128, 256 * 256, 1024 * 1024})
    for (std::int64_t length : {0, 1, 31, 32, 33, 4096, 4097, 5000, 65536, 131072, 1 << 20, 123456789}) {
      const Pieces pieces(length, state, 32);
      CAPTURE(state, length, pieces.rows, pieces.count);
      CHECK(pieces.count <= piece_limit(state));
      CHECK(pieces.rows % 32 == 0);
      std::int64_t covered = 0;
      for (int piece = 0; piece < pieces.count; ++piece) {
        CHECK(pieces.first(piece) == covered);
        CHECK(pieces.last(piece) > covered);
        covered = pieces.last(piece);
      }
      CHECK(covered == length);
    }
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
  CHECK(chunk_rows(1024, 1023, 32) == 32);
  CHECK(chunk_rows(1024, 1024, 32) == 128);
  CHECK(chunk_rows(16384, 64, 48) == 96);
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
