#include <cottention/cottention.cuh>
using namespace cottention;
#ifndef QK
#define QK 128
#define V 128
#endif
template <Scale s> using P = Problem<cottention::half, HeadDim{QK,V}, Mask::causal, s>;
template <recurrence::Output o, Scale s> using R = kernel::Roles<P<s>, o>;
#ifndef STAGES
#define STAGES 2
#endif
template <recurrence::Output o, Scale s> using K = sm90::Walk<R<o, s>, tuning::wgmma_tiling<R<o, s>>(STAGES)>;
using recurrence::Output;
#define INST(...) template __global__ void cottention::device::entry<__VA_ARGS__>(__VA_ARGS__::Params);
INST(K<Output::dq, Scale::by_key>)
INST(K<Output::dk, Scale::by_key>)
#ifdef ALL
INST(K<Output::dq, Scale::by_query>)
INST(K<Output::dk, Scale::by_query>)
INST(K<Output::dq, Scale::none>)
INST(K<Output::dk, Scale::none>)
#endif
