// cuBLASLt as far as the CUDA backend calls it, on the memory of the host model: naive products, and a refusal of whatever
// does not fit together. It has no algorithm for K = 13. Every product is a line of the file that a variable names, and
// so is every algorithm that it is asked for.
// `cuda_vendor.rs` builds it.

#include <dlfcn.h>

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

enum : int { SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum : int { R_32F = 0, R_16F = 2, R_16BF = 14, COMPUTE_32F = 68, COMPUTE_32F_FAST_TF32 = 77 };
constexpr uint64_t NEEDED = 1 << 20;
constexpr int MISSING_K = 13;

enum class Kind : uint32_t { Handle = 0x11, Desc, Layout, Preference };

struct Object {
    Kind kind;
};

struct Desc : Object {
    int compute;
    int turned[2] = {-1, -1};
};

struct Layout : Object {
    int type;
    uint64_t rows, columns;
    int64_t leading;
    int batch = 0;
    int64_t step = -1;

    bool is_whole() const { return rows > 0 && columns > 0 && leading >= int64_t(rows) && batch > 0 && step >= 0; }
};

struct Preference : Object {
    uint64_t workspace = 0;
    uint32_t alignment[4] = {};
};

struct Found {
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

template <class T>
T* as(void* object, Kind kind) {
    return object != nullptr && static_cast<Object*>(object)->kind == kind ? static_cast<T*>(object) : nullptr;
}

template <class T>
int end(void* object, Kind kind) {
    T* it = as<T>(object, kind);
    if (it == nullptr) {
        abort();
    }
    delete it;
    return SUCCESS;
}

template <class T>
int take(T& to, const void* from, size_t bytes) {
    if (bytes != sizeof(T)) {
        return INVALID_VALUE;
    }
    memcpy(&to, from, bytes);
    return SUCCESS;
}

uint64_t bytes_of(int type) { return type == R_32F ? 4 : 2; }

// A product as its descriptors say it, if they fit together.
struct Problem {
    uint64_t m, n, k;
    const Desc* desc;
    const Layout *a, *b, *c, *d;

    bool is_whole() const {
        if (desc == nullptr || a == nullptr || b == nullptr || c == nullptr || d == nullptr) {
            return false;
        }
        const bool is_full = a->is_whole() && b->is_whole() && c->is_whole() && d->is_whole();
        const bool are_alike = a->batch == d->batch && b->batch == d->batch && c->batch == d->batch;
        const bool are_typed = a->type == b->type && c->type == d->type && (d->type == a->type || d->type == R_32F);
        const bool is_computed = desc->compute == COMPUTE_32F || (desc->compute == COMPUTE_32F_FAST_TF32 && a->type == R_32F);
        const bool is_turned = desc->turned[0] >= 0 && desc->turned[0] <= 1 && desc->turned[1] >= 0 && desc->turned[1] <= 1;
        return is_full && are_alike && are_typed && is_computed && is_turned;
    }

