// Stacks of their own that give way to one another. glibc's swapcontext asks the kernel twice each
// time, which was a third of the emulation's time; AddressSanitizer follows no other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)

// Registers that a call preserves, the stack's top to *rdi, another stack from rsi.
asm(R"(
.text
contrastile_switch_stacks:
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
)");
extern "C" void contrastile_switch_stacks(void** from, void* to) asm("contrastile_switch_stacks");

namespace contrastile::hw {

// Where a stack was left.
class Context {
 public:
  // `entry` starts on that memory when it is first switched to; it never returns.
  void start(char* memory, size_t bytes, void (*entry)()) {
    const auto top = reinterpret_cast<uintptr_t>(memory + bytes) & ~uintptr_t{15};
    void** frame = reinterpret_cast<void**>(top) - 8;
    for (int k = 0; k < 6; ++k) frame[k] = nullptr;
    frame[6] = reinterpret_cast<void*>(entry);
    top_ = frame;
  }
  void switch_to(Context& other) { contrastile_switch_stacks(&top_, other.top_); }

 private:
  void* top_ = nullptr;
};

}  // namespace contrastile::hw

#else

#include <ucontext.h>

namespace contrastile::hw {

class Context {
 public:
  void start(char* memory, size_t bytes, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = memory;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  void switch_to(Context& other) { swapcontext(&context_, &other.context_); }

 private:
  ucontext_t context_;
};

}  // namespace contrastile::hw

#endif
