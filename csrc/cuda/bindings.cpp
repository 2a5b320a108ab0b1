#include "bindings.h"

#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "../bindings.h"
#include "launch.h"

namespace py = pybind11;

namespace contrastile::cuda {
namespace {

using Step = std::tuple<int, Address, Address>;
using Steps = std::vector<Step>;

// What the host fills in piece by piece; the kernels take `value`.
struct Builder {
  Reductions value{};
  int steps = 0;

  Span program(const Steps& code) {
    const Span span{steps, static_cast<int>(code.size())};
    int depth = 0;
    for (const auto& [op, a, b] : code) {
      require(op >= 0 && op < kOpCount, "program: unknown op");
      require(kOps[op].reads == Reads::integers || kOps[op].reads == Reads::nothing,
              "program: reads what is no integer");
      require(steps < kMaxSteps, "program: more than " + std::to_string(kMaxSteps) + " steps");
      const int needs = kOps[op].operands;
      require(depth >= needs, "program: an operator lacks its operands");
      depth += 1 - needs;
      require(depth <= kMaxOperands, "program: too many operands at once");
      value.code[steps++] = {static_cast<Op>(op), at<int64_t>(a), at<int64_t>(b)};
    }
    require(depth == (code.empty() ? 0 : 1), "program: leaves more than one result");
    return span;
  }

  void add(Address coef_hi, Address coef_lo, bool per_row, Address row_offset, bool has_row_offset,
           Address col_offset, const Steps& pairs, const Steps& members, Address member_weight,
           int phi, bool floor) {
    require(value.count < kMaxReductions, "too many reductions");
    require(phi >= 0 && phi < kPhiCount, "phi: unknown function");
    Reduction& own = value.each[value.count++];
    own.coef_hi = {at<float>(coef_hi), per_row};
    own.coef_lo = {at<float>(coef_lo), per_row};
    own.row_offset = {at<float>(row_offset), has_row_offset};
    own.col_offset = at<float>(col_offset);
    own.pairs = program(pairs);
    own.members = program(members);
    own.member_weight = at<float>(member_weight);
    own.phi = static_cast<Phi>(phi);
    own.floor = floor;
  }
};

using BlockTuple = std::tuple<int, int, int, int, bool>;
using CoefficientTuple = std::tuple<Address, Address, Address, Address>;

Block block_of(const BlockTuple& x) {
  const auto& [first_row, row_end, first_col, col_end, diagonal] = x;
  require(first_row < row_end && first_col < col_end, "block: no rows or no columns");
  return {first_row, row_end, first_col, col_end, diagonal};
}

void reduce_block(Element element, Form form, const Target& target, const Builder& reductions,
                  const OperandTuple& operands, const BlockTuple& block, Address flag,
                  Address shifts, Address row_sums, Address col_sums, Address row_tops,
                  Address col_tops) {
  const Reduce p{operands_of(operands), block_of(block),      reductions.value,
                 at<int>(flag),         at<float>(shifts),    pointer<float>(row_sums),
                 pointer<float>(col_sums), pointer<float>(row_tops), pointer<float>(col_tops)};
  const py::gil_scoped_release release;
  launcher(element, target.family).reduce(form, p, target);
}

void weigh_block(Element element, Form form, const Target& target, const Builder& reductions,
                 const OperandTuple& operands, const BlockTuple& block, Address flag,
                 Address shifts, const std::vector<CoefficientTuple>& coefficients, Address out,
                 int64_t out_stride, Address row_products) {
  require(static_cast<int>(coefficients.size()) == reductions.value.count,
          "coefficients: expected one of each reduction");
  Weigh p{operands_of(operands), block_of(block),    reductions.value, {},
          at<int>(flag),         at<float>(shifts),  pointer<void>(out), out_stride,
          pointer<float>(row_products)};
  for (size_t r = 0; r < coefficients.size(); ++r) {
    const auto& [row, row_top, col, col_top] = coefficients[r];
    p.coefficients[r] = {at<float>(row), at<float>(row_top), at<float>(col), at<float>(col_top)};
  }
  const py::gil_scoped_release release;
  launcher(element, target.family).weigh(form, p, target);
}

}  // namespace

void bind(py::module_& m) {
  using namespace py::literals;
  py::enum_<Element>(m, "Element", "What is multiplied.", py::module_local())
      .value("bf16", Element::bf16)
      .value("fp16", Element::fp16)
      .value("tf32", Element::tf32);
  py::enum_<Form>(m, "Form", "What is computed of a block.", py::module_local())
      .value("fixed", Form::fixed)
      .value("general", Form::general)
      .value("term", Form::term);
  py::enum_<Family>(m, "Family", "Whose instructions.", py::module_local())
      .value("sm80", Family::sm80)
      .value("sm90", Family::sm90);
  py::class_<Target>(m, "Target", "A device and a stream.", py::module_local())
      .def(py::init([](Family family, int device, int processors, int shared_bytes, Address stream) {
             return Target{family, device, processors, shared_bytes,
                           pointer<void>(stream)};
           }),
           "family"_a, "device"_a, "processors"_a, "shared_bytes"_a, "stream"_a);
  py::class_<Builder>(m, "Reductions", "Up to four log-sum-exps, or pair sums, of one problem.",
                      py::module_local())
      .def(py::init<>())
      .def("add", &Builder::add, "coef_hi"_a, "coef_lo"_a, "per_row"_a, "row_offset"_a,
           "has_row_offset"_a, "col_offset"_a, "pairs"_a, "members"_a, "member_weight"_a, "phi"_a,
           "floor"_a);
  m.def("shared_bytes", &shared_bytes, "device"_a, "Shared memory that a block may take.");
  m.def("versions", [] {
    const Versions found = versions();
    return std::make_tuple(found.runtime, found.driver);
  }, "CUDA's: what this was built with, and the newest that the driver is for.");
  m.def("tile_cols", [](Element element, const Target& target, int d) {
    return launcher(element, target.family).tile_cols(d, target);
  }, "element"_a, "target"_a, "d"_a, "Columns of a tile.");
  m.def("reduce", &reduce_block, "element"_a, "form"_a, "target"_a, "reductions"_a, "operands"_a,
        "block"_a, "flag"_a, "shifts"_a, "row_sums"_a, "col_sums"_a, "row_tops"_a, "col_tops"_a,
        "Partial sums of a block.");
  m.def("weigh", &weigh_block, "element"_a, "form"_a, "target"_a, "reductions"_a, "operands"_a,
        "block"_a, "flag"_a, "shifts"_a, "coefficients"_a, "out"_a, "out_stride"_a,
        "row_products"_a, "The weights of a block.");
  bind_vectors(m);
}

}  // namespace contrastile::cuda