    bool fits() {
        const bool turned_a = desc->turned[0] == 1, turned_b = desc->turned[1] == 1;
        m = turned_a ? a->columns : a->rows;
        k = turned_a ? a->rows : a->columns;
        n = turned_b ? b->rows : b->columns;
        return (turned_b ? b->columns : b->rows) == k && d->rows == m && d->columns == n && c->rows == m && c->columns == n &&
               (d->batch == 1 || d->step > 0);
    }
};

float load(int type, uint64_t at, uint64_t i) {
    if (type == R_32F) {
        return reinterpret_cast<const float*>(at)[i];
    }
    const uint16_t bits = reinterpret_cast<const uint16_t*>(at)[i];
    return type == R_16F ? float(std::bit_cast<_Float16>(bits)) : std::bit_cast<float>(uint32_t(bits) << 16);
}

void store(int type, uint64_t at, uint64_t i, float x) {
    if (type == R_32F) {
        reinterpret_cast<float*>(at)[i] = x;
    } else if (type == R_16F) {
        reinterpret_cast<_Float16*>(at)[i] = static_cast<_Float16>(x);
    } else {
        const uint32_t bits = std::bit_cast<uint32_t>(x);
        reinterpret_cast<uint16_t*>(at)[i] = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

void tell(const char* what, const Problem& p) {
    const char* name = getenv("LEASEHOLD_TEST_CUBLASLT");
    FILE* file = name == nullptr ? nullptr : fopen(name, "a");
    if (file == nullptr) {
        return;
    }
    fprintf(file, "%s %lu x %lu x %lu, %d, compute %d\n", what, p.m, p.n, p.k, p.d->batch, p.desc->compute);
    fclose(file);
}

}  // namespace

API cublasLtCreate(void** made) { return *made = new Object{Kind::Handle}, SUCCESS; }
API cublasLtDestroy(void* it) { return end<Object>(it, Kind::Handle); }

API cublasLtMatmulDescCreate(void** made, int compute, int scale) {
    return scale != R_32F ? INVALID_VALUE : (*made = new Desc{{Kind::Desc}, compute}, SUCCESS);
}
API cublasLtMatmulDescDestroy(void* it) { return end<Desc>(it, Kind::Desc); }
API cublasLtMatmulDescSetAttribute(void* it, int attribute, const void* value, size_t bytes) {
    Desc* desc = as<Desc>(it, Kind::Desc);
    return desc == nullptr || attribute < 3 || attribute > 4 ? INVALID_VALUE : take(desc->turned[attribute - 3], value, bytes);
}

API cublasLtMatrixLayoutCreate(void** made, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    return *made = new Layout{{Kind::Layout}, type, rows, columns, leading}, SUCCESS;
}
API cublasLtMatrixLayoutDestroy(void* it) { return end<Layout>(it, Kind::Layout); }
API cublasLtMatrixLayoutSetAttribute(void* it, int attribute, const void* value, size_t bytes) {
    Layout* layout = as<Layout>(it, Kind::Layout);
    if (layout == nullptr) {
        return INVALID_VALUE;
    }
    switch (attribute) {
        case 5: return take(layout->batch, value, bytes);
        case 6: return take(layout->step, value, bytes);
        default: return INVALID_VALUE;
    }
}

API cublasLtMatmulPreferenceCreate(void** made) { return *made = new Preference{{Kind::Preference}}, SUCCESS; }
API cublasLtMatmulPreferenceDestroy(void* it) { return end<Preference>(it, Kind::Preference); }
API cublasLtMatmulPreferenceSetAttribute(void* it, int attribute, const void* value, size_t bytes) {
    Preference* preference = as<Preference>(it, Kind::Preference);
    if (preference == nullptr) {
        return INVALID_VALUE;
    }
    if (attribute == 1) {
        return take(preference->workspace, value, bytes);
    }
    return attribute < 5 || attribute > 8 ? INVALID_VALUE : take(preference->alignment[attribute - 5], value, bytes);
}

API cublasLtMatmulAlgoGetHeuristic(void* handle, void* desc, void* a, void* b, void* c, void* d, void* preference, int most,
                                   Found* found, int* count) {
    const Preference* prefer = as<Preference>(preference, Kind::Preference);
    Problem p{0, 0, 0, as<Desc>(desc, Kind::Desc), as<Layout>(a, Kind::Layout), as<Layout>(b, Kind::Layout),
              as<Layout>(c, Kind::Layout), as<Layout>(d, Kind::Layout)};
    if (as<Object>(handle, Kind::Handle) == nullptr || prefer == nullptr || most != 1 || !p.is_whole() || !p.fits()) {
        return INVALID_VALUE;
    }
    tell("asked", p);
    if (p.k == MISSING_K || prefer->workspace < NEEDED) {
        return NOT_SUPPORTED;
    }
    memset(found, 0, sizeof(*found));
    // The algorithm is for this problem and these alignments alone.
    const uint64_t* alignments = reinterpret_cast<const uint64_t*>(prefer->alignment);
    const uint64_t words[8] = {0x4c74, p.m, p.n, p.k, uint64_t(p.d->batch), alignments[0], alignments[1], NEEDED};
    memcpy(found->algorithm, words, sizeof words);
    found->workspace = NEEDED;
    *count = 1;
    return SUCCESS;
}

API cublasLtMatmul(void* handle, void* desc, const float* alpha, uint64_t a, void* of_a, uint64_t b, void* of_b,
                   const float* beta, uint64_t c, void* of_c, uint64_t d, void* of_d, const uint64_t* algorithm,
                   uint64_t workspace, size_t room, void* stream) {
    Problem p{0, 0, 0, as<Desc>(desc, Kind::Desc), as<Layout>(of_a, Kind::Layout), as<Layout>(of_b, Kind::Layout),
              as<Layout>(of_c, Kind::Layout), as<Layout>(of_d, Kind::Layout)};
    if (as<Object>(handle, Kind::Handle) == nullptr || !p.is_whole() || !p.fits()) {
        return INVALID_VALUE;
    }
    uint32_t alignment[4];
    memcpy(alignment, algorithm + 5, sizeof alignment);
    const uint64_t is_for[5] = {0x4c74, p.m, p.n, p.k, uint64_t(p.d->batch)}, at[4] = {a, b, c, d};
    bool is_good = memcmp(is_for, algorithm, sizeof is_for) == 0 && room >= algorithm[7] && workspace % 256 == 0;
    for (int i = 0; i < 4; i++) {
        // No more than is true, and no less: an algorithm would be passed over.
        const bool is_most = alignment[i] == 256 || at[i] % (2 * alignment[i]) != 0;
        is_good = is_good && alignment[i] >= bytes_of(p.a->type) && at[i] % alignment[i] == 0 && is_most;
    }
    if (!is_good) {
        return INVALID_VALUE;
    }
    // In its turn: everything before it in the stream is done first.
    void* driver = dlopen("libcuda.so.1", RTLD_NOW);
    const auto wait = driver == nullptr ? nullptr : reinterpret_cast<unsigned (*)(void*)>(dlsym(driver, "cuStreamSynchronize"));
    if (wait == nullptr || wait(stream) != 0) {
        return EXECUTION_FAILED;
    }
    memset(reinterpret_cast<void*>(workspace), 0xff, NEEDED);
    const bool turned_a = p.desc->turned[0] == 1, turned_b = p.desc->turned[1] == 1;
    for (int entry = 0; entry < p.d->batch; entry++) {
        for (uint64_t j = 0; j < p.n; j++) {
            for (uint64_t i = 0; i < p.m; i++) {
                float sum = 0;
                for (uint64_t l = 0; l < p.k; l++) {
                    const uint64_t in_a = turned_a ? i * p.a->leading + l : l * p.a->leading + i;
                    const uint64_t in_b = turned_b ? l * p.b->leading + j : j * p.b->leading + l;
                    sum += load(p.a->type, a, entry * p.a->step + in_a) * load(p.b->type, b, entry * p.b->step + in_b);
                }
                const uint64_t in_d = entry * p.d->step + j * p.d->leading + i;
                const uint64_t in_c = entry * p.c->step + j * p.c->leading + i;
                const float kept = *beta == 0 ? 0 : *beta * load(p.c->type, c, in_c);
                store(p.d->type, d, in_d, *alpha * sum + kept);
            }
        }
    }
    tell("did", p);
    return SUCCESS;
}
