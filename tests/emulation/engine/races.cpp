#include "races.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

#include <emulation.hpp>

#include "failure.hpp"

// ThreadSanitizer's interface; absent in other builds. Declared by hand: g++ 12 ships no header with the
// fibers.
extern "C" {
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void __tsan_destroy_fiber(void* fiber);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_set_fiber_name(void* fiber, const char* name);
[[gnu::weak]] void __tsan_acquire(void* address);
[[gnu::weak]] void __tsan_release(void* address);
[[gnu::weak]] void __tsan_read1_pc(void* address, void* pc);
[[gnu::weak]] void __tsan_read2_pc(void* address, void* pc);
[[gnu::weak]] void __tsan_read4_pc(void* address, void* pc);
[[gnu::weak]] void __tsan_read8_pc(void* address, void* pc);
[[gnu::weak]] void __tsan_write1_pc(void* address, void* pc);
[[gnu::weak]] void __tsan_write2_pc(void* address, void* pc);
[[gnu::weak]] void __tsan_write4_pc(void* address, void* pc);
[[gnu::weak]] void __tsan_write8_pc(void* address, void* pc);
[[gnu::weak]] void AnnotateIgnoreReadsBegin(const char* file, int line);
[[gnu::weak]] void AnnotateIgnoreReadsEnd(const char* file, int line);
[[gnu::weak]] void AnnotateIgnoreWritesBegin(const char* file, int line);
[[gnu::weak]] void AnnotateIgnoreWritesEnd(const char* file, int line);
[[gnu::weak]] int __tsan_get_report_mop(void* report, unsigned long index, int* tid, void** address,
                                        int* bytes, int* write, int* atomic, void** trace,
                                        unsigned long trace_size);
[[gnu::weak]] int __tsan_get_report_thread(void* report, unsigned long index, int* tid, unsigned long* os_id,
                                           int* running, const char** name, int* parent_tid, void** trace,
                                           unsigned long trace_size);
[[gnu::weak]] void __sanitizer_symbolize_pc(void* pc, const char* format, char* text, unsigned long bytes);
const char* __tsan_default_options();
void __tsan_on_report(void* report);
}

namespace cottention::emulation::races {
namespace {

constexpr unsigned no_synchronisation = 1;  // __tsan_switch_to_fiber_no_sync

void* host = nullptr;     // the fiber that launched
void* current = nullptr;  // the fiber that runs
std::atomic<bool> watching{false};

// The first report that was not taken yet. The detector calls from inside itself, so nothing here allocates.
char pending[512];
std::atomic<bool> is_pending{false};

// The kernel's line of every return address that an access was declared for.
std::unordered_map<void*, Where>& callers() {
  static std::unordered_map<void*, Where> lines;
  return lines;
}

}  // namespace

void become(void* fiber) {
  if (fiber == nullptr) fiber = host;
  if (fiber == current) return;
  __tsan_switch_to_fiber(fiber, no_synchronisation);
  current = fiber;
}

void Token::release() const {
  if (on()) __tsan_release(address());
}

void Token::acquire() const {
  if (on()) __tsan_acquire(address());
}

namespace {

void* named_fiber(const char* prefix, int thread) {
  void* const fiber = __tsan_create_fiber(0);
  char name[64];
  std::snprintf(name, sizeof name, "%swarp %d lane %d", prefix, thread / 32, thread % 32);
  __tsan_set_fiber_name(fiber, name);
  return fiber;
}

}  // namespace

Identity::Identity(int thread) : thread_(thread) {
  if (on()) kernel_ = named_fiber("", thread);
}

Identity::~Identity() {
  if (kernel_ != nullptr) __tsan_destroy_fiber(kernel_);
  for (void* const fiber : started_)
    if (fiber != nullptr) __tsan_destroy_fiber(fiber);
}

void Identity::release(const Token& token) const {
  if (!on()) return;
  become(kernel_);
  __tsan_release(token.address());
  become(nullptr);
}

void Identity::acquire(const Token& token) const {
  if (!on()) return;
  become(kernel_);
  __tsan_acquire(token.address());
  become(nullptr);
}

void* Identity::begin(Async kind) {
  if (!on()) return nullptr;
  constexpr std::array<const char*, kinds> prefixes = {"copies of ", "stores of ", "products of "};
  const auto index = static_cast<std::size_t>(kind);
  void*& fiber = started_[index];
  if (fiber == nullptr) fiber = named_fiber(prefixes[index], thread_);
  const Token token;
  release(token);
  become(fiber);
  __tsan_acquire(token.address());
  become(nullptr);
  return fiber;
}

void Identity::release(Async kind, const Token& token) const {
  void* const fiber = started_[static_cast<std::size_t>(kind)];
  if (fiber == nullptr) return;
  become(fiber);
  __tsan_release(token.address());
  become(nullptr);
}

void Identity::end(Async kind) const {
  if (!on()) return;
  const Token token;
  release(kind, token);
  acquire(token);
}

void Identity::end_all() const {
  if (!on()) return;
  const Token token;
  for (const Async kind : {Async::copies, Async::stores, Async::products}) release(kind, token);
  acquire(token);
}

void declare(void* fiber, Touch touch, const void* memory, std::size_t bytes, Where where, void* caller) {
  if (!on()) return;
  callers().try_emplace(caller, where);
  become(fiber);
  auto* at = static_cast<char*>(const_cast<void*>(memory));
  const auto each = [&](std::size_t width, void (*read)(void*, void*), void (*write)(void*, void*)) {
    for (; bytes >= width && !has_report(); bytes -= width, at += width)  // one report says enough
      (touch == Touch::read ? read : write)(at, caller);
  };
  each(8, __tsan_read8_pc, __tsan_write8_pc);
  each(4, __tsan_read4_pc, __tsan_write4_pc);
  each(2, __tsan_read2_pc, __tsan_write2_pc);
  each(1, __tsan_read1_pc, __tsan_write1_pc);
  become(nullptr);
}

Watch::Watch() {
  if (!on()) return;
  host = current = __tsan_get_current_fiber();
  // The engine's own copies to and from the kernel's memory go through libc, which is always watched.
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  is_pending = false;
  watching = true;
}

Watch::~Watch() {
  if (!on()) return;
  become(nullptr);
  watching = false;
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}

}  // namespace cottention::emulation::races

