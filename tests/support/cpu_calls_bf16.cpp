#include "support/cpu_calls_compiled.hpp"

template support::ForwardCall<cottention::bfloat16> support::cpu_forward(cottention::Mask, cottention::Scale);
template support::BackwardCall<cottention::bfloat16> support::cpu_backward(cottention::Mask,
                                                                           cottention::Scale);
template support::StepCall<cottention::bfloat16> support::cpu_step(cottention::Scale);
template support::PartForwardCall<cottention::bfloat16> support::cpu_part_forward(cottention::Mask,
                                                                                  cottention::Scale);
template support::PartBackwardCall<cottention::bfloat16> support::cpu_part_backward(cottention::Mask,
                                                                                    cottention::Scale);
