// The program around rows of the table: reads a case, runs it on the model, and writes back what became of memory and
// what was found wrong. `tests/model` starts it.
//
// A case: row, sizes of the arguments and number of buffers, configuration, arguments, then each buffer as its length and
// bytes. An address in the arguments is a buffer's number from 1 in the high half and an offset in the low one; where
// they stand is told by a list of offsets. Each buffer is a heap block of its own, so that the sanitizer sees its end.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "cuda/types.h"
#include "host/layouts.h"
#include "host/rows.h"
#include "host/swizzles.h"

namespace model {

struct CaseHead {
    u32 row, args_bytes, addresses, buffers;
    Config config;
};

template <class T>
bool get(FILE* file, T* to, size_t count = 1) {
    return fread(to, sizeof(T), count, file) == count;
}

struct Buffer {
    u64 bytes;
    u8* at;
};

inline int run_case(FILE* in, FILE* out) {
    CaseHead head;
    if (!get(in, &head) || head.row >= ROW_COUNT) {
        return 2;
    }
    // As aligned as a parameter of a kernel may ask.
    void* args_at = nullptr;
    if (posix_memalign(&args_at, 128, head.args_bytes) != 0) {
        return 2;
    }
    const std::unique_ptr<u8, decltype(&free)> args(static_cast<u8*>(args_at), free);
    std::vector<u32> places(head.addresses);
    if (!get(in, args.get(), head.args_bytes) || !get(in, places.data(), places.size())) {
        return 2;
    }
    std::vector<Buffer> buffers(head.buffers);
    for (Buffer& buffer : buffers) {
        if (!get(in, &buffer.bytes)) {
            return 2;
        }
        void* at = nullptr;
        // As a device allocates.
        if (posix_memalign(&at, 256, buffer.bytes) != 0 || !get(in, static_cast<u8*>(at), buffer.bytes)) {
            return 2;
        }
        buffer.at = static_cast<u8*>(at);
    }
    for (const u32 place : places) {
        u64 at;
        memcpy(&at, args.get() + place, sizeof at);
        if (at != 0) {
            at = reinterpret_cast<u64>(buffers[(at >> 32) - 1].at) + (at & 0xffffffff);
            memcpy(args.get() + place, &at, sizeof at);
        }
    }
    std::vector<char> text(1 << 14);
    const u32 found = ROWS[head.row]->run(args.get(), head.config, text.data(), static_cast<u32>(text.size()));
    const u64 length = strlen(text.data());
    fwrite(&found, sizeof found, 1, out);
    fwrite(&length, sizeof length, 1, out);
    fwrite(text.data(), 1, length, out);
    for (const Buffer& buffer : buffers) {
        fwrite(buffer.at, 1, buffer.bytes, out);
        free(buffer.at);
    }
    return fflush(out) == 0 ? 0 : 2;
}

// Cases on standard input, one after the other, answers on standard output.
inline int run_cases() {
    for (int c = fgetc(stdin); c != EOF; c = fgetc(stdin)) {
        ungetc(c, stdin);
        if (const int status = run_case(stdin, stdout); status != 0) {
            return status;
        }
    }
    return 0;
}

}  // namespace model
