// A CUDA driver that is a model: the driver API's functions that the runtime calls, over the host model, so that its CUDA
// backend runs without a GPU. `tests/driver` builds it as libcuda.so.1 with rows of the table.
//
// LEASEHOLD_MODEL_ARCH is sm_90a (or nothing) or sm_80. LEASEHOLD_MODEL_ORDER is late (or nothing): work is done when it
// is waited for, in each stream's order, and copies inside kernels as late as their rules allow; or early: at once.
// LEASEHOLD_MODEL_FAIL lists calls that fail, as NAME:STATUS:AFTER:COUNT with commas between. LEASEHOLD_MODEL_IDLE is how the
// names of rows begin that do nothing, as if a driver ran other code. LEASEHOLD_MODEL_CALLS
// names a file that says at the end how often each function was called. Any image is a module; its functions are the rows that
// were compiled in. What a kernel did wrong is told on standard error and becomes the fault of
// the whole process, as on a card.
#include <cstdlib>

#include "host/driver/map.h"
#include "host/driver/state.h"

#define API extern "C" __attribute__((visibility("default"))) model::Status

using namespace model;

// Whether a variable has the second of two values; the first is also that of one that is not set.
static Status choose(const char* name, const char* first, const char* second, bool& is_second) {
    const char* value = getenv(name);
    is_second = value != nullptr && strcmp(value, second) == 0;
    return is_second || value == nullptr || strcmp(value, first) == 0 ? SUCCESS : INVALID_VALUE;
}

API cuInit(u32 flags) {
    const std::lock_guard<std::mutex> lock(model::mutex);
    bool is_older = false;
    const Status arch = choose("LEASEHOLD_MODEL_ARCH", "sm_90a", "sm_80", is_older);
    const Status order = choose("LEASEHOLD_MODEL_ORDER", "late", "early", driver.streams.early);
    const bool is_read = driver.is_initialised || read_failures(getenv("LEASEHOLD_MODEL_FAIL"));
    if (flags != 0 || arch != SUCCESS || order != SUCCESS || !is_read) {
        return INVALID_VALUE;
    }
    driver.is_hopper = !is_older;
    if (!driver.is_initialised) {
        atexit(tell_calls);
    }
    driver.is_initialised = true;
    return SUCCESS;
}

API cuDriverGetVersion(i32* version) {
    *version = 13000;
    return SUCCESS;
}

API cuGetErrorName(u32 status, const char** name) {
    *name = name_of(status);
    return *name != nullptr ? SUCCESS : INVALID_VALUE;
}

API cuGetErrorString(u32 status, const char** text) { return cuGetErrorName(status, text); }

// Devices and their contexts.

API cuDeviceGetCount(i32* count) {
    return call([&] { return *count = 1, SUCCESS; });
}

API cuDeviceGet(i32* device, i32 ordinal) {
    return call([&] { return *device = 0, ordinal == 0 ? SUCCESS : INVALID_DEVICE; });
}

template <class F>
static Status call_of(i32 device, F f, const char* name = __builtin_FUNCTION()) {
    return call([&] { return device == 0 ? f() : INVALID_DEVICE; }, name);
}

API cuDeviceGetName(char* name, i32 room, i32 device) {
    return call_of(device, [&] {
        snprintf(name, size_t(room), "Host model %s", driver.is_hopper ? "sm_90a" : "sm_80");
        return SUCCESS;
    });
}

API cuDeviceGetAttribute(i32* value, u32 number, i32 device) {
    return call_of(device, [&] { return *value = attribute(number), SUCCESS; });
}

API cuDeviceTotalMem_v2(u64* bytes, i32 device) {
    return call_of(device, [&] { return *bytes = TOTAL_MEMORY, SUCCESS; });
}

API cuDeviceGetUuid_v2(char* uuid, i32 device) {
    return call_of(device, [&] { return memcpy(uuid, "leasehold model", 16), SUCCESS; });
}

API cuDevicePrimaryCtxRetain(void** context, i32 device) {
    return call_of(device, [&] { return driver.retained++, *context = &primary, SUCCESS; });
}

API cuDevicePrimaryCtxRelease_v2(i32 device) {
    return call_of(device, [&] { return driver.retained > 0 ? (driver.retained--, SUCCESS) : INVALID_CONTEXT; });
}

