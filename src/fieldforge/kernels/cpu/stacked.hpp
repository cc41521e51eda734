// Many small networks of one shape, each with points of its own (KiloNeRF; Reiser et al. 2021).
//
// The batch is cut into tasks: a run of networks with few points between them, or a span of one network that has many.
// The cuts depend on the sizes alone, never on the number of threads, so that sums are the same for any.
#pragma once
#include "adam.hpp"
#include "loss.hpp"
#include "mlp.hpp"

namespace fieldforge::cpu::FF_SET {

// Whole networks [first, last) where `span` is negative; else the points [begin, end) of network `first`.
struct StackTask {
    int64_t first, last, begin, end;
    int64_t span;
};

constexpr int64_t run_points = 1024;  // of networks done in one task: enough to pay for handing it out
constexpr int64_t run_networks = 64;

// Number of tasks, written to `tasks` unless it is null. Networks with more than `span_points` points are cut into
// spans of that size, numbered from 0.
inline int64_t cut_stack(const Stack& stack, int64_t span_points, StackTask* tasks) {
    int64_t n_tasks = 0, n_spans = 0;
    const auto add = [&](const StackTask& task) {
        if (tasks) tasks[n_tasks] = task;
        ++n_tasks;
    };
    const int64_t* offsets = stack.offsets;
    for (int64_t g = 0; g < stack.n_networks;) {
        const int64_t begin = offsets[g];
        if (offsets[g + 1] - begin > span_points) {
            for (int64_t p = begin; p < offsets[g + 1]; p += span_points) {
                add({g, g + 1, p, smaller(offsets[g + 1], p + span_points), n_spans++});
            }
            ++g;
            continue;
        }
        const int64_t first = g;
        while (g < stack.n_networks && g - first < run_networks && offsets[g] - begin < run_points &&
               offsets[g + 1] - offsets[g] <= span_points) {
            ++g;
        }
        add({first, g, begin, offsets[g], -1});
    }
    return n_tasks;
}

struct StackTasks {
    StackTask* task;
    int64_t n;

    StackTasks(const Stack& stack, int64_t span_points, Scratch& scratch) : n(cut_stack(stack, span_points, nullptr)) {
        task = scratch.array<StackTask>(n);
        cut_stack(stack, span_points, task);
    }
};

// Network number g by itself.
FF_INLINE Field network_of(const Stack& stack, int64_t g) {
    const Mlp& mlp = *stack.mlp;
    Field field;  // the rest of it is for grids and bfloat16, which stacks do not have
    field.grid = nullptr;
    field.mlp = &mlp;
    for (int l = 0; l < mlp.n_layers; ++l) {
        const int64_t n_out = mlp.widths[l + 1];
        field.weights[l] = stack.weights[l] + g * n_out * mlp.widths[l];
        field.biases[l] = mlp.has_bias ? stack.biases[l] + g * n_out : nullptr;
    }
    return field;
}

// Ask for memory that is needed soon: a network's few points and parameters come from far away each time, and the
// processor does not guess where the next ones begin.
FF_INLINE void fetch(const float* from, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) __builtin_prefetch(from + i, 0, 2);
}

// The parameters of network g, if there is such a network.
FF_INLINE void fetch_network(const Stack& stack, int64_t g) {
    const Mlp& mlp = *stack.mlp;
    if (g >= stack.n_networks || mlp.n_parameters > 16384) return;
    for (int l = 0; l < mlp.n_layers; ++l) {
        const int64_t n_out = mlp.widths[l + 1], n_weights = n_out * mlp.widths[l];
        fetch(stack.weights[l] + g * n_weights, n_weights);
        if (mlp.has_bias) fetch(stack.biases[l] + g * n_out, n_out);
    }
}

// Call use(begin, count) for the points of a task that belong to network g, tile by tile.
template <class Use>
FF_INLINE void for_tiles(const Stack& stack, const StackTask& task, int64_t g, int64_t tile, Use&& use) {
    const int64_t end = smaller(task.end, stack.offsets[g + 1]);
    for (int64_t p = larger(task.begin, stack.offsets[g]); p < end; p += tile) use(p, smaller(tile, end - p));
}

