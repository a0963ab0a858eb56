// The model's side of `cuda/ptx/wgmma.h`: PTX ISA 8.7, section 9.7.15. Descriptors are read as `cuda/tile/descriptor.h`
// writes them.
#pragma once

#include "cuda/tile/fragment.h"
#include "cuda/types.h"
#include "host/products.h"
#include "host/ptx/tma.h"
#include "host/ptx/convert.h"
#include "host/world.h"

namespace model {

// Bytes of K of a product, whatever the type: section 9.7.15.2.
constexpr u32 K_BYTES = 32;

// The elements of both sides: bytes of one, and its value. Sums of a product start anew where it does not add.
//
// Each output's sum of 16-bit products is taken from left to right in f64 and rounded once to f32, which is what the manual
// bounds; sums of 8 bits keep fewer bits, as `sum_of_bytes` has it, and kernels promote every 128 of K, so that what is lost
// stays bounded. Neither is calibrated yet: the probe's `warpgroup_rounding` and `byte_rounding` ask.
struct Kind {
    u32 width;
    f32 (*left)(u16);
    f32 (*right)(u16);
    bool adds;

    u32 depth() const { return K_BYTES / width; }
};

// A matrix in shared memory of rows of 128 swizzled bytes.
struct Descriptor {
    u32 start, leading, stride, width;
    bool outer;

    Descriptor(u64 bits, bool is_outer, u32 of_element, const Where& where)
        : start(static_cast<u32>(bits & 0x3fff) << 4),
          leading(static_cast<u32>(bits >> 16 & 0x3fff) << 4),
          stride(static_cast<u32>(bits >> 32 & 0x3fff) << 4),
          width(of_element),
          outer(is_outer) {
        if (bits >> 62 != 1 || (start & ~127u) % 1024 != 0 || (bits >> 49 & 7) != 0) {
            world->report.error("descriptor", where, "0x%llx", bits);
        }
    }

    u32 address(u32 mn, u32 k) const {
        const u32 at = outer ? start + mn / 64 * leading + mn % 64 * 2 + k % 8 * 128 + k / 8 * stride
                             : start + mn / 8 * stride + mn % 8 * 128 + k * width;
        return swizzled(at, 0);
    }

    f32 element(u32 mn, u32 k, f32 (*widen)(u16), const Where& where) const {
        u16 bits = width == 1 ? 0xff : 0xffff;
        if (const u8* at = world->shared->at(address(mn, k), width, where)) {
            memcpy(&bits, at, width);
        }
        return widen(bits);
    }
};

// What the product reads of a side: chunks of 16 bytes, on behalf of one warp for each 16 rows of A, of all four for B.
inline void begin_reads(Product& product, const Descriptor& d, u32 rows, u32 first_warp, bool by_warp, const Where& where) {
    const Toucher who = world->toucher(where);
    const u32 outer_step = d.outer ? 8 : 1, k_step = d.outer ? 1 : 16 / d.width;
    for (u32 mn = 0; mn < rows; mn += outer_step) {
        for (u32 k = 0; k < K_BYTES / d.width; k += k_step) {
            const u32 address = d.address(mn, k) & ~15u;
            const Span span{address, 16, by_warp ? first_warp + mn / 16 : first_warp, by_warp ? 1u : 4u};
            world->shared->begin_read(address, 16, who, span.first_warp, span.warps);
            product.reads.push_back(span);
        }
    }
}

// A by a descriptor, or of each thread's registers.
struct Left {
    u64 descriptor;
    bool outer;
    const u32* fragment;
};

// The 64 rows of A.
inline std::vector<f32> left_of(const Product& product, const Left& left, const Kind& kind, const Where& where) {
    const u32 depth = kind.depth();
    std::vector<f32> out(64 * depth);
    if (product.fragments.empty()) {
        const Descriptor d(left.descriptor, left.outer, kind.width, where);
        for (u32 i = 0; i < 64 * depth; i++) {
            out[i] = d.element(i / depth, i % depth, kind.left, where);
        }
        return out;
    }
    for (u32 t = 0; t < 128; t++) {
        for (u32 i = 0; i < 8; i++) {
            const u32 row = t / 32 * 16 + fragment::a_row(t % 32, i), k = fragment::a_column(t % 32, i);
            out[row * 16 + k] = kind.left(static_cast<u16>(product.fragments[t][i / 2] >> 16 * (i % 2)));
        }
    }
    return out;
}

inline void run_product(u32 index, u32 number, const Left& left, u64 b, u32 n, bool b_outer, const Kind& kind,
                        const Where& where) {
    Warpgroup& group = world->warpgroups[index];
    const size_t of = group.all[number]->sums;
    const u32 depth = kind.depth();
    const std::vector<f32> lhs = left_of(*group.all[number], left, kind, where);
    const Descriptor of_b(b, b_outer, kind.width, where);
    std::vector<f32> rhs(n * depth);
    for (u32 j = 0; j < n * depth; j++) {
        rhs[j] = of_b.element(j / depth, j % depth, kind.right, where);
    }
    for (u32 t = 0; t < 128; t++) {
        for (u32 i = 0; i < n / 2; i++) {
            const f32* x = &lhs[fragment::wgmma_row(t, i) * depth];
            const f32* y = &rhs[fragment::wgmma_column(t, i) * depth];
            f32& sum = group.sums[t][of].values[i];
            const f32 before = kind.adds ? sum : 0.0f;
            if (kind.width == 1) {
                sum = sum_of_bytes(before, x, y);
                continue;
            }
            double whole = before;
            for (u32 k = 0; k < depth; k++) {
                whole += static_cast<double>(x[k]) * y[k];
            }
            sum = static_cast<f32>(whole);
        }
    }
}

inline void wgmma(f32* sums, u32 n, const Left& left, u64 b, bool b_outer, const Kind& kind, const Where& where) {
    World& w = *world;
    const u32 index = w.running / 128, thread = w.running % 128;
    Warpgroup& group = w.warpgroups[index];
    const size_t of = take_sums(group, thread, sums, n / 2, where);
    const u32 number = group.posted[thread]++;
    if (number == group.all.size()) {
        auto made = std::make_shared<Product>();
        made->a = left.descriptor;
        made->b = b;
        made->sums = of;
        made->fragments.resize(left.fragment == nullptr ? 0 : 128);
        made->run = [=] { run_product(index, number, left, b, n, b_outer, kind, where); };
        group.all.push_back(std::move(made));
    }
    Product& product = *group.all[number];
    const bool is_alike = product.fragments.empty() == (left.fragment == nullptr);
    if (product.a != left.descriptor || product.b != b || product.sums != of || !is_alike) {
        w.report.error("wgmma-divergent", where, "thread %u multiplies other matrices than its warpgroup", thread);
        return;
    }
    if (left.fragment != nullptr) {
        product.fragments[thread] = left.fragment;
    }
    if (++product.posted == 128) {
        if (left.fragment == nullptr) {
            begin_reads(product, Descriptor(left.descriptor, left.outer, kind.width, where), 64, index * 4, true, where);
        }
        begin_reads(product, Descriptor(b, b_outer, kind.width, where), n, index * 4, false, where);
        if (w.early_products()) {
            run_products(group, number + 1);
        }
    }
}

}  // namespace model

