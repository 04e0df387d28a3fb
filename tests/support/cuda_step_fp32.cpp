#include "support/cuda_step_compiled.hpp"

template support::CudaStep<float> support::cuda_step<float>(std::int64_t, std::int64_t, cottention::Scale);
