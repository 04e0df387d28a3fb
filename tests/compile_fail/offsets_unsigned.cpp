// expect: const unsigned int
#include <cottention/arguments.hpp>

int main() {
  const unsigned starts[2] = {0, 4};
  return cottention::Offsets(starts).given() ? 0 : 1;
}
