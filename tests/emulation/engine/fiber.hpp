// A stack and the point at which the code on it stopped.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(__aarch64__)
#define COTTENTION_EMULATION_UCONTEXT
#endif
#ifdef COTTENTION_EMULATION_UCONTEXT
#include <ucontext.h>
#endif

namespace cottention::emulation {

class Fiber {
 public:
  static constexpr std::size_t stack_bytes = std::size_t{512} * 1024;  // sanitizers want room in each frame

  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// The next switch to this fiber calls `entry` on an empty stack. `entry` must call `landed` first and
  /// never return.
  void start(void (*entry)());

  /// Stops here and goes on where `to` stopped.
  void switch_to(Fiber& to);
  /// As switch_to, from a fiber that will not be resumed until started again.
  void finish(Fiber& to);
  /// The first thing that `entry` does.
  static void landed();

 private:
  enum class Leaving { pausing, finishing };
  void leave(Fiber& to, Leaving leaving);

#ifdef COTTENTION_EMULATION_UCONTEXT
  ucontext_t context_{};
#else
  void* stack_pointer_ = nullptr;
#endif
  unsigned char* stack_ = nullptr;  // null for the fiber that is the operating system's thread
  // For AddressSanitizer, which must know the stack that runs.
  void* fake_stack_ = nullptr;
  const void* bottom_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace cottention::emulation
