// The Python face of selections.
#include "arguments.h"
#include "bindings.h"
#include "select.h"

namespace py = pybind11;

namespace contrastile {
namespace {

template <class T>
Picks<T> picks_of(Data values, Data columns, int64_t count) {
  return {pointer<T>(values), pointer<int64_t>(columns), count};
}

template <class T>
Dots<T> dots_of(Data dots, int64_t rows, int64_t cols, int64_t first_col) {
  return {pointer<const T>(dots), rows, cols, first_col};
}

void top_k(bool is_double, Data dots, int64_t rows, int64_t cols, int64_t first_col, Data values,
           Data columns, int64_t count, int threads) {
  const py::gil_scoped_release release;
  const auto merge = [&](auto zero) {
    using T = decltype(zero);
    merge_top_k(dots_of<T>(dots, rows, cols, first_col), picks_of<T>(values, columns, count),
                threads);
  };
  is_double ? merge(0.0) : merge(0.0f);
}

void group_max(bool is_double, Data dots, int64_t rows, int64_t cols, int64_t first_col,
               Data values, Data columns, int64_t count, Data starts, int threads) {
  const py::gil_scoped_release release;
  const auto merge = [&](auto zero) {
    using T = decltype(zero);
    merge_group_max(dots_of<T>(dots, rows, cols, first_col), pointer<const int64_t>(starts),
                    picks_of<T>(values, columns, count), threads);
  };
  is_double ? merge(0.0) : merge(0.0f);
}

}  // namespace

void bind_select(py::module_& m) {
  m.def("merge_top_k", &top_k,
        "By position: double, dots, rows, cols, first_col, values, columns, count, threads.");
  m.def("merge_group_max", &group_max,
        "By position: double, dots, rows, cols, first_col, values, columns, count, starts, "
        "threads.");
}

}  // namespace contrastile
