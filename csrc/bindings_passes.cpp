// Lowered problems, and the sums and weights of their calls. Nothing here checks what tensors hold.
#include <pybind11/stl.h>

#include <tuple>

#include "arguments.h"
#include "bindings.h"
#include "sums.h"
#include "weights.h"

namespace py = pybind11;

namespace contrastile {
namespace {

constexpr double kLog2e = 1.44269504088896340736;

using StepTuple = std::tuple<int, int, int>;
using StepTuples = std::vector<StepTuple>;
// problem.spec.Stat; the slots of its offsets are not read here.
using StatTuple = std::tuple<std::optional<int>, double, std::vector<int>, StepTuples,
                             std::vector<std::tuple<StepTuples, double>>, int, int>;

Steps steps_of(const StepTuples& given) {
  Steps steps;
  for (const auto& [op, a, b] : given) {
    if (op < 0 || op >= kOpCount)
      throw std::invalid_argument("program: unknown op " + std::to_string(op));
    steps.push_back({static_cast<Op>(op), a, b});
  }
  return steps;
}

StatCode stat_of(const StatTuple& given) {
  const auto& [phi, factor, holes, program, classes, row_offset, col_offset] = given;
  if (phi && (*phi < 0 || *phi >= kPhiCount))
    throw std::invalid_argument("phi: unknown function " + std::to_string(*phi));
  StatCode stat{std::nullopt, factor, holes, steps_of(program), {}};
  if (phi) stat.phi = static_cast<Phi>(*phi);
  for (const auto& [where, weight] : classes)
    stat.classes.push_back({steps_of(where), weight * kLog2e});
  return stat;
}

std::shared_ptr<Lowered> lowered_of(const std::vector<StatTuple>& given, bool rows, bool cols,
                                    bool triangle, bool gaps, bool is_double,
                                    const std::string& level) {
  std::vector<StatCode> stats;
  for (const StatTuple& stat : given) stats.push_back(stat_of(stat));
  return std::make_shared<Lowered>(std::move(stats), SideCodes{rows, cols, triangle}, gaps,
                                   is_double, level);
}

std::unique_ptr<Sums> make_sums(const std::shared_ptr<Lowered>& lowered, const Vectors& tensors,
                                const std::vector<ArgumentTuple>& arguments, int64_t n, int64_t m,
                                double largest_dot, int threads, const Vectors& planes) {
  return sums_of(lowered, call_of(tensors, arguments, n, m, threads, planes), largest_dot);
}

std::unique_ptr<Weights> make_weights(const std::shared_ptr<Lowered>& lowered,
                                      const Vectors& tensors,
                                      const std::vector<ArgumentTuple>& arguments, int64_t n,
                                      int64_t m, const Vectors& row_bits, const Vectors& row_grads,
                                      const Vectors& col_bits, const Vectors& col_grads,
                                      Data shifts, int64_t begin, int64_t end, int threads,
                                      const Vectors& planes) {
  const Call call = call_of(tensors, arguments, n, m, threads, planes);
  const SideGradients rows{addresses_of(row_bits), addresses_of(row_grads)};
  const SideGradients cols{addresses_of(col_bits), addresses_of(col_grads)};
  const py::gil_scoped_release release;
  return weights_of(lowered, call, rows, cols, shifts, begin, end);
}

void settle(const Sums& sums, int64_t begin, int64_t end, const Vectors& rows,
            const Vectors& row_bits, const Vectors& cols, const Vectors& col_bits, Data shifts) {
  const SideStats of_rows{addresses_of(rows), addresses_of(row_bits)};
  const SideStats of_cols{addresses_of(cols), addresses_of(col_bits)};
  const py::gil_scoped_release release;
  sums.settle(begin, end, of_rows, of_cols, shifts);
}

}  // namespace

void bind_passes(py::module_& m) {
  using namespace py::literals;
  using WithoutGil = py::call_guard<py::gil_scoped_release>;

  py::dict ops, phis;
  for (int code = 0; code < kOpCount; ++code)
    ops[kOps[code].name] = py::make_tuple(code, kOps[code].vectors, kOps[code].operands);
  for (int code = 0; code < kPhiCount; ++code) phis[kPhis[code]] = code;
  m.attr("ops") = ops;
  m.attr("phis") = phis;

  py::class_<Lowered, std::shared_ptr<Lowered>>(
      m, "Lowered", "A problem without its tensors: checked once, run by any number of calls.")
      .def(py::init(&lowered_of), "stats"_a, "rows"_a, "cols"_a, "triangle"_a, "gaps"_a, "double"_a,
           "level"_a)
      .def("sums", &make_sums, "tensors"_a, "arguments"_a, "n"_a, "m"_a, "largest_dot"_a,
           "threads"_a, "planes"_a = py::tuple())
      .def("weights", &make_weights, "tensors"_a, "arguments"_a, "n"_a, "m"_a, "row_bits"_a,
           "row_grads"_a, "col_bits"_a, "col_grads"_a, "shifts"_a, "begin"_a, "end"_a, "threads"_a,
           "planes"_a = py::tuple());

  py::class_<Sums>(m, "Sums", "The sums of one forward pass.")
      .def(
          "take_positives",
          [](Sums& sums, Data columns, Data dots) { sums.take_positives(columns, dots); },
          "columns"_a, "dots"_a)
      .def(
          "count",
          [](Sums& sums, Data row_threshold, Data row_count, Data col_threshold, Data col_count) {
            sums.count(row_threshold, row_count, col_threshold, col_count);
          },
          "row_threshold"_a, "row_count"_a, "col_threshold"_a, "col_count"_a)
      .def(
          "sum_scores",
          [](Sums& sums, Data each, Data row_sum, Data col_sum) {
            sums.sum_scores(each, row_sum, col_sum);
          },
          "each"_a, "row_sum"_a, "col_sum"_a)
      .def(
          "add",
          [](Sums& sums, Data dots, int64_t ld, int64_t row0, int64_t rows, int64_t col0,
             int64_t cols, bool mirrored) {
            sums.add(dots, ld, {row0, rows, col0, cols, mirrored});
          },
          WithoutGil(), "dots"_a, "ld"_a, "row0"_a, "rows"_a, "col0"_a, "cols"_a, "mirrored"_a)
      .def("settle", &settle, "begin"_a, "end"_a, "rows"_a, "row_bits"_a, "cols"_a, "col_bits"_a,
           "shifts"_a);

  py::class_<Weights>(m, "Weights", "The weights of one backward pass.")
      .def(
          "put_positives",
          [](Weights& weights, Data columns, Data grad, Data dots) {
            weights.put_positives(columns, grad, dots);
          },
          "columns"_a, "grad"_a, "dots"_a)
      .def(
          "add_lines",
          [](Weights& weights, Data row_line, Data col_line) {
            weights.add_lines(row_line, col_line);
          },
          "row_line"_a, "col_line"_a)
      .def(
          "sum_products", [](Weights& weights, Data products) { weights.sum_products(products); },
          "products"_a)
      .def(
          "weigh",
          [](Weights& weights, Data dots, int64_t ld, Data out, int64_t out_ld, int64_t row0,
             int64_t rows, int64_t col0, int64_t cols, bool mirrored) {
            weights.weigh(dots, ld, out, out_ld, {row0, rows, col0, cols, mirrored});
          },
          WithoutGil(), "dots"_a, "ld"_a, "out"_a, "out_ld"_a, "row0"_a, "rows"_a, "col0"_a,
          "cols"_a, "mirrored"_a);
}

}  // namespace contrastile
