// expect: ScaleLogit
#include <cottention/arguments.hpp>

const double m = 0.5;
const cottention::ForwardArguments<float> arguments{.scale_logit = &m};
