// Where the code of docs/api.md on GPUs stands: in a source of a program's.
#include <cstdio>

#include <cottention/backward.cuh>

using namespace cottention;

// [here]
