#include "support/cuda_step_compiled.hpp"

template support::CudaStep<cottention::bfloat16> support::cuda_step<cottention::bfloat16>(std::int64_t,
                                                                                          std::int64_t,
                                                                                          cottention::Scale);
