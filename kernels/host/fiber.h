// Fibers: one stack for each thread of a kernel, switched by hand. `launch.h` runs them.
//
// A switch stores the registers that a call keeps, and costs some 20 ns where `ucontext` costs ten times that. The
// sanitizer is told of every switch, so that an overflow names its frame.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define MODEL_SANITIZED 1
#else
#define MODEL_SANITIZED 0
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace model {

constexpr size_t STACK_BYTES = MODEL_SANITIZED ? 256 << 10 : 64 << 10;

#if defined(__x86_64__)
extern "C" void leasehold_switch(void** save, void* load);
asm(R"(
.text
.weak leasehold_switch
.hidden leasehold_switch
.type leasehold_switch, @function
leasehold_switch:
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
.size leasehold_switch, .-leasehold_switch
)");
#endif

// Memory with a page that faults below it.
class Stack {
  public:
    Stack() {
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        constexpr int FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* at = mmap(nullptr, STACK_BYTES + page, PROT_READ | PROT_WRITE, FLAGS, -1, 0);
        if (at == MAP_FAILED || mprotect(at, page, PROT_NONE) != 0) {
            abort();
        }
        bottom_ = static_cast<char*>(at) + page;
        mapped_ = at;
        bytes_ = STACK_BYTES + page;
    }
    Stack(Stack&& other) noexcept
        : mapped_(std::exchange(other.mapped_, nullptr)), bottom_(other.bottom_), bytes_(other.bytes_) {}
    Stack& operator=(Stack&&) = delete;
    ~Stack() {
        if (mapped_ != nullptr) {
#if MODEL_SANITIZED
            // A fiber that never ended has left its frames' bounds there, and the next stack may have its place.
            __asan_unpoison_memory_region(mapped_, bytes_);
#endif
            munmap(mapped_, bytes_);
        }
    }
    char* bottom() const { return bottom_; }
    char* top() const { return bottom_ + STACK_BYTES; }

  private:
    void* mapped_;
    char* bottom_;
    size_t bytes_;
};

// Where a flow of control goes on.
struct Context {
#if defined(__x86_64__)
    void* stack_pointer = nullptr;
#else
    ucontext_t machine;
#endif
    // The bounds that the sanitizer wants; the host's own are learned at the first switch away.
    const void* bottom = nullptr;
    size_t bytes = 0;
    void* shadow_stack = nullptr;
};

// Makes `context` begin at `entry`, which never returns.
inline void prepare(Context& context, const Stack& stack, void (*entry)()) {
    context.bottom = stack.bottom();
    context.bytes = STACK_BYTES;
    context.shadow_stack = nullptr;
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(stack.top());
    *--top = nullptr;  // The place of a return address: `entry` sees the alignment of a call.
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) {
        *--top = nullptr;
    }
    context.stack_pointer = top;
#else
    getcontext(&context.machine);
    context.machine.uc_stack.ss_sp = stack.bottom();
    context.machine.uc_stack.ss_size = STACK_BYTES;
    context.machine.uc_link = nullptr;
    makecontext(&context.machine, entry, 0);
#endif
}

// Called first on a stack that was switched to: `from` is where control came from.
inline void arrived(Context& self, Context& from) {
#if MODEL_SANITIZED
    __sanitizer_finish_switch_fiber(self.shadow_stack, &from.bottom, &from.bytes);
#else
    (void)self, (void)from;
#endif
}

// Leaves `from` for `to`; comes back when something switches to `from`. `last`: it never will.
inline void switch_to(Context& from, Context& to, bool last = false) {
#if MODEL_SANITIZED
    __sanitizer_start_switch_fiber(last ? nullptr : &from.shadow_stack, to.bottom, to.bytes);
#else
    (void)last;
#endif
#if defined(__x86_64__)
    leasehold_switch(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.machine, &to.machine);
#endif
    arrived(from, to);
}

}  // namespace model