API cuCtxSetCurrent(void* context) {
    return call([&] {
        if (context != nullptr && context != &primary) {
            return INVALID_CONTEXT;
        }
        current = context;
        return SUCCESS;
    });
}

API cuCtxGetCurrent(void** context) {
    return call([&] { return *context = current, SUCCESS; });
}

API cuCtxSynchronize() {
    return call_that_waits([&] { return driver.streams.run_all(), driver.streams.fault(); });
}

// Memory.

API cuMemGetInfo_v2(u64* free, u64* total) {
    return call_in_context([&] { return *free = driver.memory.free_bytes(), *total = TOTAL_MEMORY, SUCCESS; });
}

API cuMemAlloc_v2(u64* at, u64 bytes) {
    return call_that_waits([&] { return driver.memory.allocate(bytes, *at); });
}

// Waits for everything first, as a card's driver does.
API cuMemFree_v2(u64 at) {
    return call_that_waits([&] {
        driver.streams.run_all();
        return driver.streams.fault() != SUCCESS ? driver.streams.fault() : at == 0 ? SUCCESS : driver.memory.free(at);
    });
}

API cuMemHostAlloc(void** at, u64 bytes, u32) {
    return call_that_waits([&] { return driver.memory.pin(bytes, *at); });
}

API cuMemFreeHost(void* at) {
    return call_that_waits([&] {
        driver.streams.run_all();
        return driver.streams.fault() != SUCCESS ? driver.streams.fault() : driver.memory.unpin(at);
    });
}

// CUmemAllocationProp and CUmemAccessDesc of cuda.h.
struct Allocation {
    u32 type, handles, location, id;
    void* unused;
    u64 flags;
};
struct Access {
    u32 location, id, flags;
};
static bool is_on_device(u32 location, u32 id) { return location == 1 && id == 0; }

API cuMemGetAllocationGranularity(u64* bytes, const Allocation* of, u32) {
    return call([&] {
        *bytes = GRANULARITY;
        return of->type == 1 && is_on_device(of->location, of->id) ? SUCCESS : INVALID_VALUE;
    });
}

API cuMemAddressReserve(u64* at, u64 bytes, u64 alignment, u64, u64 flags) {
    return call([&] { return flags == 0 ? driver.memory.reserve(bytes, alignment, *at) : INVALID_VALUE; });
}

API cuMemAddressFree(u64 at, u64 bytes) {
    return call([&] { return driver.memory.unreserve(at, bytes); });
}

API cuMemCreate(u64* handle, u64 bytes, const Allocation* of, u64 flags) {
    return call([&] {
        const bool is = flags == 0 && of->type == 1 && is_on_device(of->location, of->id);
        return is ? driver.memory.create(bytes, *handle) : INVALID_VALUE;
    });
}

API cuMemRelease(u64 handle) {
    return call([&] { return driver.memory.release(handle); });
}

API cuMemMap(u64 at, u64 bytes, u64 offset, u64 handle, u64 flags) {
    return call([&] { return offset == 0 && flags == 0 ? driver.memory.map(at, bytes, handle) : INVALID_VALUE; });
}

API cuMemUnmap(u64 at, u64 bytes) {
    return call([&] { return driver.memory.unmap(at, bytes); });
}

API cuMemSetAccess(u64 at, u64 bytes, const Access* to, u64 count) {
    return call([&] {
        if (count != 1 || !is_on_device(to->location, to->id) || (to->flags != 0 && to->flags != 3)) {
            return INVALID_VALUE;
        }
        return driver.memory.set_access(at, bytes, to->flags == 3);
    });
}

// Pinned memory is read in its turn, so that a caller who changes it early is found; other memory is staged at the call.
API cuMemcpyHtoDAsync_v2(u64 to, const void* from, u64 bytes, void* handle) {
    return call_on(handle, [&](Stream& stream) {
        if (stream.capture != nullptr && !driver.memory.is_pinned(from, bytes)) {
            return NOT_SUPPORTED;
        }
        if (driver.memory.is_pinned(from, bytes)) {
            return add(stream, to, bytes, [=] { memcpy(reinterpret_cast<void*>(to), from, bytes); });
        }
        const u8* first = static_cast<const u8*>(from);
        const auto staged = std::make_shared<std::vector<u8>>(first, first + bytes);
        return add(stream, to, bytes, [=] { memcpy(reinterpret_cast<void*>(to), staged->data(), bytes); });
    });
}

