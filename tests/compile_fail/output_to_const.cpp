// expect: const float
#include <cottention/arguments.hpp>

int main() {
  const float o[4] = {};
  const cottention::ForwardArguments<float> args{.o = {.data = o}};
  return args.o.data == nullptr ? 1 : 0;
}
