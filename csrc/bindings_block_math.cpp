// The Python face of a sweep's work on blocks. Nothing here checks what tensors hold.
#include <string>
#include <vector>

#include "arguments.h"
#include "bindings.h"
#include "block_math.h"

namespace py = pybind11;

namespace contrastile {
namespace {

using WithoutGil = py::call_guard<py::gil_scoped_release>;

void map_gradients(const BlockMath& math, int64_t rows, int64_t cols, int threads, int map,
                   const Vectors& planes, Data row, Data col, Data grad, const Vectors& outs,
                   const std::vector<bool>& adds, Data row_sums, Data col_sums) {
  if (adds.size() != outs.size()) throw std::invalid_argument("adds: expected one a target");
  std::vector<BlockMath::Target> targets;
  for (size_t p = 0; p < outs.size(); ++p) targets.push_back({outs[p], adds[p]});
  const py::gil_scoped_release release;
  math.map_gradients({rows, cols, threads}, map, addresses_of(planes), {row, col}, grad, targets,
                     {row_sums, col_sums});
}

}  // namespace

void bind_block_math(py::module_& m) {
  using namespace py::literals;
  py::dict maps;
  for (int code = 0; code < kMapCount; ++code)
    maps[kMaps[code].name] = py::make_tuple(code, kMaps[code].least, kMaps[code].most);
  m.attr("maps") = maps;
  py::class_<BlockMath>(m, "BlockMath", "A sweep's work on blocks.")
      .def(py::init([](bool is_double, const std::string& level) {
             return BlockMath(is_double, level_named(level));
           }),
           "double"_a, "level"_a)
      .def(
          "fold",
          [](const BlockMath& math, int64_t rows, int64_t cols, int threads, Data grad, Data value,
             Data row, Data col, Data out, bool add, Data row_sums, Data col_sums) {
            math.fold({rows, cols, threads}, grad, value, {row, col}, {out, add},
                      {row_sums, col_sums});
          },
          WithoutGil(), "rows"_a, "cols"_a, "threads"_a, "grad"_a, "value"_a, "row"_a, "col"_a,
          "out"_a, "add"_a, "row_sums"_a, "col_sums"_a)
      .def(
          "map",
          [](const BlockMath& math, int64_t rows, int64_t cols, int threads, int map,
             const Vectors& planes, Data row, Data col, Data out) {
            math.map({rows, cols, threads}, map, addresses_of(planes), {row, col}, out);
          },
          WithoutGil(), "rows"_a, "cols"_a, "threads"_a, "map"_a, "planes"_a, "row"_a, "col"_a,
          "out"_a)
      .def("map_gradients", &map_gradients, "rows"_a, "cols"_a, "threads"_a, "map"_a, "planes"_a,
           "row"_a, "col"_a, "grad"_a, "outs"_a, "adds"_a, "row_sums"_a, "col_sums"_a);
}

}  // namespace contrastile