inline void stack_forward(const Stack& stack, const float* x, float* out, int n_threads) {
    const Mlp& mlp = *stack.mlp;
    const int n_in = mlp.n_inputs(), n_out = mlp.n_outputs(), points = tile_points(mlp);
    Scratch scratch;
    Work* works = make_works(mlp, scratch, false, n_threads);
    const StackTasks tasks(stack, run_points, scratch);
    parallel_for(n_threads, tasks.n, [&](int64_t t, int thread) {
        Work& work = works[thread];
        for (int64_t g = tasks.task[t].first; g < tasks.task[t].last; ++g) {
            const Field network = network_of(stack, g);
            fetch_network(stack, g + 1);
            for_tiles(stack, tasks.task[t], g, points, [&](int64_t begin, int64_t count) {
                work.row = round_up(count, lanes) + row_padding;
                rows_to_tile(x + begin * n_in, count, n_in, work.value[0], work.row);
                fetch(x + (begin + count) * n_in, smaller(count, stack.n_points() - begin - count) * n_in);
                const float* y = forward(network, work.value[0], round_up(count, lanes), work);
                tile_to_rows(y, work.row, count, n_out, out + begin * n_out);
            });
        }
    });
}

// Forward and backward for all points. Returns the sum of the losses.
//
// `output_gradient(network, begin, count, outputs, work)` writes the gradient in the outputs of a tile to
// work.gradient[0], zero beyond the last point, and returns losses. `finish(network, gradient, losses)` gets the gradient
// of one network's parameters, flat, and the losses of its points. `grad_x`, unless null, is filled with the gradient in the inputs.
template <class OutputGradient, class Finish>
LossSums learn_stack(const Stack& stack, const float* x, bool wants_parameters, float* grad_x, int n_threads,
                     OutputGradient&& output_gradient, Finish&& finish) {
    const Mlp& mlp = *stack.mlp;
    const int n_in = mlp.n_inputs(), points = tile_points(mlp);
    const int64_t n_grad = round_up(mlp.n_parameters, 16) + 16;
    Scratch scratch;
    Work* works = make_works(mlp, scratch, true, n_threads);
    float** transposes = scratch.array<float*>(n_threads * max_layers);  // of each thread and layer
    float** grads = scratch.array<float*>(n_threads);
    for (int t = 0; t < n_threads; ++t) {
        grads[t] = scratch.floats(n_grad);
        for (int l = 0; l < mlp.n_layers; ++l) {
            transposes[t * max_layers + l] = scratch.floats(static_cast<int64_t>(mlp.widths[l]) * mlp.widths[l + 1]);
        }
    }
    // Gradients of spans are kept until all are there: some 32 of them, fewer where they would take more than 16 MiB.
    const int64_t most_spans = larger(8, smaller(32, (int64_t{1} << 22) / mlp.n_parameters));
    const int64_t span_points = round_up(larger(2 * run_points, pieces(stack.n_points(), most_spans)), points);
    const StackTasks tasks(stack, span_points, scratch);
    int64_t n_spans = 0;
    for (int64_t t = 0; t < tasks.n; ++t) n_spans += tasks.task[t].span >= 0;
    float* span_grads = wants_parameters ? scratch.floats(n_spans * n_grad) : nullptr;
    LossSums* losses = scratch.array<LossSums>(tasks.n);

    parallel_for(n_threads, tasks.n, [&](int64_t t, int thread) {
        const StackTask& task = tasks.task[t];
        Work& work = works[thread];
        float* const* transposed = transposes + thread * max_layers;
        LossSums sums{0.0, 0.0};
        for (int64_t g = task.first; g < task.last; ++g) {
            const Field network = network_of(stack, g);
            float* grad = task.span < 0 ? grads[thread] : span_grads + task.span * n_grad;
            if (!wants_parameters) grad = nullptr;
            if (grad) std::memset(grad, 0, sizeof(float) * static_cast<size_t>(n_grad));
            const bool has_points = stack.offsets[g] < stack.offsets[g + 1];
            for (int l = grad_x ? 0 : 1; has_points && l < mlp.n_layers; ++l) {
                const int n_in_l = mlp.widths[l], n_out_l = mlp.widths[l + 1];
                transpose(network.weights[l], n_in_l, n_out_l, n_in_l, transposed[l], n_out_l);
            }
            LossSums own{0.0, 0.0};
            for_tiles(stack, task, g, points, [&](int64_t begin, int64_t count) {
                float* input = work.value[0];
                work.row = round_up(count, lanes) + row_padding;
                rows_to_tile(x + begin * n_in, count, n_in, input, work.row);
                fetch(x + (begin + count) * n_in, smaller(count, stack.n_points() - begin - count) * n_in);
                const int64_t n_lanes = round_up(count, lanes);
                const float* y = forward(network, input, n_lanes, work);
                own += output_gradient(g, begin, count, y, work);
                backward(network, input, n_lanes, work, transposed, grad, grad_x ? input : nullptr);
                if (grad_x) tile_to_rows(input, work.row, count, n_in, grad_x + begin * n_in);
            });
            if (grad && task.span < 0) finish(g, grad, own);
            sums += own;
        }
        losses[t] = sums;
    });

    LossSums total{0.0, 0.0};
    for (int64_t t = 0; t < tasks.n; ++t) total += losses[t];
    for (int64_t t = 0, n_here; wants_parameters && t < tasks.n; t += n_here) {
        n_here = 1;
        if (tasks.task[t].span < 0) continue;
        const int64_t g = tasks.task[t].first;
        LossSums own = losses[t];
        for (; t + n_here < tasks.n && tasks.task[t + n_here].first == g; ++n_here) own += losses[t + n_here];
        float* sum = span_grads + tasks.task[t].span * n_grad;
        const int64_t piece = 4096;
        parallel_for(n_threads, pieces(n_grad, piece), [&](int64_t k, int) {
            for (int64_t s = 1; s < n_here; ++s) {
                const float* from = sum + s * n_grad;
                for (int64_t i = k * piece; i < smaller(n_grad, (k + 1) * piece); ++i) sum[i] += from[i];
            }
        });
        finish(g, sum, own);
    }
    return total;
}

