// The recurrent update, a few tokens for each of many sequences:
//
//     h += norm(k) (w v)^T;   o = h^T norm(q)
//
// A block holds some columns of one head's state in registers, reads them once and writes them once, however
// many tokens and query heads there are. It walks through a stream of rows: for each token the key, then the
// queries of the group. Each sum over dim_qk is taken in an order that follows from the Problem alone, so
// that no bit of a result depends on the Tiling.
#pragma once

#include <bit>
#include <cstdint>

#include <cottention/arguments.hpp>
#include <cottention/device/async_copy.cuh>
#include <cottention/device/barrier.cuh>
#include <cottention/device/convert.cuh>
#include <cottention/device/math.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/kernel/step_params.cuh>
#include <cottention/problem.hpp>
#include <cottention/tile/normalise.cuh>
#include <cottention/tile/weights.cuh>
#include <cottention/tiling.hpp>

namespace cottention::kernel {

/// How a state and the rows that meet it are shared out among threads. Sums over dim_qk are taken thread by
/// thread, so their order follows from this.
template <AnyProblem P>
struct StepParts {
  // Of a state, each thread holds `rows` rows of `width` columns.
  static constexpr int width = 16 / static_cast<int>(sizeof(typename P::accumulate));
  static constexpr int rows = P::head_dim.qk <= 256 ? 8 : 16;  // 32 or 64 registers
  static constexpr int groups = P::head_dim.qk / rows;         // threads that share a column

  // Of a key or query, `lanes` lanes of a warp hold `vecs_each` times 16 bytes each.
  static constexpr int vec_size = 16 / static_cast<int>(sizeof(typename P::element));
  static constexpr int vecs = P::head_dim.qk / vec_size;
  static constexpr int lanes = vecs < 32 ? static_cast<int>(std::bit_ceil(static_cast<unsigned>(vecs))) : 32;
  static constexpr int vecs_each = (vecs + lanes - 1) / lanes;
};

/// What one block does.
struct StepTask {
  std::int64_t lane, slot;
  int head;      // of k and v
  int column;    // its first
  int accepted;  // tokens that the state keeps
  int rows;      // to walk through
};

template <AnyProblem P, Tiling tiling>
struct Step {
  using T = typename P::element;
  using A = typename P::accumulate;
  using Parts = StepParts<P>;
  static constexpr int dim_qk = P::head_dim.qk, dim_v = P::head_dim.v;
  static constexpr int threads = tiling.warps * device::warp_size;
  static constexpr int min_blocks_per_sm = tiling.min_blocks_per_sm;
  static constexpr int chunk = tiling.chunk;  // rows of the stream between barriers
  static constexpr int columns = tiling.columns;
  static constexpr int v_tiles = (dim_v + columns - 1) / columns;
  static constexpr int vectors = columns / Parts::width;  // threads along a row
  static_assert(
      columns > 0 && columns % 8 == 0 && Parts::groups * vectors <= threads,
      "cottention: a Tiling of step needs columns in eights, and 16 bytes of each of the state's rows "
      "(8 rows up to dim_qk 256, 16 rows beyond) for a thread. Remedy: more warps or fewer columns.");
  static_assert(tiling.warps >= 1 && tiling.warps <= 32 && tiling.min_blocks_per_sm >= 1,
                "cottention: a Tiling of step needs 1 to 32 warps and at least 1 block. Remedy: leave the "
                "tiling to the library.");
  static_assert(chunk > 0 && chunk <= device::warp_size,
                "cottention: a Tiling of step handles 1 to 32 rows together. Remedy: a chunk within that.");

  using StateVector = device::Vector<A, Parts::width>;
  using ValueVector = device::Vector<T, Parts::width>;

  using Params = StepParams<T>;
  struct Storage {
    StateVector normalized[chunk][dim_qk / Parts::width];  // norm(k), norm(q)
    ValueVector values[chunk][vectors];                    // v
    // of w h^T norm(q). One group more than there are, so that neighbouring rows lie in different banks.
    StateVector partial_sums[chunk][Parts::groups + 1][vectors];
    A weights[chunk];  // w
  };

