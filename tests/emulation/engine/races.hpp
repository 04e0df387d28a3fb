// The race detector: ThreadSanitizer, told what the threads of a block are and what orders them.
//
// Each of them is one of its fibers, switched to with no synchronisation. What happens before what is said
// here alone: at barriers, at sync_warp, at waits for copies. A thread's asynchronous copies are made by a
// second fiber. The engine itself is not instrumented, runs as the host's thread, and declares the accesses
// that its words make.
//
// In builds without ThreadSanitizer everything here does nothing.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include <emulation/words.hpp>

extern "C" {
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
}

namespace cottention::emulation::races {

inline bool on() { return &__tsan_create_fiber != nullptr; }

/// Something that one side hands over and the other takes: what came before the one comes before the other.
class Token {
 public:
  Token() : byte_(on() ? std::make_unique<char>() : nullptr) {}
  void* address() const { return byte_.get(); }
  /// By the host.
  void release() const;
  void acquire() const;

 private:
  std::unique_ptr<char> byte_;  // of its own: ThreadSanitizer forgets about memory that is freed
};

/// Who a thread of the block is to the detector.
class Identity {
 public:
  explicit Identity(int thread);
  ~Identity();
  Identity(const Identity&) = delete;
  Identity& operator=(const Identity&) = delete;

  /// Orders what this thread did before what takes the token, and the reverse.
  void release(const Token& token) const;
  void acquire(const Token& token) const;
  /// What the thread's copies do from here on comes after all that the thread has done.
  void begin_copies();
  /// ... and before all that the thread does from here on.
  void end_copies();
  /// ... and before all that takes the token does from here on.
  void release_copies(const Token& token) const;

  void* kernel() const { return kernel_; }
  void* copies() const { return copies_; }

 private:
  void* kernel_ = nullptr;
  void* copies_ = nullptr;
};

/// Runs on as the thread that made or acquired the identity's fiber; null: as the host's.
void become(void* fiber);

enum class Touch { read, write };
/// Declares an access by the fiber, made for the kernel's code at `where`, to which `caller` returns.
void declare(void* fiber, Touch touch, const void* memory, std::size_t bytes, Where where, void* caller);

/// Around a launch.
class Watch {
 public:
  Watch();
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
};

bool has_report();
/// The first report since last asked.
std::string taken_report();

}  // namespace cottention::emulation::races
