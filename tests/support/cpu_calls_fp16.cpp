#include "support/cpu_calls_compiled.hpp"

template support::ForwardCall<cottention::half> support::cpu_forward(cottention::Mask, cottention::Scale);
template support::BackwardCall<cottention::half> support::cpu_backward(cottention::Mask, cottention::Scale);
template support::StepCall<cottention::half> support::cpu_step(cottention::Scale);
template support::PartForwardCall<cottention::half> support::cpu_part_forward(cottention::Mask,
                                                                              cottention::Scale);
template support::PartBackwardCall<cottention::half> support::cpu_part_backward(cottention::Mask,
                                                                                cottention::Scale);
