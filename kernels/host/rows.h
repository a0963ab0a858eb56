// The rows that a program or a driver of the model was built with: the table is generated (`tests/compiler`).
#pragma once

#include "host/launch.h"

namespace model {

struct Row {
    // Name of the entry point.
    const char* name;
    uint32_t args_bytes;
    // Threads that a block has at most.
    uint32_t threads;
    // Whether only Hopper runs it.
    bool hopper;
    // Blocks of a cluster.
    uint32_t cluster;
    uint32_t (*run)(const void* args, const Config& config, char* text, uint32_t room);
};

extern const Row* const ROWS[];
extern const uint32_t ROW_COUNT;

}  // namespace model
