// expect: ExtentsAreGivenByName
#include <cottention/arguments.hpp>

const cottention::ForwardArguments<float> arguments{.shape = {2, 500, 500, 8, 4, 64, 64}};
