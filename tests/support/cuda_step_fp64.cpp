#include "support/cuda_step_compiled.hpp"

template support::CudaStep<double> support::cuda_step<double>(std::int64_t, std::int64_t, cottention::Scale);
