// What the model driver is: its device, what it has made, and what every call does first. `driver.cpp` alone includes it.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "host/driver/memory.h"
#include "host/driver/stream.h"
#include "host/rows.h"

namespace model {

constexpr u32 STATIC_LIMIT = 48 << 10;  // Shared memory of a block that need not ask for more.
constexpr u32 PROCESSORS = 4;

struct Function {
    const Row* row;
    u32 shared_limit = STATIC_LIMIT;
};

struct Module {
    std::map<const Row*, Function> functions;
};

// Calls that are to fail: those of a function after the first so many, as many as `count`.
struct Failure {
    std::string name;
    Status status;
    u64 after, count;
};

struct Driver {
    bool is_initialised = false;
    bool is_hopper = true;
    Memory memory;
    Streams streams;
    std::set<Module*> modules;
    std::set<Function*> functions;
    u32 retained = 0;
    std::vector<Failure> failures;
    // How often each function was called.
    std::map<std::string, u64> calls;

    u32 shared_limit() const { return is_hopper ? 227 << 10 : 163 << 10; }
};

// Never destroyed: threads may still call while the process ends.
static Driver& driver = *new Driver;
static std::mutex mutex;
static char primary;
static thread_local void* current = nullptr;

// Failures as a variable lists them: NAME:STATUS:AFTER:COUNT with commas between.
static bool read_failures(const char* text) {
    for (int length; text != nullptr && *text != 0; text += length + (text[length] == ',')) {
        char name[64];
        u32 status;
        unsigned long long after, count;
        if (sscanf(text, "%63[A-Za-z0-9_]:%u:%llu:%llu%n", name, &status, &after, &count, &length) != 4) {
            return false;
        }
        driver.failures.push_back({name, Status(status), after, count});
    }
    return true;
}

// Writes how often each function was called to the file that a variable names, a line each.
static void tell_calls() {
    const char* path = getenv("LEASEHOLD_MODEL_CALLS");
    FILE* file = path != nullptr ? fopen(path, "w") : nullptr;
    if (file == nullptr) {
        return;
    }
    const std::lock_guard<std::mutex> lock(mutex);
    for (const auto& [name, count] : driver.calls) {
        fprintf(file, "%s %llu\n", name.c_str(), static_cast<unsigned long long>(count));
    }
    fclose(file);
}

// What this call of a function fails with; it is counted.
static Status failure_of(const char* name) {
    driver.calls[name]++;
    for (Failure& failure : driver.failures) {
        if (failure.name != name) {
            continue;
        }
        if (failure.after > 0) {
            failure.after--;
        } else if (failure.count > 0) {
            failure.count--;
            return failure.status;
        }
    }
    return SUCCESS;
}

// What every function does first: one at a time, and after a fault nothing else than that.
template <class F>
static Status call(F f, const char* name = __builtin_FUNCTION()) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!driver.is_initialised) {
        return NOT_INITIALIZED;
    }
    if (driver.streams.fault() != SUCCESS) {
        return driver.streams.fault();
    }
    const Status status = failure_of(name);
    if (is_sticky(status)) {
        driver.streams.fail(status);
    }
    return status != SUCCESS ? status : f();
}

template <class F>
static Status call_in_context(F f, const char* name = __builtin_FUNCTION()) {
    return call([&] { return current == &primary && driver.retained > 0 ? f() : INVALID_CONTEXT; }, name);
}

// A call that waits for the device or may: nothing for a thread that captures.
template <class F>
static Status call_that_waits(F f, const char* name = __builtin_FUNCTION()) {
    return call_in_context([&] {
        const Status status = driver.streams.forbid();
        return status != SUCCESS ? status : f();
    }, name);
}

template <class F>
static Status call_on(void* handle, F f, const char* name = __builtin_FUNCTION()) {
    return call_in_context([&] {
        Stream* stream = driver.streams.find(static_cast<Stream*>(handle));
        return stream != nullptr ? f(*stream) : INVALID_HANDLE;
    }, name);
}

static bool is_device_memory(u64 at, u64 bytes) { return driver.memory.ranges().cover(at, bytes); }

// By the numbers of CUdevice_attribute.
static i32 attribute(u32 number) {
    switch (number) {
    case 1: return 1024;                            // MAX_THREADS_PER_BLOCK
    case 2: case 3: return 1024;                    // MAX_BLOCK_DIM_X, Y
    case 4: return 64;                              // MAX_BLOCK_DIM_Z
    case 5: return 0x7fffffff;                      // MAX_GRID_DIM_X
    case 6: case 7: return 0xffff;                  // MAX_GRID_DIM_Y, Z
    case 8: return STATIC_LIMIT;                    // MAX_SHARED_MEMORY_PER_BLOCK
    case 9: return 64 << 10;                        // TOTAL_CONSTANT_MEMORY
    case 10: return LANES;                          // WARP_SIZE
    case 12: case 82: return 65536;                 // MAX_REGISTERS_PER_BLOCK, PER_MULTIPROCESSOR
    case 13: case 36: return 1000000;               // CLOCK_RATE, MEMORY_CLOCK_RATE
    case 16: return PROCESSORS;                     // MULTIPROCESSOR_COUNT
    case 19: case 31: case 41: return 1;            // CAN_MAP_HOST_MEMORY, CONCURRENT_KERNELS, UNIFIED_ADDRESSING
    case 37: return 256;                            // GLOBAL_MEMORY_BUS_WIDTH
    case 38: return 1 << 20;                        // L2_CACHE_SIZE
    case 39: return 2048;                           // MAX_THREADS_PER_MULTIPROCESSOR
    case 40: case 102: return 1;                    // ASYNC_ENGINE_COUNT, VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED
    case 75: return driver.is_hopper ? 9 : 8;       // COMPUTE_CAPABILITY_MAJOR
    case 76: return 0;                              // COMPUTE_CAPABILITY_MINOR
    case 81: return i32(driver.shared_limit() + 1024);  // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    case 97: return i32(driver.shared_limit());     // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    case 106: return 32;                            // MAX_BLOCKS_PER_MULTIPROCESSOR
    case 111: return 1024;                          // RESERVED_SHARED_MEMORY_PER_BLOCK
    default: return 0;
    }
}

// What a finding of the model is on a card. Races, deadlocks and the like are nothing that a card names.
static Status status_of(const char* finding) {
    const auto is = [&](const char* kind) { return strncmp(finding, kind, strlen(kind)) == 0; };
    return is("global-bounds") ? ILLEGAL_ADDRESS : is("global-alignment") ? MISALIGNED_ADDRESS : LAUNCH_FAILED;
}

static Status run(const Row& row, const void* args, const Config& config) {
    std::vector<char> text(1 << 14);
    reachable = &driver.memory.ranges();
    const u32 found = row.run(args, config, text.data(), u32(text.size()));
    reachable = nullptr;
    if (found == 0) {
        return SUCCESS;
    }
    fprintf(stderr, "host model: %s:\n%s", row.name, text.data());
    return status_of(text.data());
}

// A task on device memory that is there now, and must still be there when its turn comes.
template <class F>
static Status add(Stream& stream, u64 at, u64 bytes, F f) {
    if (!is_device_memory(at, bytes)) {
        return INVALID_VALUE;
    }
    driver.streams.add(stream, [=] {
        if (!is_device_memory(at, bytes)) {
            return ILLEGAL_ADDRESS;
        }
        f();
        return SUCCESS;
    });
    return driver.streams.fault();
}

}  // namespace model
