// Encodings of several parts, as Python sees them.
#include "bind_encodings.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace fieldforge::cpu {
namespace {

const std::vector<std::pair<const char*, PartKind>> kinds = {
    {"Grid", PartKind::grid}, {"Identity", PartKind::identity}, {"Frequency", PartKind::frequency},
    {"TriangleWave", PartKind::triangle_wave}, {"OneBlob", PartKind::one_blob},
    {"SphericalHarmonics", PartKind::spherical_harmonics}, {"RandomFourier", PartKind::random_fourier},
};

void expect_within(const char* what, int first, int count, int end) {
    if (first < 0 || count < 1 || first > end - count) refuse(std::string(what) + ": beyond the end of the encoding");
}

int rows_of(const Part& part) {
    switch (part.kind) {
        case PartKind::grid: return part.grid->n_dims == part.n_inputs ? part.grid->n_outputs() : -1;
        case PartKind::identity: return part.n_inputs;
        case PartKind::frequency: return part.number > 64 ? -1 : part.n_inputs * part.number * 2;
        case PartKind::triangle_wave: return part.number > 64 ? -1 : part.n_inputs * part.number;
        case PartKind::one_blob: return part.n_inputs * part.number;
        case PartKind::spherical_harmonics: return part.n_inputs == 3 && part.number <= 8 ? part.number * part.number : -1;
        case PartKind::random_fourier: return 2 * part.number;
    }
    return -1;
}

void make_encoding(PythonEncoding* self, int n_inputs, int n_outputs, int n_rows, const std::vector<nb::tuple>& parts,
                   const std::vector<nb::tuple>& joins) {
    if (parts.empty() || parts.size() > max_parts || joins.size() >= max_parts) refuse("parts: native encodings have 1 to 64");
    if (n_inputs < 1 || n_inputs > 1 << 16 || n_rows < 1 || n_rows > 1 << 16) refuse("n_rows: native encodings have 1 to 65536");
    expect_within("n_outputs", 0, n_outputs, n_rows);
    PythonEncoding made{};
    Encoding& encoding = made.encoding;
    encoding.n_inputs = n_inputs;
    encoding.n_outputs = n_outputs;
    encoding.n_rows = n_rows;
    made.grids.reserve(parts.size());
    for (const nb::tuple& given : parts) {
        Part& part = encoding.parts[encoding.n_parts++];
        part.kind = look_up("kind", nb::cast<std::string>(given[0]), kinds);
        part.first_input = nb::cast<int>(given[1]);
        part.n_inputs = nb::cast<int>(given[2]);
        part.first_row = nb::cast<int>(given[3]);
        part.n_rows = nb::cast<int>(given[4]);
        part.number = nb::cast<int>(given[5]);
        part.scale = static_cast<float>(nb::cast<double>(given[6]));
        part.offset = static_cast<float>(nb::cast<double>(given[7]));
        part.tensor = part.kind == PartKind::grid || part.kind == PartKind::random_fourier ? encoding.n_tensors++ : -1;
        if (part.kind == PartKind::grid) {
            made.grids.push_back(nb::cast<const Grid&>(given[8]));
            part.grid = &made.grids.back();
            encoding.has_grids = true;
        }
        expect_within("n_inputs", part.first_input, part.n_inputs, n_inputs);
        expect_within("n_rows", part.first_row, part.n_rows, n_rows);
        if (part.number < 0 || part.number > 1 << 16 || part.n_rows != rows_of(part)) refuse("n_rows: a part has other sizes than its kind says");
    }
    for (const nb::tuple& given : joins) {
        Join& join = encoding.joins[encoding.n_joins++];
        join = {nb::cast<bool>(given[0]), nb::cast<int>(given[1]), nb::cast<int>(given[2]), nb::cast<int>(given[3]),
                nb::cast<int>(given[4])};
        for (const int first : {join.to, join.left, join.right}) expect_within("joins", first, join.n_rows, n_rows);
    }
    new (self) PythonEncoding(std::move(made));  // a moved vector keeps its memory: the parts still point to the grids
}

struct Tensors {
    float* at[max_parts] = {};

    Tensors(const PythonEncoding& encoding, const std::vector<Address>& addresses) {
        fill_tensors(at, addresses, encoding.encoding);
    }
};

}  // namespace

void bind_encodings(nb::module_& module) {
    nb::class_<PythonEncoding>(module, "Encoding", "Encodings joined, without their tables.")
        .def("__init__", &make_encoding, "n_inputs"_a, "n_outputs"_a, "n_rows"_a, "parts"_a, "joins"_a,
             "parts: (kind, first_input, n_inputs, first_row, n_rows, number, scale, offset, grid) of each; "
             "joins: (is_product, to, left, right, n_rows).");
    module.def("encoding_forward", [](const PythonEncoding& encoding, const std::vector<Address>& tensors, Address x,
                                      int64_t n, Address out, int n_threads) {
        kernels().encoding->forward(encoding.encoding, Tensors(encoding, tensors).at, at(x), expect_count(n), at(out),
                                    expect_threads(n_threads));
    }, Unlocked());
    module.def("encoding_backward", [](const PythonEncoding& encoding, const std::vector<Address>& tensors, Address x,
                                       int64_t n, Address grad_out, const std::vector<Address>& grad_tensors,
                                       Address grad_x, int n_threads) {
        kernels().encoding->backward(encoding.encoding, Tensors(encoding, tensors).at, at(x), expect_count(n),
                                     at(grad_out), Tensors(encoding, grad_tensors).at, at(grad_x),
                                     expect_threads(n_threads));
    }, Unlocked());
}

}  // namespace fieldforge::cpu
