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

void spread_at(bool is_double, Data query, Data key, Data weights, Data columns, int64_t rows,
               int64_t count, int64_t features, Data dquery, Data dkey, int threads) {
  const py::gil_scoped_release release;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const Weighted<T> picked = {pointer<const T>(query),   pointer<const T>(key),
                                pointer<const T>(weights), pointer<const int64_t>(columns),
                                rows,                      count,
                                features};
    spread(picked, pointer<T>(dquery), pointer<T>(dkey), threads);
  };
  is_double ? run(0.0) : run(0.0f);
}

}  // namespace

void bind_select(py::module_& m) {
  m.def("merge_top_k", &top_k,
        "By position: double, dots, rows, cols, first_col, values, columns, count, threads.");
  m.def("merge_group_max", &group_max,
        "By position: double, dots, rows, cols, first_col, values, columns, count, starts, "
        "threads.");
  m.def("spread", &spread_at,
        "By position: double, query, key, weights, columns, rows, count, features, dquery, dkey, "
        "threads.");
}

}  // namespace contrastile
