// How parameters move, as the bindings of training steps share it.
#pragma once
#include <exception>

#include "bind_fields.hpp"

namespace fieldforge::cpu {

using Numbers = std::vector<std::vector<double>>;

// Where the moments and averages of a field's parameters lie, and its parameters in the order (tables), weights, biases.
void collect_moves(Moves& moves, std::vector<Moved*>& in_order, const Grid* grid, const PythonMlp& network,
                   const Addresses& first, const Addresses& second, const Addresses& average,
                   const PythonEncoding* encoding = nullptr);

// One rule of 13 numbers for each parameter.
void set_rules(const std::vector<Moved*>& in_order, const Numbers& rules);

// A Python function that may forbid the update. What it raises waits until the kernel is done.
struct Question {
    nanobind::handle function;
    std::exception_ptr error;

    static bool ask(void* context) {
        auto* self = static_cast<Question*>(context);
        nanobind::gil_scoped_acquire lock;
        try {
            return nanobind::cast<bool>(self->function());
        } catch (...) {
            self->error = std::current_exception();
            return false;
        }
    }
};

}  // namespace fieldforge::cpu
