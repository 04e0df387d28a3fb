// <cuda_runtime.h> under NVRTC, which knows what kernels use of it without any header.
#pragma once