// Returns at once for pinned memory only.
API cuMemcpyDtoHAsync_v2(void* to, u64 from, u64 bytes, void* handle) {
    return call_on(handle, [&](Stream& stream) {
        if (stream.capture != nullptr && !driver.memory.is_pinned(to, bytes)) {
            stream.capture->invalid = true;
            return CAPTURE_UNSUPPORTED;
        }
        const Status status = add(stream, from, bytes, [=] { memcpy(to, reinterpret_cast<const void*>(from), bytes); });
        if (status == SUCCESS && !driver.memory.is_pinned(to, bytes)) {
            driver.streams.run(stream);
            return driver.streams.fault();
        }
        return status;
    });
}

API cuMemcpyDtoDAsync_v2(u64 to, u64 from, u64 bytes, void* handle) {
    return call_on(handle, [&](Stream& stream) {
        if (!is_device_memory(from, bytes)) {
            return INVALID_VALUE;
        }
        const auto copy = [=] { memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes); };
        return add(stream, to, bytes, copy);
    });
}

API cuMemsetD8Async(u64 to, u8 value, u64 count, void* handle) {
    return call_on(handle, [&](Stream& stream) {
        return add(stream, to, count, [=] { memset(reinterpret_cast<void*>(to), value, count); });
    });
}

API cuMemsetD32Async(u64 to, u32 value, u64 count, void* handle) {
    return call_on(handle, [&](Stream& stream) {
        if (to % 4 != 0 || count > TOTAL_MEMORY) {
            return INVALID_VALUE;
        }
        return add(stream, to, 4 * count, [=] { std::fill_n(reinterpret_cast<u32*>(to), count, value); });
    });
}

// Streams and events.

API cuStreamCreate(void** handle, u32 flags) {
    return call_in_context([&] { return flags > 1 ? INVALID_VALUE : (*handle = driver.streams.make(), SUCCESS); });
}

// A question about a stream that captures has no answer, and ends its capture.
template <class F>
static Status call_of_stream(void* handle, F f, const char* name = __builtin_FUNCTION()) {
    return call_on(handle, [&](Stream& stream) {
        if (stream.capture != nullptr) {
            stream.capture->invalid = true;
            return CAPTURE_UNSUPPORTED;
        }
        return f(stream);
    }, name);
}

API cuStreamDestroy_v2(void* handle) {
    return call_of_stream(handle, [&](Stream& stream) {
        if (handle == nullptr) {
            return INVALID_HANDLE;
        }
        driver.streams.end(&stream);
        return driver.streams.fault();
    });
}

API cuStreamSynchronize(void* handle) {
    return call_of_stream(handle, [&](Stream& stream) { return driver.streams.run(stream), driver.streams.fault(); });
}

// Each question lets one task be done: who asks again and again sees the end.
API cuStreamQuery(void* handle) {
    return call_of_stream(handle, [&](Stream& stream) {
        if (stream.tasks.empty()) {
            return SUCCESS;
        }
        driver.streams.step(stream);
        return driver.streams.fault() != SUCCESS ? driver.streams.fault() : NOT_READY;
    });
}

template <class F>
static Status call_of_event(void* handle, F f, const char* name = __builtin_FUNCTION()) {
    return call_in_context([&] {
        Event* event = static_cast<Event*>(handle);
        return driver.streams.has(event) ? f(*event) : INVALID_HANDLE;
    }, name);
}

API cuStreamWaitEvent(void* handle, void* event, u32) {
    return call_on(handle, [&](Stream& stream) {
        if (!driver.streams.has(static_cast<Event*>(event))) {
            return INVALID_HANDLE;
        }
        // Captures across streams: nothing here needs them.
        if (stream.capture != nullptr) {
            return NOT_SUPPORTED;
        }
        driver.streams.wait(stream, *static_cast<Event*>(event));
        return driver.streams.fault();
    });
}

API cuEventCreate(void** handle, u32 flags) {
    constexpr u32 DISABLE_TIMING = 2;
    return call_in_context([&] { return *handle = driver.streams.make_event((flags & DISABLE_TIMING) == 0), SUCCESS; });
}

API cuEventDestroy_v2(void* handle) {
    return call_of_event(handle, [&](Event& event) { return driver.streams.end(&event), SUCCESS; });
}

