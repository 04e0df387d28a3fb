#include <omp.h>

#include <cottention/problem.hpp>

#ifndef _OPENMP
#error "the target should have brought OpenMP and did not"
#endif
static_assert(__cplusplus >= 202002L);

int main() { return omp_get_max_threads() < 1; }