bool cottention::emulation::detects_races() { return races::on(); }

namespace cottention::emulation::races {

bool has_report() { return is_pending.load(std::memory_order_relaxed); }

std::string taken_report() {
  is_pending = false;
  return pending;
}

namespace {

// The kernel's line: known for what words declare; for plain code, what the symbolizer makes of the trace.
void append_place(void* pc, char* text, std::size_t bytes) {
  if (const auto found = callers().find(pc); found != callers().end()) {
    std::snprintf(text, bytes, " at %s", PlaceName(found->second).text);
    return;
  }
  char place[256] = "";
  __sanitizer_symbolize_pc(pc, "%s:%l", place, sizeof place);
  if (place[0] == '/') std::snprintf(text, bytes, " at %s", short_path(place));
}

// "write by warp 1 lane 3 at file:line"
void append_access(void* report, unsigned long index, char* text, std::size_t bytes) {
  int tid = 0, size = 0, write = 0, is_atomic = 0;
  void* address = nullptr;
  void* trace[1] = {};
  if (__tsan_get_report_mop(report, index, &tid, &address, &size, &write, &is_atomic, trace, 1) == 0) return;
  const char* who = "another thread";
  for (unsigned long i = 0; i < 2; ++i) {
    int other_tid = 0, running = 0, parent = 0;
    unsigned long os_id = 0;
    const char* name = nullptr;
    void* creation[1] = {};
    if (__tsan_get_report_thread(report, i, &other_tid, &os_id, &running, &name, &parent, creation, 1) == 0)
      break;
    if (other_tid == tid && name != nullptr) who = name;
  }
  char place[256] = "";
  append_place(trace[0], place, sizeof place);
  const std::size_t used = std::strlen(text);
  std::snprintf(text + used, bytes - used, "%s%s by %s%s", used > 0 ? ", " : "",
                write != 0 ? "write" : "read", who, place);
}

}  // namespace
}  // namespace cottention::emulation::races

// Reports become Errors of the launch that they belong to, so the process need not fail for them; and the
// same race in the next schedule is reported again.
extern "C" const char* __tsan_default_options() {
  return "exitcode=0:suppress_equal_stacks=0:suppress_equal_addresses=0:report_signal_unsafe=0";
}

extern "C" void __tsan_on_report(void* report) {
  namespace races = cottention::emulation::races;
  if (!races::watching) std::abort();  // a race of host threads, which nothing else would show
  if (races::is_pending.exchange(true)) return;
  races::pending[0] = 0;
  races::append_access(report, 0, races::pending, sizeof races::pending);
  races::append_access(report, 1, races::pending, sizeof races::pending);
}
