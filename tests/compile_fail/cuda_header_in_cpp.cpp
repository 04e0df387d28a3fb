// expect: compiled as C++. Remedy: name it .cu
#include <cottention/cottention.cuh>
