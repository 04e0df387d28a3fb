#include "support/cpu_calls_compiled.hpp"

template support::ForwardCall<double> support::cpu_forward(cottention::Mask, cottention::Scale);
template support::BackwardCall<double> support::cpu_backward(cottention::Mask, cottention::Scale);
template support::StepCall<double> support::cpu_step(cottention::Scale);
template support::PartForwardCall<double> support::cpu_part_forward(cottention::Mask, cottention::Scale);
template support::PartBackwardCall<double> support::cpu_part_backward(cottention::Mask, cottention::Scale);
