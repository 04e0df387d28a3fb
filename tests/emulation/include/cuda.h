// Stands in for the header of CUDA's driver API: what the library names of it.
#pragma once

enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_CONTEXT = 201 };

typedef struct CUctx_st* CUcontext;

CUresult cuCtxGetId(CUcontext context, unsigned long long* number);
