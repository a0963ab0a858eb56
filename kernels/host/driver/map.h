// Tensor maps as the driver takes them (CUDA driver API, cuTensorMapEncodeTiled), in the model's own form: the arguments
// as they are. What the driver refuses is refused; what it takes and the model's copies do not do yet is NOT_SUPPORTED.
#pragma once

#include "host/driver/status.h"
#include "host/ptx/tma.h"

namespace model {

// The arguments, with the numbers of cuda.h.
struct TiledMap {
    u32 type, rank;
    u64 at;
    const u64 *sizes, *strides;
    const u32 *box, *element_strides;
    u32 interleave, swizzle, promotion, fill;
};

// CUtensorMapSwizzle; those between are of 32 and 64 bytes.
constexpr u32 NO_SWIZZLE = 0, SWIZZLE_128B = 3;
constexpr u32 SMALLEST_STRIDE = 16;

// Bytes of an element of CUtensorMapDataType; 0 where there is none.
inline u32 element_bytes(u32 type) {
    constexpr u32 BYTES[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
    return type < sizeof BYTES / sizeof *BYTES ? BYTES[type] : 0;
}

inline bool is_valid(const TiledMap& map) {
    const u32 element = element_bytes(map.type);
    if (element == 0 || map.rank == 0 || map.rank > 5 || map.at % SMALLEST_STRIDE != 0 || map.interleave > 2 ||
        map.swizzle > SWIZZLE_128B || map.promotion > 3 || map.fill > 1) {
        return false;
    }
    for (u32 axis = 0; axis < map.rank; axis++) {
        if (map.sizes[axis] == 0 || map.sizes[axis] > 1ull << 32 || map.box[axis] == 0 || map.box[axis] > 256 ||
            map.element_strides[axis] == 0 || map.element_strides[axis] > 8) {
            return false;
        }
    }
    for (u32 axis = 1; axis < map.rank; axis++) {
        const u64 stride = map.strides[axis - 1];
        if (stride % SMALLEST_STRIDE != 0 || stride >= 1ull << 40) {
            return false;
        }
    }
    const bool is_float = map.type >= 6;
    if (map.fill == 1 && !is_float) {
        return false;
    }
    const u32 inner = map.box[0] * element;
    return map.interleave != 0 || (inner % 16 == 0 && (map.swizzle == NO_SWIZZLE || inner <= 16u << map.swizzle));
}

inline Status encode(TensorMap* out, const TiledMap& map) {
    if (reinterpret_cast<u64>(out) % 64 != 0 || !is_valid(map)) {
        return INVALID_VALUE;
    }
    bool is_dense = map.interleave == 0 && map.fill == 0;
    for (u32 axis = 0; axis < map.rank; axis++) {
        is_dense &= map.element_strides[axis] == 1;
    }
    // Rows that are shorter than their swizzle lie in a way that nothing here needs.
    if (!is_dense || (map.swizzle != NO_SWIZZLE && map.box[0] * element_bytes(map.type) != 16u << map.swizzle)) {
        return NOT_SUPPORTED;
    }
    *out = {};
    out->narrower = SWIZZLE_128B - map.swizzle;
    out->at = map.at;
    out->element = element_bytes(map.type);
    for (u32 axis = 0; axis < 5; axis++) {
        out->sizes[axis] = axis < map.rank ? map.sizes[axis] : 1;
        out->box[axis] = axis < map.rank ? map.box[axis] : 1;
    }
    for (u32 axis = 1; axis < map.rank; axis++) {
        out->strides[axis - 1] = map.strides[axis - 1];
    }
    return SUCCESS;
}

}  // namespace model