DEVICE void wgmma_fence() { model::world->thread().fenced = true; }

DEVICE void wgmma_commit() {
    model::World& w = *model::world;
    model::Warpgroup& group = w.warpgroups[w.running / 128];
    group.groups[w.running % 128].push_back(group.posted[w.running % 128]);
}

template <u32 PENDING>
DEVICE void wgmma_wait(const model::Where& where = model::Where::current()) {
    model::World& w = *model::world;
    model::Warpgroup& group = w.warpgroups[w.running / 128];
    const u32 thread = w.running % 128;
    const std::vector<u32>& groups = group.groups[thread];
    const u32 need = groups.size() > PENDING ? groups[groups.size() - 1 - PENDING] : 0;
    w.thread().products = need;
    model::wait_until(
        [](const model::Thread& t) { return model::world->warpgroups[model::world->running / 128].done >= t.products; },
        "products of its warpgroup", where);
    model::give_sums(group, thread, need, where);
}

#define MODEL_WGMMA(type, widen)                                                                                       \
    template <bool A_OUTER, bool B_OUTER, u32 SUMS>                                                                    \
    DEVICE void wgmma_##type(f32 (&d)[SUMS], u64 a, u64 b, const model::Where& where = model::Where::current()) {      \
        static_assert(SUMS == 40 || (SUMS >= 4 && SUMS <= 128 && (SUMS & (SUMS - 1)) == 0), "columns of 8 to 256");    \
        model::wgmma(d, 2 * SUMS, {a, A_OUTER, nullptr}, b, B_OUTER, {2, widen, widen, true}, where);                  \
    }                                                                                                                  \
    template <bool B_OUTER, u32 SUMS>                                                                                  \
    DEVICE void wgmma_##type##_from_registers(f32 (&d)[SUMS], const u32 (&a)[4], u64 b,                                \
                                              const model::Where& where = model::Where::current()) {                   \
        static_assert(SUMS == 32 || SUMS == 64 || SUMS == 128, "columns of 64, 128 or 256");                           \
        model::wgmma(d, 2 * SUMS, {0, false, a}, b, B_OUTER, {2, widen, widen, true}, where);                          \
    }
MODEL_WGMMA(bf16, [](u16 x) { return f32_of_bits(static_cast<u32>(x) << 16); })
MODEL_WGMMA(f16, f32_of_f16)
#undef MODEL_WGMMA

#define MODEL_WGMMA_BYTES(left, right)                                                                                 \
    template <bool ADDS, u32 SUMS>                                                                                     \
    DEVICE void wgmma_##left##_##right(f32 (&d)[SUMS], u64 a, u64 b,                                                   \
                                       const model::Where& where = model::Where::current()) {                          \
        static_assert(SUMS == 32 || SUMS == 64, "columns of 64 or 128");                                               \
        const model::Kind kind{1, model::f32_of_##left, model::f32_of_##right, ADDS};                                  \
        model::wgmma(d, 2 * SUMS, {a, false, nullptr}, b, false, kind, where);                                         \
    }
MODEL_WGMMA_BYTES(e4m3, e4m3)
MODEL_WGMMA_BYTES(e4m3, e5m2)
MODEL_WGMMA_BYTES(e5m2, e4m3)
MODEL_WGMMA_BYTES(e5m2, e5m2)
#undef MODEL_WGMMA_BYTES
