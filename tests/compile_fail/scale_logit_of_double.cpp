// expect: const double
#include <cottention/arguments.hpp>

const float m = 0.5f;
const cottention::ForwardArguments<double> arguments{.scale_logit = &m};
