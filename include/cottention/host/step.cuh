// A call of `step`: its tilings and its kernel.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cottention/choice.hpp>
#include <cottention/host/launches.cuh>
#include <cottention/host/select.cuh>
#include <cottention/kernel/step.cuh>
#include <cottention/tuning/step.cuh>

namespace cottention::host {

/// Rows of the kernel of `step`, the largest blocks first.
template <AnyProblem P, Tiling... given>
struct StepRows {
  static constexpr tuning::TilingTable table = tuning::step_tilings<P>;

  /// The largest blocks that keep most of the multiprocessors busy. Smaller ones spread a state over more of
  /// them, but read its keys and queries again and again.
  static std::size_t choose(const Shape& s, const device::Properties& device) {
    std::size_t row = 0;
    while (row + 1 < table.count) {
      const int columns = table.list[row].columns;
      const std::int64_t blocks = s.batch * s.heads_kv * ((s.dim_v + columns - 1) / columns);
      if (4 * blocks >= 3 * static_cast<std::int64_t>(device.multiprocessors)) break;
      ++row;
    }
    return row;
  }
};
template <AnyProblem P, Tiling given>
struct StepRows<P, given> : GivenRow<given> {};

inline bool is_empty(const Shape& s) { return s.batch == 0 || s.heads_kv == 0 || s.seq_q == 0; }

template <AnyProblem P, Tiling tiling>
class StepCall {
 public:
  using Kernel = kernel::Step<P, tiling>;

  /// `args` are not empty.
  explicit StepCall(const StepArguments<typename P::element>& args) : args_(args) {}

  CallStatus validate_extents() const {
    return validate_step_extents(args_.shape, Kernel::v_tiles, Kernel::reader_increment);
  }
  std::size_t used_bytes() const { return 0; }
  StepChoice choice() const { return {.tiling = tiling}; }

  template <class Each>
  void kernels(void*, Each each) const {
    const Shape& s = args_.shape;
    each.template operator()<Kernel>({s.batch * s.heads_kv * Kernel::v_tiles},
                                     [&] { return kernel::step_params(args_); });
  }

 private:
  const StepArguments<typename P::element>& args_;
};

}  // namespace cottention::host
