// Enough of CUDA to run a kernel on the CPU: one block after the other, its threads as coroutines.
//
// A thread runs until it waits for others (a shuffle, __syncthreads) or ends; when all who are
// waited for have come, they go on. What a card would leave undefined ends the run with a message:
// a shuffle with a lane that has left, a barrier that only some threads reach.
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__ static inline
#define __shared__ static

struct Dim { unsigned x, y, z; };
static Dim blockIdx, blockDim, gridDim, threadIdx;

static inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
#define OVERLOADS(T) \
    static inline T min(T a, T b) { return b < a ? b : a; } \
    static inline T max(T a, T b) { return a < b ? b : a; }
OVERLOADS(int) OVERLOADS(unsigned) OVERLOADS(long long)

enum { READY, AT_SHUFFLE, AT_BARRIER, GONE };
static const int MOST = 1024, STACK = 1 << 15;
static int state[MOST];
static uint64_t slot[MOST];
static jmp_buf at[MOST], scheduler;  // where each thread waits; no system calls, unlike swapcontext
static bool begun[MOST];
static const char* problem;
static void (*body)();

static void wait_for(int what)
{
    unsigned me = threadIdx.x;
    state[me] = what;
    if (!_setjmp(at[me])) _longjmp(scheduler, 1);
}

static void fail(const char* message)
{
    problem = message;
    wait_for(GONE);
}

static inline void __syncthreads() { wait_for(AT_BARRIER); }

template <class T> static T __shfl_xor_sync(unsigned mask, T value, int other)
{
    unsigned me = threadIdx.x, from = me ^ other;
    if (mask != 0xffffffffu || from / 32 != me / 32) fail("a shuffle beyond the warp");
    memcpy(&slot[me], &value, sizeof value);
    wait_for(AT_SHUFFLE);
    memcpy(&value, &slot[from], sizeof value);
    wait_for(AT_SHUFFLE);
    return value;
}

static void thread()  // as long as the process lives, once for each block
{
    for (;;) {
        body();
        wait_for(GONE);
    }
}

static void resume(unsigned t)
{
    static char* stacks = (char*)malloc((size_t)MOST * STACK);
    static ucontext_t context;
    threadIdx.x = t;
    if (_setjmp(scheduler)) return;  // here it comes back
    if (begun[t]) _longjmp(at[t], 1);
    begun[t] = true;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks + (size_t)t * STACK;
    context.uc_stack.ss_size = STACK;
    context.uc_link = 0;
    makecontext(&context, thread, 0);
    setcontext(&context);
}

// Whoever waits for nobody any more becomes ready; how many did, and -1 where a lane is missing.
static int release()
{
    int released = 0, alive = 0, at_barrier = 0;
    for (unsigned t = 0; t < blockDim.x; t++) {
        alive += state[t] != GONE;
        at_barrier += state[t] == AT_BARRIER;
    }
    for (unsigned w = 0; w < blockDim.x; w += 32) {
        int come = 0, gone = 0;
        for (unsigned t = w; t < w + 32; t++) {
            come += state[t] == AT_SHUFFLE;
            gone += state[t] == GONE;
        }
        if (come && gone) return -1;
        if (come == 32)
            for (unsigned t = w; t < w + 32; t++) state[t] = READY, released++;
    }
    if (alive && at_barrier == alive)
        for (unsigned t = 0; t < blockDim.x; t++)
            if (state[t] == AT_BARRIER) state[t] = READY, released++;
    return released;
}

static void one_block(bool backwards)
{
    for (unsigned t = 0; t < blockDim.x; t++) state[t] = READY;
    for (;;) {
        bool ran = false;
        for (unsigned i = 0; i < blockDim.x && !problem; i++) {
            unsigned t = backwards ? blockDim.x - 1 - i : i;
            if (state[t] != READY) continue;
            resume(t);
            ran = true;
        }
        if (problem) break;
        if (ran) continue;
        int released = release(), left = 0;
        for (unsigned t = 0; t < blockDim.x; t++) left += state[t] != GONE;
        if (!left) return;
        if (released < 0) problem = "a shuffle with a lane that has left";
        if (!released) problem = "a barrier that some threads do not reach";
    }
    memset(begun, 0, sizeof begun);  // those in the middle of it are given up
}

// Blocks from … to of a launch, in that order or backwards; what went wrong, or null.
static const char* run_blocks(unsigned grid, unsigned block, unsigned from, unsigned to,
                              int backwards, int waits, void (*kernel)())
{
    problem = 0;
    body = kernel;
    gridDim = {grid, 1, 1};
    blockDim = {block, 1, 1};
    for (unsigned i = from; i < to && !problem; i++) {
        blockIdx.x = backwards ? from + (to - 1 - i) : i;
        if (waits) { one_block(backwards); continue; }
        for (unsigned t = 0; t < block; t++) {  // nobody waits: plain calls
            threadIdx.x = backwards ? block - 1 - t : t;
            kernel();
        }
    }
    return problem;
}