  /// What a reader adds to a count: see ask_position. Leaves room for counts below it, and for 2^18 - 1
  /// readers.
  static constexpr std::int64_t reader = std::int64_t{1} << 44;

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    StepTask task{};
    if (!find_task(params, task)) return;
    Position position;
    const bool weighs = is_weighted(params) && device::warp_index() == weighing_warp;
    if (weighs) ask_position(params, task, position);
    if (!is_weighted(params)) count_tokens(params, task);
    StateVector h[Parts::rows];
    load_state(params, task, h);
    for (int first = 0; first < task.rows; first += chunk) {
      const int rows = task.rows - first < chunk ? task.rows - first : chunk;
      copy_values(params, task, first, rows, storage);
      normalise_rows(params, task, first, rows, storage);
      if (weighs && first == 0) receive_position(params, task, position);
      if (weighs) weigh(params, position, first, rows, storage);
      device::cp_async_wait<0>();
      device::sync_block();  // rows, values and weights come from other threads
      walk(params, task, first, rows, storage, h);
      device::sync_block();  // so do partial sums; and rows, values and weights are overwritten next
      write_outputs(params, task, first, rows, storage);
    }
  }

 private:
  static constexpr int weighing_warp = tiling.warps - 1;  // rows go to the first ones first

  /// False where there is nothing to do. A slot outside the pool is idle like a negative one.
  static __device__ __forceinline__ bool find_task(const Params& params, StepTask& task) {
    const StepArguments<T>& args = params.args;
    const auto block = static_cast<std::uint32_t>(device::block_x()), task_index = block / v_tiles;
    task.column = static_cast<int>(block % v_tiles) * columns;
    task.lane = params.heads.quotient(task_index);
    task.head = static_cast<int>(params.heads.remainder(task_index, static_cast<std::uint32_t>(task.lane)));
    const int tokens = static_cast<int>(args.shape.seq_q);
    std::int32_t accepted = tokens;
    if (args.accepted != nullptr) accepted = device::load_global(args.accepted + task.lane);
    task.slot = args.slot == nullptr ? task.lane : device::load_global(args.slot + task.lane);
    if (task.slot < 0 || task.slot >= args.pool_slots) return false;
    task.accepted = accepted < 0 ? 0 : accepted > tokens ? tokens : accepted;
    task.rows = args.o.data != nullptr ? tokens * (1 + params.group) : task.accepted;
    return task.rows > 0;
  }

  static __device__ __forceinline__ bool is_weighted(const Params& params) {
    return P::scale != Scale::none && tile::given(params.args.scale_logit);
  }

  /// Adds a lane's tokens to its count, where no weights follow from it. By one thread of all blocks.
  static __device__ __forceinline__ void count_tokens(const Params& params, const StepTask& task) {
    if (task.head != 0 || task.column != 0 || device::thread_index() != 0 || task.accepted == 0) return;
    device::fetch_add_global(params.args.pool.count + task.slot, task.accepted);  // waits for no answer
  }

  /// What a lane's weights follow from.
  struct Position {
    std::int64_t count = 0;  // of tokens before the lane's; until received, with readers above
    double exponent = 0;
  };

  /// All blocks of a lane read its count, and one of them must change it, but only when all have read. So
  /// each adds a reader to the bits above the count as it reads; the last one clears those and adds the
  /// tokens.
  static __device__ __forceinline__ void ask_position(const Params& params, const StepTask& task,
                                                      Position& position) {
    std::int64_t* const at = params.args.pool.count + task.slot;
    if (task.accepted == 0)
      position.count = device::load_global(at);
    else if (device::lane_index() == 0)
      position.count = device::fetch_add_global(at, reader);
  }
  static __device__ __forceinline__ void receive_position(const Params& params, const StepTask& task,
                                                          Position& position) {
    const A scale_logit = tile::load_scale_logit(params.args.scale_logit, task.head);
    const std::int64_t readers = params.args.shape.heads_kv * v_tiles;
    if (task.accepted > 0 && device::lane_index() == 0 && position.count / reader + 1 == readers)
      device::fetch_add_global(params.args.pool.count + task.slot, task.accepted - readers * reader);
    position.count = device::shuffle(position.count, 0) % reader;
    position.exponent = tile::sigmoid(scale_logit);
  }

