// Products of warpgroups on the model: posted by each of 128 threads, run in order when nothing else can go on or early by the
// launch's order, their sums out of the threads' reach until a wait covers them. `ptx/wgmma.h` posts, `launch.h` runs.
#pragma once

#include <cmath>
#include <cstring>

#include "host/world.h"

namespace model {

// What stands in for a thread's first sum, the next number for its second: NaNs that nothing computes. They signal, so that
// any arithmetic on one leaves another, and one that is moved is not its place's.
constexpr uint32_t SUM_POISON = 0x7fa5a500;

// A sum and 32 products of floats of 8 bits, as matrix units of Hopper were found to add (DeepSeek-V3, arXiv 2412.19437,
// section 3.5.2): all are aligned to the largest of them, and of each no more is kept than the largest's upper 14 bits cover.
// Not calibrated yet: the probe's `byte_rounding` asks.
inline float sum_of_bytes(float sum, const float* left, const float* right) {
    const auto product = [=](int k) { return static_cast<double>(left[k]) * right[k]; };
    double most = std::fabs(sum), plain = sum;
    for (int k = 0; k < 32; k++) {
        most = std::fmax(most, std::fabs(product(k)));
        plain += product(k);
    }
    if (most == 0 || !std::isfinite(plain)) {
        return static_cast<float>(plain);
    }
    const double unit = std::ldexp(1.0, std::ilogb(most) - 13);
    double kept = std::trunc(sum / unit);
    for (int k = 0; k < 32; k++) {
        kept += std::trunc(product(k) / unit);
    }
    return static_cast<float>(kept * unit);
}

// Runs products up to a number of them.
inline void run_products(Warpgroup& group, uint32_t to) {
    while (group.done < to && group.done < group.all.size() && group.all[group.done]->posted == 128) {
        Product& product = *group.all[group.done];
        product.run();
        for (const Span& span : product.reads) {
            world->shared->end_read(span.address, span.bytes, span.first_warp, span.warps);
        }
        group.done++;
    }
}

// A thread's sums go to the model for its next product, and poison stays behind. Which of those it gave they are.
inline size_t take_sums(Warpgroup& group, uint32_t thread, float* sums, uint32_t count, const Where& where) {
    std::vector<Sums>& given = group.sums[thread];
    const uint32_t last = group.posted[thread] + 1;
    for (size_t i = 0; i < given.size(); i++) {
        if (given[i].owner == nullptr) {
            continue;
        }
        if (given[i].owner == sums && given[i].values.size() == count) {
            given[i].last = last;
            return i;
        }
        if (given[i].owner < sums + count && sums < given[i].owner + given[i].values.size()) {
            world->report.error("wgmma-sums", where, "thread %u gives a part of sums that products add to", thread);
        }
    }
    if (!world->thread().fenced) {
        world->report.error("wgmma-unfenced", where, "thread %u changed its sums and did not fence", thread);
    }
    given.push_back({sums, {sums, sums + count}, last});
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t poison = SUM_POISON + i;
        memcpy(&sums[i], &poison, sizeof poison);
    }
    return given.size() - 1;
}

// A thread's sums that only the first `done` products add to come back.
inline void give_sums(Warpgroup& group, uint32_t thread, uint32_t done, const Where& where) {
    for (Sums& given : group.sums[thread]) {
        if (given.owner == nullptr || given.last > done) {
            continue;
        }
        for (size_t i = 0; i < given.values.size(); i++) {
            uint32_t bits;
            memcpy(&bits, &given.owner[i], sizeof bits);
            if (bits != SUM_POISON + i) {
                world->report.error("wgmma-sums", where, "thread %u touched sum %zu while a product ran", thread, i);
            }
            given.owner[i] = given.values[i];
        }
        given.owner = nullptr;
        world->thread().fenced = false;
    }
    // Products that have not run name theirs by number.
    if (done == group.posted[thread]) {
        group.sums[thread].clear();
    }
}

}  // namespace model
