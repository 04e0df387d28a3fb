// What cuda_step_*.cpp compile.
#pragma once

#include <utility>

#include <cottention/step.cuh>

#include "support/cuda_step.hpp"

namespace support {

template <cottention::Element T>
CudaStep<T> cuda_step(std::int64_t dim_qk, std::int64_t dim_v, cottention::Scale scale) {
  using namespace cottention;
  using Compiled =
      ProblemUnion<ProblemProduct<Elements<T>, CudaStepDims, Masks<Mask::causal>, Scales<Scale::by_key>>,
                   ProblemProduct<Elements<T>, HeadDims<HeadDim{24, 40}, HeadDim{64, 64}>,
                                  Masks<Mask::causal>, Scales<Scale::none, Scale::by_query>>>;
  CudaStep<T> calls{};
  const CallStatus status =
      dispatch<Compiled>({element_type<T>, dim_qk, dim_v, Mask::causal, scale}, [&]<class P>() -> CallStatus {
        calls.workspace_bytes = workspace_bytes<P>;
        calls.automatic = step<P>;
        [&]<std::size_t... i>(std::index_sequence<i...>) {
          (calls.tilings.push_back(step<P, tuning::step_tilings<P>.list[i]>), ...);
        }
        (std::make_index_sequence<tuning::step_tilings<P>.count>());
        return {};
      });
  INFO(status.reason);
  REQUIRE(status.ok());
  return calls;
}

}  // namespace support
