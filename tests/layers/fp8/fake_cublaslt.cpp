// A cuBLASLt for the host, as strict as the documentation of the real one: for tests with no card.
//
// It keeps what it is told (attributes, layouts, preference), refuses what cuBLASLt refuses, does
// the product from that alone, column by column, and counts what was made and not destroyed.
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <vector>

enum { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_8F_E4M3 = 28, COMPUTE_32F = 68, OP_N = 0, OP_T = 1 };
enum { TRANSA = 3, TRANSB = 4, A_POINTER = 17, B_POINTER = 18, A_MODE = 31, B_MODE = 32 };
enum { VEC128 = 4, BLK128 = 5 };

struct Desc { int compute, scale, transa, transb, mode_a, mode_b; const float *scale_a, *scale_b; };
struct Layout { int type; uint64_t rows, columns; int64_t ld; };
struct Preference { uint64_t workspace; };
struct Algo { uint64_t data[8]; };
struct Heuristic { Algo algo; size_t workspace; int state; float waves; int reserved[4]; };

static const uint64_t MAGIC = 0xdee95eeca190ULL;
static const size_t NEEDS = 4096;
static std::set<void*> alive;
static std::string log_;
static int version = 131000, next_failure = 0;
static std::string failing;

extern "C" {

void fake_reset() { log_.clear(); failing.clear(); version = 131000; }
void fake_version(int v) { version = v; }
void fake_fail(const char* name, int status) { failing = name; next_failure = status; }
int fake_alive() { return (int)alive.size(); }
const char* fake_log() { return log_.c_str(); }

static int begin(const char* name)
{
    log_ += name;
    log_ += ' ';
    return failing == name ? next_failure : 0;
}
#define BEGIN(name) if (int status = begin(name)) return status

size_t cublasLtGetVersion() { return version; }

static int handle_;
int cublasLtCreate(void** handle)
{
    BEGIN("Create");
    *handle = &handle_;
    return SUCCESS;
}

int cublasLtMatmulDescCreate(void** made, int compute, int scale)
{
    BEGIN("DescCreate");
    alive.insert(*made = new Desc{compute, scale, OP_N, OP_N, 0, 0, nullptr, nullptr});
    return SUCCESS;
}

int cublasLtMatmulDescSetAttribute(void* at, int attribute, const void* value, size_t size)
{
    BEGIN("DescSet");
    Desc* d = (Desc*)at;
    bool pointer = attribute == A_POINTER || attribute == B_POINTER;
    if (!alive.count(at) || size != (pointer ? 8 : 4)) return INVALID_VALUE;
    switch (attribute) {
        case TRANSA: memcpy(&d->transa, value, size); return SUCCESS;
        case TRANSB: memcpy(&d->transb, value, size); return SUCCESS;
        case A_MODE: memcpy(&d->mode_a, value, size); return SUCCESS;
        case B_MODE: memcpy(&d->mode_b, value, size); return SUCCESS;
        case A_POINTER: memcpy(&d->scale_a, value, size); return SUCCESS;
        case B_POINTER: memcpy(&d->scale_b, value, size); return SUCCESS;
    }
    return INVALID_VALUE;
}

int cublasLtMatrixLayoutCreate(void** made, int type, uint64_t rows, uint64_t columns, int64_t ld)
{
    BEGIN("LayoutCreate");
    alive.insert(*made = new Layout{type, rows, columns, ld});
    return SUCCESS;
}

int cublasLtMatmulPreferenceCreate(void** made)
{
    BEGIN("PreferenceCreate");
    alive.insert(*made = new Preference{0});
    return SUCCESS;
}

int cublasLtMatmulPreferenceSetAttribute(void* at, int attribute, const void* value, size_t size)
{
    BEGIN("PreferenceSet");
    if (!alive.count(at) || attribute != 1 || size != 8) return INVALID_VALUE;
    memcpy(&((Preference*)at)->workspace, value, 8);
    return SUCCESS;
}

#define DESTROY(name, label, type) \
    int name(void* at) \
    { \
        BEGIN(label); \
        if (!alive.erase(at)) return INVALID_VALUE; \
        delete (type*)at; \
        return SUCCESS; \
    }
DESTROY(cublasLtMatmulDescDestroy, "DescDestroy", Desc)
DESTROY(cublasLtMatrixLayoutDestroy, "LayoutDestroy", Layout)
DESTROY(cublasLtMatmulPreferenceDestroy, "PreferenceDestroy", Preference)

// The rules of block-scaled FP8 on Hopper; NOT_SUPPORTED as cuBLASLt says it.
static int rules(const Desc& d, const Layout& a, const Layout& b, const Layout& c)
{
    bool vec_a = d.mode_a == VEC128, vec_b = d.mode_b == VEC128;
    bool blk_a = d.mode_a == BLK128, blk_b = d.mode_b == BLK128;
    if (d.compute != COMPUTE_32F || d.scale != R_32F) return NOT_SUPPORTED;
    if (d.transa != OP_T || d.transb != OP_N) return NOT_SUPPORTED;             // TN alone
    if (a.type != R_8F_E4M3 || b.type != R_8F_E4M3 || c.type != R_32F) return NOT_SUPPORTED;
    if (!((vec_a && vec_b) || (vec_a && blk_b) || (blk_a && vec_b))) return NOT_SUPPORTED;
    if (!d.scale_a || !d.scale_b) return INVALID_VALUE;
    if ((uintptr_t)d.scale_a % 16 || (uintptr_t)d.scale_b % 16) return NOT_SUPPORTED;
    if (a.rows != b.rows || a.columns != c.rows || b.columns != c.columns) return INVALID_VALUE;
    if (a.rows % 16 || a.columns % 16 || b.columns % 16) return NOT_SUPPORTED;
    if (a.ld < (int64_t)a.rows || b.ld < (int64_t)b.rows || c.ld < (int64_t)c.rows)
        return INVALID_VALUE;
    if (a.ld % 16 || b.ld % 16 || c.ld % 4) return NOT_SUPPORTED;
    return SUCCESS;
}

int cublasLtMatmulAlgoGetHeuristic(void* handle, void* d, void* a, void* b, void* c, void* y,
                                   void* preference, int asked, Heuristic* found, int* count)
{
    BEGIN("Heuristic");
    if (handle != &handle_) return NOT_INITIALIZED;
    for (void* at : {d, a, b, c, y, preference})
        if (!alive.count(at)) return INVALID_VALUE;
    if (asked < 1) return INVALID_VALUE;
    if (int status = rules(*(Desc*)d, *(Layout*)a, *(Layout*)b, *(Layout*)y)) return status;
    *count = 0;
    if (((Preference*)preference)->workspace < NEEDS) return NOT_SUPPORTED;
    if (failing == "Algorithm") return SUCCESS;  // and none is found
    *found = Heuristic{{{MAGIC, 1, 2, 3, 4, 5, 6, 7}}, NEEDS, SUCCESS, 1.0f, {}};
    if (failing == "State") found->state = NOT_SUPPORTED;
    *count = 1;
    return SUCCESS;
}

static float e4m3(unsigned char code)
{
    int exponent = code >> 3 & 15, mantissa = code & 7;
    float size = exponent ? (8 + mantissa) / 8.0f : mantissa / 4.0f;
    for (int i = 7; i < exponent; i++) size *= 2;
    for (int i = exponent; i < 7; i++) size /= 2;
    if ((code & 127) == 127) size = __builtin_nanf("");
    return code & 128 ? -size : size;
}

// The scale of element k of row i of a matrix with `rows` rows.
static float scale_of(const float* scales, int mode, uint64_t i, uint64_t k, uint64_t rows,
                      uint64_t length)
{
    uint64_t blocks = (length + 127) / 128, fours = (blocks + 3) / 4 * 4;
    return mode == VEC128 ? scales[k / 128 * rows + i] : scales[i / 128 * fours + k / 128];
}

int cublasLtMatmul(void* handle, void* desc, const float* alpha, const unsigned char* a, void* la,
                   const unsigned char* b, void* lb, const float* beta, const float* c, void* lc,
                   float* y, void* ly, const Algo* algo, char* workspace, size_t size, void* stream)
{
    BEGIN("Matmul");
    if (handle != &handle_) return NOT_INITIALIZED;
    for (void* at : {desc, la, lb, lc, ly})
        if (!alive.count(at)) return INVALID_VALUE;
    const Desc& d = *(Desc*)desc;
    const Layout &A = *(Layout*)la, &B = *(Layout*)lb, &Y = *(Layout*)ly;
    if (int status = rules(d, A, B, Y)) return status;
    if (!algo || algo->data[0] != MAGIC || algo->data[7] != 7) return INVALID_VALUE;
    if (size < NEEDS || (uintptr_t)workspace % 16) return INVALID_VALUE;
    if ((uintptr_t)a % 16 || (uintptr_t)b % 16 || (uintptr_t)y % 16) return NOT_SUPPORTED;
    if (c != y || lc != ly || *beta != 0 || stream != (void*)77) return INVALID_VALUE;
    memset(workspace, 0x55, size);
    float number[256];
    for (int code = 0; code < 256; code++) number[code] = e4m3((unsigned char)code);
    for (uint64_t j = 0; j < Y.columns; j++)
        for (uint64_t i = 0; i < Y.rows; i++) {
            double sum = 0;
            for (uint64_t k = 0; k < A.rows; k++)
                sum += (double)number[a[i * A.ld + k]] * number[b[j * B.ld + k]] *
                       scale_of(d.scale_a, d.mode_a, i, k, A.columns, A.rows) *
                       scale_of(d.scale_b, d.mode_b, j, k, B.columns, A.rows);
            y[j * Y.ld + i] = (float)(*alpha * sum);
        }
    return SUCCESS;
}
}
