#include "fiber.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#include "sanitizers.hpp"

namespace cottention::emulation {
namespace {

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// The fiber that was left by the switch that is under way.
Fiber* left = nullptr;

}  // namespace

#ifndef COTTENTION_EMULATION_UCONTEXT
// Saves the registers that a call must preserve on the stack, and the stack pointer at *save; then the
// reverse.
extern "C" void cottention_emulation_switch(void** save, void* load);
#if defined(__x86_64__)
asm(R"(
.text
.globl cottention_emulation_switch
.hidden cottention_emulation_switch
.type cottention_emulation_switch, @function
cottention_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cottention_emulation_switch, .-cottention_emulation_switch
)");
constexpr std::size_t return_address = 6;  // after the saved registers
constexpr std::size_t frame_words = 8;     // one more, so that entry finds the stack as a call leaves it
#else
asm(R"(
.text
.globl cottention_emulation_switch
.hidden cottention_emulation_switch
.type cottention_emulation_switch, %function
cottention_emulation_switch:
  stp x29, x30, [sp, #-160]!
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x29, x30, [sp], #160
  ret
.size cottention_emulation_switch, .-cottention_emulation_switch
)");
constexpr std::size_t return_address = 1;  // x30
constexpr std::size_t frame_words = 20;
#endif
#endif

Fiber::~Fiber() {
  if (stack_ != nullptr) munmap(stack_ - page_bytes(), stack_bytes + page_bytes());
}

void Fiber::start(void (*entry)()) {
  if (stack_ == nullptr) {
    void* memory = mmap(nullptr, stack_bytes + page_bytes(), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, page_bytes(), PROT_NONE);  // an overflow stops here rather than in the next stack
    stack_ = static_cast<unsigned char*>(memory) + page_bytes();
    bottom_ = stack_;
    size_ = stack_bytes;
  }
  sanitizers::unpoison(stack_, stack_bytes);
#ifdef COTTENTION_EMULATION_UCONTEXT
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = stack_bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#else
  auto* frame = reinterpret_cast<std::uintptr_t*>(stack_ + stack_bytes) - frame_words;
  for (std::size_t i = 0; i < frame_words; ++i) frame[i] = 0;
  frame[return_address] = reinterpret_cast<std::uintptr_t>(entry);
  stack_pointer_ = frame;
#endif
}

void Fiber::leave(Fiber& to, Leaving leaving) {
  left = this;
  sanitizers::start_switch(leaving == Leaving::pausing ? &fake_stack_ : nullptr, to.bottom_, to.size_);
#ifdef COTTENTION_EMULATION_UCONTEXT
  swapcontext(&context_, &to.context_);
#else
  cottention_emulation_switch(&stack_pointer_, to.stack_pointer_);
#endif
  // Back again, perhaps much later, from whichever fiber `left` is now.
  sanitizers::finish_switch(fake_stack_, &left->bottom_, &left->size_);
}

void Fiber::switch_to(Fiber& to) { leave(to, Leaving::pausing); }

void Fiber::finish(Fiber& to) {
  leave(to, Leaving::finishing);
  std::abort();  // it was resumed after all
}

void Fiber::landed() { sanitizers::finish_switch(nullptr, &left->bottom_, &left->size_); }

}  // namespace cottention::emulation
