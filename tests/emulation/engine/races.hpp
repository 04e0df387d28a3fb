// The race detector: ThreadSanitizer, told what the threads of a block are and what orders them.
//
// Each of them is one of its fibers, switched to with no synchronisation. What happens before what is said
// here alone: at barriers, at sync_warp, at waits for copies and products. What a thread starts and does not
// wait for is done by fibers of its own (Async). The engine itself is not instrumented, runs as the host's
// thread, and declares the accesses that its words make.
//
// In builds without ThreadSanitizer everything here does nothing.
#pragma once

#include <array>
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

/// What a thread starts and does not wait for at once: copies to shared memory, stores of tiles from there,
/// and products of its warp, which are lane 0's. Each kind has a fiber of its own, since the end of one says
/// nothing of the others.
enum class Async { copies, stores, products };

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
  /// What is started from here on comes after all that the thread has done. Returns its fiber.
  void* begin(Async kind);
  /// What has been started so far comes before what takes the token.
  void release(Async kind, const Token& token) const;
  /// ... and before all that the thread does from here on.
  void end(Async kind) const;
  /// The same for all kinds.
  void end_all() const;

  void* kernel() const { return kernel_; }

 private:
  static constexpr std::size_t kinds = 3;
  int thread_;
  void* kernel_ = nullptr;
  std::array<void*, kinds> started_{};  // by kind; null before the first
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
