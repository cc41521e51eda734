// A small pool of threads, and memory that calls borrow.
#pragma once
#include <cstdint>
#include <type_traits>

namespace fieldforge::cpu {

using Task = void (*)(void* context, int64_t i, int thread);

// Run task(context, i, thread) for i in [0, n_tasks) on up to `n_threads` threads, the caller's included, and wait.
// `thread` is in [0, n_threads). Who runs which task is not defined: results must not depend on it. Tasks must not
// throw and must not call this. A second caller at the same time runs its tasks alone.
void run_tasks(int n_threads, int64_t n_tasks, Task task, void* context);

template <class F>
inline void parallel_for(int n_threads, int64_t n_tasks, F&& f) {
    using Function = std::remove_reference_t<F>;
    run_tasks(n_threads, n_tasks,
              [](void* context, int64_t i, int thread) { (*static_cast<Function*>(context))(i, thread); },
              const_cast<void*>(static_cast<const void*>(&f)));
}

// Scratch memory, 64-byte aligned, until the end of the object's life; objects may nest. The calling thread keeps the
// memory for its next call: a fresh allocation of some megabytes costs more in page faults than the work done in it.
class Scratch {
public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    // Not initialised. Throws std::bad_alloc. Only the thread that made the Scratch may call this.
    float* floats(int64_t n);
    template <class T>
    T* array(int64_t n) {
        return reinterpret_cast<T*>(floats((n * static_cast<int64_t>(sizeof(T)) + 3) / 4));
    }
    double* doubles(int64_t n) { return reinterpret_cast<double*>(floats(2 * n)); }

private:
    const void* block_;  // where the memory stood when this began
    int64_t used_;
};

// Give the memory kept by the calling thread back.
void release_scratch();

}  // namespace fieldforge::cpu
