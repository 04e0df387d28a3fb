// expect: const cottention::Status
#include <cottention/status.hpp>

int main() {
  const cottention::Status status;
  const int code = status;
  return code;
}
