// What calls need of the code with vectors, for one target.
#if !defined(COTTENTION_CPU_TARGET_CODE_HPP)
#define COTTENTION_CPU_TARGET_CODE_HPP

#include <cottention/cpu/driver.hpp>
#include <cottention/cpu/stepper.hpp>

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// The code of this target with vectors of so many bytes.
template <int vector_bytes>
struct TargetCode {
  static constexpr int bytes_of_vectors = vector_bytes;
  template <AnyProblem P, int block, class Tasks>
  using CallDriver = Driver<P, block, vector_bytes, Tasks>;
  template <AnyProblem P>
  using LaneStepper = Stepper<P, vector_bytes>;
  template <AnyProblem P, int block>
  using Unit = MatrixUnitOf<typename P::element, block, vector_bytes>;
};

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#endif
