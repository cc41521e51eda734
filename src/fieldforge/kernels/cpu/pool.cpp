#include "pool.hpp"

#include <atomic>
#include <mutex>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define FF_WATCH_MEMORY 1
#elif defined(__has_feature)  // how clang says it
#define FF_WATCH_MEMORY __has_feature(address_sanitizer)
#else
#define FF_WATCH_MEMORY 0
#endif

namespace fieldforge::cpu {
namespace {

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// For debuggers and `top -H`.
void name_this_thread([[maybe_unused]] const std::string& name) {
#if defined(__linux__)
    pthread_setname_np(pthread_self(), name.c_str());  // 15 letters at most
#elif defined(__APPLE__)
    pthread_setname_np(name.c_str());
#endif
}

// Wait until `value` is no longer `old`: look for some ten microseconds, then sleep. A longer spin steals the core
// from other work when more threads run than cores exist.
template <class T>
T wait_for_change(const std::atomic<T>& value, T old) {
    for (int i = 0; i < 400; ++i) {
        T now = value.load(std::memory_order_acquire);
        if (now != old) return now;
        pause();
    }
    value.wait(old, std::memory_order_acquire);
    return value.load(std::memory_order_acquire);
}

class Pool {
public:
    bool try_run(int n_threads, int64_t n_tasks, Task task, void* context) {
        std::unique_lock lock(busy_, std::try_to_lock);
        if (!lock.owns_lock()) return false;
        grow(n_threads - 1);
        task_ = task;
        context_ = context;
        n_tasks_ = n_tasks;
        n_helpers_ = n_threads - 1 < n_workers_ ? n_threads - 1 : n_workers_;
        next_.store(0, std::memory_order_relaxed);
        working_.store(n_workers_, std::memory_order_relaxed);
        round_.fetch_add(1, std::memory_order_release);
        round_.notify_all();
        work(0);
        for (int left = working_.load(std::memory_order_acquire); left > 0;) left = wait_for_change(working_, left);
        return true;
    }

private:
    void grow(int n_workers) try {
        for (; n_workers_ < n_workers; ++n_workers_) {
            uint32_t seen = round_.load(std::memory_order_relaxed);
            std::thread([this, seen, thread = n_workers_ + 1] { serve(thread, seen); }).detach();
        }
    } catch (const std::system_error&) {  // the system gives no more threads: those that there are do the work
    }

    void serve(int thread, uint32_t seen) {
        name_this_thread("fieldforge " + std::to_string(thread));
        for (;;) {
            seen = wait_for_change(round_, seen);
            if (thread <= n_helpers_) work(thread);
            if (working_.fetch_sub(1, std::memory_order_acq_rel) == 1) working_.notify_one();
        }
    }

    void work(int thread) {
        for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < n_tasks_;) task_(context_, i, thread);
    }

    std::mutex busy_;
    int n_workers_ = 0;
    std::atomic<uint32_t> round_{0};
    std::atomic<int> working_{0};
    std::atomic<int64_t> next_{0};
    Task task_ = nullptr;
    void* context_ = nullptr;
    int64_t n_tasks_ = 0;
    int n_helpers_ = 0;
};

// Never destroyed: its threads sleep until the process ends. A forked child has none of them and gets a new pool.
std::atomic<Pool*> pool{nullptr};

Pool& the_pool() {
    static std::once_flag once;
    std::call_once(once, [] {
        pool = new Pool;
#if defined(__unix__) || defined(__APPLE__)
        pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
#endif
    });
    return *pool;
}

}  // namespace

void run_tasks(int n_threads, int64_t n_tasks, Task task, void* context) {
    if (n_threads > n_tasks) n_threads = static_cast<int>(n_tasks);
    if (n_threads > 1 && the_pool().try_run(n_threads, n_tasks, task, context)) return;
    for (int64_t i = 0; i < n_tasks; ++i) task(context, i, 0);
}

namespace {

constexpr std::align_val_t alignment{64};

struct Block {
    float* data;
    int64_t size;
    Block* next;
};

// Blocks borrowed from front to back. When the outermost Scratch ends with several blocks, they become one, so that the
// second call of a size finds everything in one piece.
struct Store {
    Block* blocks = nullptr;  // the newest first
    int64_t used = 0;         // floats of the newest
    int64_t needed = 0;       // by the outermost Scratch so far
    int n_open = 0;           // Scratch objects alive in this thread

    ~Store() { clear(); }

    void clear() {
        while (blocks) {
            Block* block = blocks;
            blocks = block->next;
            ::operator delete(block->data, alignment);
            delete block;
        }
        used = needed = 0;
    }

    float* take(int64_t n) {
#if FF_WATCH_MEMORY
        add(n);  // every piece by itself, so that a step over its end is seen
        used = n;
        return blocks->data;
#endif
        n = (n + 31) / 16 * 16;  // whole cache lines, and one more: neighbours never share a line
        if (!blocks || used + n > blocks->size) add(n);
        float* p = blocks->data + used;
        used += n;
        if (used > needed) needed = used;
        return p;
    }

    void add(int64_t n) {
#if FF_WATCH_MEMORY
        const int64_t size = n;
#else
        // at least as much again as there was: a call that asks for many pieces adds few blocks
        int64_t size = 1 << 16;
        for (Block* block = blocks; block; block = block->next) size += block->size;
        if (size < n) size = n;
#endif
        auto* data = static_cast<float*>(::operator new(sizeof(float) * static_cast<size_t>(size), alignment));
        blocks = new Block{data, size, blocks};
        used = 0;
    }

    void end_of_call() {
#if FF_WATCH_MEMORY
        clear();
#endif
        if (blocks && blocks->next) {
            int64_t size = 0;
            for (Block* block = blocks->next; block; block = block->next) size += block->size;
            size += needed;
            clear();
            add(size);
        }
        used = needed = 0;
    }
};

thread_local Store storage;

}  // namespace

Scratch::Scratch() : block_(storage.blocks), used_(storage.used) { ++storage.n_open; }

Scratch::~Scratch() {
    if (storage.blocks == block_) storage.used = used_;
    if (--storage.n_open > 0) return;
    try {
        storage.end_of_call();
    } catch (const std::bad_alloc&) {  // the merged block did not fit: the next call asks anew
        storage.clear();
    }
}

float* Scratch::floats(int64_t n) { return storage.take(n); }

void release_scratch() {
    if (storage.n_open == 0) storage.clear();
}

}  // namespace fieldforge::cpu