API cuEventRecord(void* event, void* handle) {
    return call_on(handle, [&](Stream& stream) {
        if (!driver.streams.has(static_cast<Event*>(event))) {
            return INVALID_HANDLE;
        }
        driver.streams.record(stream, *static_cast<Event*>(event));
        return driver.streams.fault();
    });
}

API cuEventQuery(void* handle) {
    return call_of_event(handle, [&](Event& event) {
        if (event.captured) {
            return CAPTURED_EVENT;
        }
        if (event.mark == nullptr || event.mark->done) {
            return SUCCESS;
        }
        driver.streams.step(*event.mark->stream);
        return driver.streams.fault() != SUCCESS ? driver.streams.fault() : NOT_READY;
    });
}

API cuEventSynchronize(void* handle) {
    return call_of_event(handle, [&](Event& event) {
        if (event.captured) {
            return CAPTURED_EVENT;
        }
        if (event.mark != nullptr) {
            driver.streams.until(*event.mark);
        }
        return driver.streams.fault();
    });
}

API cuEventElapsedTime_v2(f32* milliseconds, void* from, void* to) {
    return call_of_event(from, [&](Event& first) {
        Event& last = *static_cast<Event*>(to);
        if (!driver.streams.has(&last) || !first.timed || !last.timed || first.mark == nullptr || last.mark == nullptr) {
            return INVALID_HANDLE;
        }
        if (first.captured || last.captured) {
            return CAPTURED_EVENT;
        }
        if (!first.mark->done || !last.mark->done) {
            return NOT_READY;
        }
        *milliseconds = std::chrono::duration<f32, std::milli>(last.mark->when - first.mark->when).count();
        return SUCCESS;
    });
}

API cuEventElapsedTime(f32* milliseconds, void* from, void* to) { return cuEventElapsedTime_v2(milliseconds, from, to); }

// Graphs: a stream's work, captured and launched as one.

API cuStreamBeginCapture_v2(void* handle, u32 mode) {
    return call_on(handle, [&](Stream& stream) { return driver.streams.begin_capture(stream, mode); });
}

API cuStreamEndCapture(void* handle, void** graph) {
    return call_on(handle, [&](Stream& stream) {
        Graph* made = nullptr;
        const Status status = driver.streams.end_capture(stream, made);
        return *graph = made, status;
    });
}

template <class F>
static Status call_of_graph(void* handle, F f, const char* name = __builtin_FUNCTION()) {
    return call_in_context([&] {
        Graph* graph = static_cast<Graph*>(handle);
        return driver.streams.has(graph) ? f(*graph) : INVALID_HANDLE;
    }, name);
}

API cuGraphInstantiateWithFlags(void** made, void* handle, u64 flags) {
    return call_of_graph(handle, [&](Graph& graph) {
        return flags == 0 ? (*made = driver.streams.instantiate(graph), SUCCESS) : NOT_SUPPORTED;
    });
}

API cuGraphLaunch(void* handle, void* stream_handle) {
    return call_of_graph(handle, [&](Graph& graph) {
        Stream* stream = driver.streams.find(static_cast<Stream*>(stream_handle));
        if (stream == nullptr) {
            return INVALID_HANDLE;
        }
        // A graph in a graph: nothing here needs one.
        if (stream->capture != nullptr) {
            return NOT_SUPPORTED;
        }
        driver.streams.launch(*stream, graph);
        return driver.streams.fault();
    });
}

API cuGraphExecDestroy(void* handle) {
    return call_of_graph(handle, [&](Graph& graph) { return driver.streams.end(&graph), SUCCESS; });
}

API cuGraphDestroy(void* handle) {
    return call_of_graph(handle, [&](Graph& graph) { return driver.streams.end(&graph), SUCCESS; });
}

// No driver has this: how often a function was called, for tests.
API cuModelCalls(const char* name, u64* count) {
    const std::lock_guard<std::mutex> lock(model::mutex);
    return *count = driver.calls[name], SUCCESS;
}

// Modules and launches.

API cuModuleLoadData(void** handle, const void* image) {
    return call_that_waits([&] {
        if (image == nullptr) {
            return INVALID_VALUE;
        }
        return *handle = *driver.modules.insert(new Module).first, SUCCESS;
    });
}

