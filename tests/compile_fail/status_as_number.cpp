// expect: const cottention::CallStatus
#include <cottention/status.hpp>

int main() {
  const cottention::CallStatus status;
  const int code = status;
  return code;
}
