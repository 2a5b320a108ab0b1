// Lowered problems, and the sums and weights of their calls. Addresses are integers, 0 for none;
// nothing here checks them.
#include <pybind11/stl.h>

#include <tuple>

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
using CoefficientTuple = std::tuple<double, double, Address, Address, Address, Address>;
using Addresses = std::vector<Address>;

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

Call call_of(Addresses tensors, const std::vector<CoefficientTuple>& given, int64_t n, int64_t m,
             int threads) {
  std::vector<Coefficients> coefficients;
  for (const auto& [high, low, highs, lows, row_offset, col_offset] : given)
    coefficients.push_back({high, low, highs, lows, row_offset, col_offset});
  return {std::move(tensors), std::move(coefficients), n, m, threads};
}

std::unique_ptr<Sums> make_sums(const std::shared_ptr<Lowered>& lowered, Addresses tensors,
                                const std::vector<CoefficientTuple>& coefficients, int64_t n,
                                int64_t m, double largest_dot, int threads) {
  return sums_of(lowered, call_of(std::move(tensors), coefficients, n, m, threads), largest_dot);
}

std::unique_ptr<Weights> make_weights(const std::shared_ptr<Lowered>& lowered, Addresses tensors,
                                      const std::vector<CoefficientTuple>& coefficients, int64_t n,
                                      int64_t m, Addresses row_bits, Addresses row_grads,
                                      Addresses col_bits, Addresses col_grads, Address shifts,
                                      int64_t begin, int64_t end, int threads) {
  const Call call = call_of(std::move(tensors), coefficients, n, m, threads);
  const py::gil_scoped_release release;
  return weights_of(lowered, call, {std::move(row_bits), std::move(row_grads)},
                    {std::move(col_bits), std::move(col_grads)}, shifts, begin, end);
}

void settle(const Sums& sums, int64_t begin, int64_t end, Addresses rows, Addresses row_bits,
            Addresses cols, Addresses col_bits, Address shifts) {
  const py::gil_scoped_release release;
  sums.settle(begin, end, {std::move(rows), std::move(row_bits)},
              {std::move(cols), std::move(col_bits)}, shifts);
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
      .def("sums", &make_sums, "tensors"_a, "coefficients"_a, "n"_a, "m"_a, "largest_dot"_a,
           "threads"_a)
      .def("weights", &make_weights, "tensors"_a, "coefficients"_a, "n"_a, "m"_a, "row_bits"_a,
           "row_grads"_a, "col_bits"_a, "col_grads"_a, "shifts"_a, "begin"_a, "end"_a, "threads"_a);

  py::class_<Sums>(m, "Sums", "The sums of one forward pass.")
      .def("take_positives", &Sums::take_positives, "columns"_a, "dots"_a)
      .def("count", &Sums::count, "row_threshold"_a, "row_count"_a, "col_threshold"_a,
           "col_count"_a)
      .def("sum_scores", &Sums::sum_scores, "each"_a, "row_sum"_a, "col_sum"_a)
      .def(
          "add",
          [](Sums& sums, Address dots, int64_t ld, int64_t row0, int64_t rows, int64_t col0,
             int64_t cols, bool mirrored) {
            sums.add(dots, ld, {row0, rows, col0, cols, mirrored});
          },
          WithoutGil(), "dots"_a, "ld"_a, "row0"_a, "rows"_a, "col0"_a, "cols"_a, "mirrored"_a)
      .def("settle", &settle, "begin"_a, "end"_a, "rows"_a, "row_bits"_a, "cols"_a, "col_bits"_a,
           "shifts"_a);

  py::class_<Weights>(m, "Weights", "The weights of one backward pass.")
      .def("put_positives", &Weights::put_positives, "columns"_a, "grad"_a, "dots"_a)
      .def("add_lines", &Weights::add_lines, "row_line"_a, "col_line"_a)
      .def("sum_products", &Weights::sum_products, "products"_a)
      .def(
          "weigh",
          [](Weights& weights, Address dots, int64_t ld, Address out, int64_t out_ld, int64_t row0,
             int64_t rows, int64_t col0, int64_t cols, bool mirrored) {
            weights.weigh(dots, ld, out, out_ld, {row0, rows, col0, cols, mirrored});
          },
          WithoutGil(), "dots"_a, "ld"_a, "out"_a, "out_ld"_a, "row0"_a, "rows"_a, "col0"_a,
          "cols"_a, "mirrored"_a);
}

}  // namespace contrastile
