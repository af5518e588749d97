// A GPU made of CPU threads, behind the calls of NVIDIA's driver that cuda_ext/cuda_driver.py makes. The bodies are compiled as CUDA
// code; blocks run side by side and in no order, each thread of a block with its own index, atomic adds are atomic. As strict as the
// driver is: no context, no blocks, no such kernel, not an image are errors. Blocks whose threads wait for each other cannot run here.
// entries.inc lists the kernels; the tests write it.

#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#define __CUDACC_RTC__
#define __global__
#define __device__
#define __forceinline__ inline

struct Index {
    unsigned x, y, z;
};
static thread_local Index blockIdx, threadIdx, blockDim, gridDim;

// For tests: whether atomic adds arrive, and how often each launch runs.
static bool adds = true;
static int repeats = 1;

template <typename T> T atomicAdd(T* place, T value) {
    if (!adds) return *place;
    T old, sum;
    __atomic_load(place, &old, __ATOMIC_RELAXED);
    do sum = old + value;
    while (!__atomic_compare_exchange(place, &old, &sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}

// Of the bits of a number of half precision; a GPU has an instruction for it.
static float float_of_bits(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float finite = std::ldexp((float)(exponent ? fraction + 1024 : fraction), exponent ? exponent - 25 : -24);
    const float size = exponent < 31 ? finite : fraction ? NAN : INFINITY;
    return bits >> 15 ? -size : size;
}
#define FLOAT_OF_HALF(bits) float_of_bits(bits)

#include "cpu.cpp"

using Call = std::function<void(void**)>;

template <typename... A, size_t... I> static void call(void (*kernel)(A...), void** parameters, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(parameters[I])...);
}

template <typename... A> static Call entry(void (*kernel)(A...)) {
    return [kernel](void** parameters) { call(kernel, parameters, std::index_sequence_for<A...>{}); };
}

static const std::pair<const char*, Call> functions[] = {
#include "entries.inc"
};

enum Code { OK = 0, INVALID_VALUE = 1, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
enum { GPUS = 1, N_THREADS = 3 };
static int context;  // its address is the handle
static thread_local int pushed = 0;
static std::atomic<long long> last_stream{0};

extern "C" {

Code cuInit(unsigned) { return OK; }

Code cuDeviceGet(int* device, int number) { return number < GPUS ? (*device = number, OK) : INVALID_VALUE; }

Code cuDevicePrimaryCtxRetain(void** handle, int) { return *handle = &context, OK; }

Code cuCtxPushCurrent_v2(void* handle) { return handle == &context ? (++pushed, OK) : INVALID_CONTEXT; }

Code cuCtxPopCurrent_v2(void** handle) { return pushed > 0 ? (--pushed, *handle = &context, OK) : INVALID_CONTEXT; }

Code cuModuleLoadData(void** module, const void* image) {
    if (!pushed) return INVALID_CONTEXT;
    const bool is_known = !std::memcmp(image, "\177ELF", 4) || !std::memcmp(image, "//\n", 3);  // a cubin or PTX
    return is_known ? (*module = &context, OK) : INVALID_IMAGE;
}

Code cuModuleGetFunction(void** function, void*, const char* name) {
    for (auto& known : functions)
        if (!std::strcmp(known.first, name)) return *function = (void*)&known, OK;
    return NOT_FOUND;
}

Code cuLaunchKernel(void* function, unsigned blocks, unsigned gy, unsigned gz, unsigned threads, unsigned ty, unsigned tz, unsigned,
                    void* stream, void** parameters, void**) {
    if (!pushed) return INVALID_CONTEXT;
    if (!blocks || gy * gz * ty * tz != 1 || !threads || threads > 1024) return INVALID_VALUE;
    last_stream = (long long)stream;
    const Call& run = static_cast<const std::pair<const char*, Call>*>(function)->second;
    for (int repeat = 0; repeat < repeats; ++repeat) {
        std::atomic<unsigned> left{blocks};
        auto work = [&] {
            gridDim = {blocks, 1, 1}, blockDim = {threads, 1, 1};
            for (unsigned next; (next = left.fetch_sub(1)) - 1 < blocks;) {  // from the last block to the first
                blockIdx = {next - 1, 0, 0};
                for (unsigned thread = threads; thread--;) threadIdx = {thread, 0, 0}, run(parameters);
            }
        };
        std::vector<std::thread> workers;
        for (int i = 0; i < N_THREADS; ++i) workers.emplace_back(work);
        for (auto& worker : workers) worker.join();
    }
    return OK;
}

Code cuGetErrorString(Code code, const char** words) {
    *words = code == INVALID_VALUE     ? "invalid argument"
             : code == INVALID_IMAGE   ? "device kernel image is invalid"
             : code == INVALID_CONTEXT ? "invalid device context"
                                       : "named symbol not found";
    return OK;
}

void set_mode(int adds_arrive, int times) { adds = adds_arrive, repeats = times; }
int contexts_pushed() { return pushed; }
long long stream_of_last_launch() { return last_stream; }
}