inline void stack_backward(const Stack& stack, const float* x, const float* grad_out, const FieldGradients& wanted,
                           int n_threads) {
    const Mlp& mlp = *stack.mlp;
    const int n_out = mlp.n_outputs();
    bool wants_parameters = false;
    for (int l = 0; l < mlp.n_layers; ++l) wants_parameters |= wanted.weights[l] || wanted.biases[l];
    learn_stack(stack, x, wants_parameters, wanted.x, n_threads,
                [&](int64_t, int64_t begin, int64_t count, const float*, const Work& work) {
        rows_to_tile(grad_out + begin * n_out, count, n_out, work.gradient[0], work.row);
        return LossSums{0.0, 0.0};
    }, [&](int64_t g, const float* grad, const LossSums&) {
        const auto copy = [&](float* to, int64_t offset, int64_t n) {
            if (to) std::memcpy(to + g * n, grad + offset, sizeof(float) * static_cast<size_t>(n));
        };
        for (int l = 0; l < mlp.n_layers; ++l) {
            copy(wanted.weights[l], mlp.weight_offset[l], static_cast<int64_t>(mlp.widths[l]) * mlp.widths[l + 1]);
            copy(wanted.biases[l], mlp.bias_offset[l], mlp.widths[l + 1]);
        }
    });
}

// A network is updated while its parameters are in the cache. One without points has a gradient of zero, and moves as
// Adam's moments say.
inline StepResult stack_train_step(const Stack& stack, const Batch& batch, const Adam& adam, bool of_each,
                                   double* squared_errors, int n_threads) {
    const Mlp& mlp = *stack.mlp;
    const int n_out = mlp.n_outputs();
    const double n_numbers = static_cast<double>(batch.n) * n_out;
    const auto numbers_of = [&](int64_t g) {
        return static_cast<double>(stack.offsets[g + 1] - stack.offsets[g]) * n_out;
    };
    const LossSums total = learn_stack(stack, batch.x, true, nullptr, n_threads,
                                       [&](int64_t g, int64_t begin, int64_t count, const float* y, const Work& work) {
        const float scale = static_cast<float>(1.0 / (of_each ? numbers_of(g) : n_numbers));
        rows_to_tile(batch.target + begin * n_out, count, n_out, work.gradient[0], work.row);
        return loss_of_tile(batch.loss, y, work.gradient[0], work.row, n_out, count, batch.huber_delta, scale,
                            work.gradient[0], nullptr);
    }, [&](int64_t g, const float* grad, const LossSums& own) {
        if (squared_errors) squared_errors[g] = own.squared_error / numbers_of(g);
        if (!std::isfinite(own.loss)) return;
        for (int l = 0; l < mlp.n_layers; ++l) {
            const int64_t n_weights = static_cast<int64_t>(mlp.widths[l]) * mlp.widths[l + 1];
            const int64_t n_biases = mlp.widths[l + 1];
            adam_step(adam, adam.l2, n_weights, grad + mlp.weight_offset[l], stack.weights[l] + g * n_weights,
                      adam.weights_m[l] + g * n_weights, adam.weights_v[l] + g * n_weights);
            if (mlp.has_bias) {
                adam_step(adam, adam.l2, n_biases, grad + mlp.bias_offset[l], stack.biases[l] + g * n_biases,
                          adam.biases_m[l] + g * n_biases, adam.biases_v[l] + g * n_biases);
            }
        }
    });
    return {total.loss / n_numbers, total.squared_error / n_numbers, false};
}

}  // namespace fieldforge::cpu::FF_SET
