// The Python face of rows of unit length.
#include "arguments.h"
#include "bindings.h"
#include "unit_length.h"

namespace py = pybind11;

namespace contrastile {
namespace {

void forward(Data x, int dtype, int64_t rows, int64_t cols, Data out, Data inverses, int threads) {
  const py::gil_scoped_release release;
  unit_rows({x, static_cast<Dtype>(dtype), rows, cols}, out, inverses, threads);
}

void backward(Data x, int dtype, int64_t rows, int64_t cols, Data inverses, Data grad, Data dx,
              int threads) {
  const py::gil_scoped_release release;
  unit_rows_gradient({x, static_cast<Dtype>(dtype), rows, cols}, inverses, grad, dx, threads);
}

}  // namespace

void bind_unit_length(py::module_& m) {
  m.def("unit_rows", &forward, "By position: x, dtype, rows, cols, out, inverses, threads.");
  m.def("unit_rows_gradient", &backward,
        "By position: x, dtype, rows, cols, inverses, grad, dx, threads.");
}

}  // namespace contrastile