API cuModuleUnload(void* handle) {
    return call_in_context([&] {
        Module* module = static_cast<Module*>(handle);
        if (driver.modules.erase(module) == 0) {
            return INVALID_HANDLE;
        }
        for (auto& [row, function] : module->functions) {
            driver.functions.erase(&function);
        }
        delete module;
        return SUCCESS;
    });
}

API cuModuleGetFunction(void** function, void* handle, const char* name) {
    return call_in_context([&] {
        Module* module = static_cast<Module*>(handle);
        if (driver.modules.count(module) == 0) {
            return INVALID_HANDLE;
        }
        for (u32 i = 0; i < ROW_COUNT; i++) {
            const Row& row = *ROWS[i];
            if (strcmp(row.name, name) == 0 && (driver.is_hopper || !row.hopper)) {
                Function& found = module->functions.try_emplace(&row, Function{&row}).first->second;
                driver.functions.insert(&found);
                *function = &found;
                return SUCCESS;
            }
        }
        return NOT_FOUND;
    });
}

template <class F>
static Status call_of_function(void* handle, F f, const char* name = __builtin_FUNCTION()) {
    return call_in_context([&] {
        Function* function = static_cast<Function*>(handle);
        return driver.functions.count(function) != 0 ? f(*function) : INVALID_HANDLE;
    }, name);
}

// CUfunction_attribute of cuda.h.
constexpr u32 MAX_THREADS = 0, DYNAMIC_SHARED = 8, CARVEOUT = 9;

API cuFuncSetAttribute(void* handle, u32 number, i32 value) {
    return call_of_function(handle, [&](Function& function) {
        if (number == DYNAMIC_SHARED && value >= 0 && u32(value) <= driver.shared_limit()) {
            function.shared_limit = u32(value);
            return SUCCESS;
        }
        return number == CARVEOUT ? SUCCESS : INVALID_VALUE;
    });
}

API cuFuncGetAttribute(i32* value, u32 number, void* handle) {
    return call_of_function(handle, [&](Function& function) {
        *value = number == MAX_THREADS ? i32(function.row->threads) : number == DYNAMIC_SHARED ? i32(function.shared_limit) : 0;
        return SUCCESS;
    });
}

API cuLaunchKernel(void* function_handle, u32 x, u32 y, u32 z, u32 threads, u32 block_y, u32 block_z, u32 shared,
                   void* handle, void** parameters, void** extra) {
    return call_on(handle, [&](Stream& stream) {
        const auto function = driver.functions.find(static_cast<Function*>(function_handle));
        if (function == driver.functions.end()) {
            return INVALID_HANDLE;
        }
        const Row& row = *(*function)->row;
        const bool is = x > 0 && x <= 0x7fffffff && y > 0 && z > 0 && threads > 0 && block_y > 0 && block_z > 0;
        if (!is || parameters == nullptr || shared > (*function)->shared_limit) {
            return INVALID_VALUE;
        }
        if (x % row.cluster != 0) {
            return INVALID_CLUSTER_SIZE;
        }
        if (threads > row.threads) {
            return LAUNCH_OUT_OF_RESOURCES;
        }
        // Kernels here have blocks in a line, of whole warps.
        if (y * z * block_y * block_z != 1 || threads % LANES != 0 || extra != nullptr) {
            return NOT_SUPPORTED;
        }
        // As aligned as a parameter of a kernel may ask, and copied now, as the driver does.
        const std::shared_ptr<void> args(aligned_alloc(128, (row.args_bytes + 127) / 128 * 128), free);
        memcpy(args.get(), parameters[0], row.args_bytes);
        const Config config{driver.streams.early ? Order::Early : Order::Late, x, threads, shared, 0};
        const char* idle = getenv("LEASEHOLD_MODEL_IDLE");
        if (idle == nullptr || strncmp(row.name, idle, strlen(idle)) != 0) {
            driver.streams.add(stream, [=, &row] { return run(row, args.get(), config); });
        }
        return driver.streams.fault();
    });
}

API cuTensorMapEncodeTiled(TensorMap* out, u32 type, u32 rank, void* at, const u64* sizes, const u64* strides,
                           const u32* box, const u32* element_strides, u32 interleave, u32 swizzle, u32 promotion, u32 fill) {
    return call([&] {
        const u64 address = reinterpret_cast<u64>(at);
        return encode(out, {type, rank, address, sizes, strides, box, element_strides, interleave, swizzle, promotion, fill});
    });
}
