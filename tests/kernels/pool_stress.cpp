// The pool under ThreadSanitizer (`make sanitize`): several callers at once, changing numbers of threads, nested
// scratch, forks; every task runs exactly once. With no argument all of it; "fork" alone forks while others call,
// which ThreadSanitizer does not follow.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "pool.hpp"

using namespace fieldforge::cpu;

namespace {

void expect(bool is_true, const char* what) {
    if (is_true) return;
    std::fprintf(stderr, "pool_stress: %s\n", what);
    std::_Exit(1);
}

// Sum i * i over tasks that write their own numbers, as kernels do; then look at all of them.
void call(int n_threads, int64_t n_tasks) {
    Scratch scratch;
    double* squares = scratch.doubles(n_tasks);
    std::vector<int> runs(static_cast<size_t>(n_tasks), 0), by_thread(static_cast<size_t>(n_threads), 0);
    for (int round = 1; round <= 3; ++round) {
        parallel_for(n_threads, n_tasks, [&](int64_t i, int thread) {
            Scratch own;  // of whichever thread runs the task
            double* square = own.doubles(1 + i % 97);
            square[i % 97] = static_cast<double>(i) * static_cast<double>(i);
            Scratch inner;
            float* unused = inner.floats(i % 1000);
            std::memset(unused, 0, sizeof(float) * static_cast<size_t>(i % 1000));
            squares[i] = square[i % 97];
            ++runs[static_cast<size_t>(i)];
            ++by_thread[static_cast<size_t>(thread)];  // one number a thread: no two tasks of it at a time
        });
        double sum = 0, n = static_cast<double>(n_tasks);
        for (int64_t i = 0; i < n_tasks; ++i) {
            sum += squares[i];
            expect(runs[static_cast<size_t>(i)] == round, "a task did not run once");
        }
        expect(sum == (n - 1) * n * (2 * n - 1) / 6, "a wrong sum");
    }
    int64_t total = 0;
    for (int count : by_thread) total += count;
    expect(total == 3 * n_tasks, "a thread's number was used by two threads at once");
}

void callers(int n_callers, int n_calls) {
    std::vector<std::thread> threads;
    for (int caller = 0; caller < n_callers; ++caller) {
        threads.emplace_back([=] {
            for (int k = 0; k < n_calls; ++k) call(1 + (caller + k) % 5, 1 + (k * 37 + caller) % 300);
            if (caller % 2) release_scratch();
        });
    }
    for (auto& thread : threads) thread.join();
}

void forks(int n_forks) {
    std::atomic<bool> is_over{false};
    call(3, 100);  // its threads exist now
    std::thread other([&] {
        while (!is_over) call(3, 50);
    });
    for (int k = 0; k < n_forks; ++k) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(60);
            for (int i = 0; i < 20; ++i) call(3, 200);
            std::_Exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked child did not end well");
        call(4, 100);
    }
    is_over = true;
    other.join();
}

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1 && !std::strcmp(argv[1], "fork")) {
        forks(30);
    } else {
        call(4, 1);
        callers(1, 2000);
        callers(4, 500);
        call(1, 10000);
    }
    std::puts("pool_stress: well");
}
