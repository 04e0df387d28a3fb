#include "support/cuda_step_compiled.hpp"

template support::CudaStep<cottention::half> support::cuda_step<cottention::half>(std::int64_t, std::int64_t,
                                                                                  cottention::Scale);