  static __device__ __forceinline__ bool holds_state(const StepTask& task) {
    const int i = device::thread_index();
    return i < Parts::groups * vectors && task.column + i % vectors * Parts::width < dim_v;
  }
  /// The first of the thread's `rows` rows of the state.
  static __device__ __forceinline__ StateVector* state_global(const Params& params, const StepTask& task) {
    const int group = device::thread_index() / vectors, vector = device::thread_index() % vectors;
    const std::int64_t head = task.slot * params.args.shape.heads_kv + task.head;
    const std::int64_t row = head * dim_qk + group * Parts::rows;
    return reinterpret_cast<StateVector*>(params.args.pool.h + row * dim_v + task.column) + vector;
  }
  static constexpr int state_pitch = dim_v / Parts::width;  // vectors from row to row

  static __device__ __forceinline__ void load_state(const Params& params, const StepTask& task,
                                                    StateVector (&h)[Parts::rows]) {
    const StateVector* from = state_global(params, task);
    const bool holds = holds_state(task);
#pragma unroll
    for (int i = 0; i < Parts::rows; ++i)
      h[i] = holds ? device::load_global_streaming(from + i * state_pitch) : StateVector{};
  }
  static __device__ __forceinline__ void store_state(const Params& params, const StepTask& task,
                                                     const StateVector (&h)[Parts::rows]) {
    StateVector* to = state_global(params, task);
#pragma unroll
    for (int i = 0; i < Parts::rows; ++i) device::store_global(to + i * state_pitch, h[i]);
  }

  template <class E>
  static __device__ __forceinline__ E* row_global(const Tensor<E>& x, const StepTask& task, int token,
                                                  int head) {
    return x.data + task.lane * x.strides.batch + token * x.strides.seq + head * x.strides.head;
  }

  /// Starts copying the block's columns of v for every key among the rows.
  static __device__ __forceinline__ void copy_values(const Params& params, const StepTask& task, int first,
                                                     int rows, Storage& storage) {
    constexpr int vec_size = Parts::vec_size, vecs = columns / vec_size;
#pragma unroll 1
    for (int i = device::thread_index(); i < rows * vecs; i += threads) {
      const int r = i / vecs, c = i % vecs * vec_size;
      const StepRow row = params.row(first + r);
      if (row.group_row != 0 || task.column + c >= dim_v) continue;
      const T* v = row_global(params.args.v, task, row.token, task.head) + task.column + c;
      device::cp_async_16(&storage.values[r][c / Parts::width], v, 16);
    }
    device::cp_async_commit();
  }

  /// norm(x) of keys and queries, each row by a few lanes of a warp.
  static __device__ __forceinline__ void normalise_rows(const Params& params, const StepTask& task, int first,
                                                        int rows, Storage& storage) {
    constexpr int vec_size = Parts::vec_size, vecs = Parts::vecs, lanes = Parts::lanes;
    constexpr int vecs_each = Parts::vecs_each;
    using Vec = device::Vector<T, vec_size>;
    const int part = device::thread_index() % lanes;
#pragma unroll 1
    for (int begin = 0; begin < rows; begin += threads / lanes) {
      const int r = begin + device::thread_index() / lanes;
      A x[vecs_each * vec_size] = {};
      if (r < rows) {
        const StepRow row = params.row(first + r);
        const Tensor<const T>& tensor = row.group_row == 0 ? params.args.k : params.args.q;
        const int head = row.group_row == 0 ? task.head : task.head * params.group + row.group_row - 1;
        const auto* from = reinterpret_cast<const Vec*>(row_global(tensor, task, row.token, head));
#pragma unroll
        for (int u = 0; u < vecs_each; ++u)
          if (part + u * lanes < vecs) {
            const Vec raw = device::load_global(from + part + u * lanes);
#pragma unroll
            for (int e = 0; e < vec_size; ++e) x[u * vec_size + e] = device::widen<T>(raw[e]);
          }
      }
      tile::normalise<lanes>(x);
      if (r >= rows) continue;
#pragma unroll
      for (int u = 0; u < vecs_each; ++u)
        if (part + u * lanes < vecs) {
          StateVector* to = storage.normalized[r] + (part + u * lanes) * (vec_size / Parts::width);
#pragma unroll
          for (int n = 0; n < vec_size / Parts::width; ++n) {
            StateVector y;
#pragma unroll
            for (int e = 0; e < Parts::width; ++e) y[e] = x[u * vec_size + n * Parts::width + e];
            device::store_shared(to + n, y);
          }
        }
    }
  }

