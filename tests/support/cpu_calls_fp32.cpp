#include "support/cpu_calls_compiled.hpp"

template support::ForwardCall<float> support::cpu_forward(cottention::Mask, cottention::Scale);
template support::BackwardCall<float> support::cpu_backward(cottention::Mask, cottention::Scale);
template support::StepCall<float> support::cpu_step(cottention::Scale);
template support::PartForwardCall<float> support::cpu_part_forward(cottention::Mask, cottention::Scale);
template support::PartBackwardCall<float> support::cpu_part_backward(cottention::Mask, cottention::Scale);