  /// The weight of each row's token. By one warp, a lane for each row.
  static __device__ __forceinline__ void weigh(const Params& params, const Position& position, int first,
                                               int rows, Storage& storage) {
    const int r = device::lane_index();
    if (r >= rows) return;
    const double weight = tile::weight(position.count + params.row(first + r).token + 1, position.exponent);
    device::store_shared(&storage.weights[r], static_cast<A>(weight));
  }

  /// Keys change the state, queries read it, in the order of the stream.
  static __device__ __forceinline__ void walk(const Params& params, const StepTask& task, int first, int rows,
                                              Storage& storage, StateVector (&h)[Parts::rows]) {
    if (!holds_state(task)) return;
    const int group = device::thread_index() / vectors, vector = device::thread_index() % vectors;
#pragma unroll 1
    for (int r = 0; r < rows; ++r) {
      const StepRow row = params.row(first + r);
      A x[Parts::rows];  // the thread's part of norm(k) or norm(q)
#pragma unroll
      for (int n = 0; n < Parts::rows / Parts::width; ++n) {
        const StateVector part =
            device::load_shared(&storage.normalized[r][group * (Parts::rows / Parts::width) + n]);
#pragma unroll
        for (int e = 0; e < Parts::width; ++e) x[n * Parts::width + e] = part[e];
      }
      const A weight = is_weighted(params) ? device::load_shared(&storage.weights[r]) : A{1};
      if (row.group_row == 0) {
        const ValueVector v = device::load_shared(&storage.values[r][vector]);
        absorb(x, v, P::scale == Scale::by_key ? weight : A{1}, h);
        if (row.token + 1 == task.accepted) store_state(params, task, h);
      } else {
        device::store_shared(&storage.partial_sums[r][group][vector],
                             answer(x, P::scale == Scale::by_query ? weight : A{1}, h));
      }
    }
  }

  /// h += k (w v)^T
  static __device__ __forceinline__ void absorb(const A (&k)[Parts::rows], const ValueVector& v, A weight,
                                                StateVector (&h)[Parts::rows]) {
    StateVector weighted;
#pragma unroll
    for (int e = 0; e < Parts::width; ++e) weighted[e] = device::mul_rn(weight, device::widen<T>(v[e]));
#pragma unroll
    for (int i = 0; i < Parts::rows; ++i)
#pragma unroll
      for (int e = 0; e < Parts::width; ++e) h[i][e] = device::fma(k[i], weighted[e], h[i][e]);
  }

  /// w h^T q over the thread's rows.
  static __device__ __forceinline__ StateVector answer(const A (&q)[Parts::rows], A weight,
                                                       const StateVector (&h)[Parts::rows]) {
    StateVector o{};
#pragma unroll
    for (int i = 0; i < Parts::rows; ++i)
#pragma unroll
      for (int e = 0; e < Parts::width; ++e) o[e] = device::fma(q[i], h[i][e], o[e]);
#pragma unroll
    for (int e = 0; e < Parts::width; ++e) o[e] = device::mul_rn(weight, o[e]);
    return o;
  }

  /// Sums the threads' parts, a thread for each element of o.
  static __device__ __forceinline__ void write_outputs(const Params& params, const StepTask& task, int first,
                                                       int rows, const Storage& storage) {
#pragma unroll 1
    for (int i = device::thread_index(); i < rows * columns; i += threads) {
      const int r = i / columns, c = i % columns;
      const StepRow row = params.row(first + r);
      if (row.group_row == 0 || task.column + c >= dim_v) continue;
      A o{};
#pragma unroll
      for (int group = 0; group < Parts::groups; ++group)
        o = device::add_rn(o, device::load_shared(&storage.partial_sums[r][group][0].values[0] + c));
      T* to = row_global(params.args.o, task, row.token, task.head * params.group + row.group_row - 1);
      device::store_global(to + task.column + c, device::narrow<T>(o));
    }
  }
};

}  // namespace cottention::kernel
