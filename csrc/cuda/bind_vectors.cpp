#include <pybind11/stl.h>

#include <algorithm>
#include <vector>

#include "bindings.h"
#include "launch.h"

namespace py = pybind11;

namespace contrastile::cuda {
namespace {

using Addresses = std::vector<Address>;

// A list of `count` addresses as the kernels' structs have it.
template <class T>
void fill(T* (&to)[kMaxReductions], const Addresses& from, size_t count) {
  require(from.size() == count && count <= kMaxReductions,
          "expected " + std::to_string(count) + " addresses, one of each reduction");
  for (size_t r = 0; r < count; ++r) to[r] = pointer<T>(from[r]);
}

void merge_partials(const Target& target, Form form, Address sums, Address tops, int tiles,
                    int64_t length, Address flag, Address unit, const Addresses& to,
                    const Addresses& shifts) {
  Merge p{at<float>(sums), at<float>(tops), tiles, static_cast<int>(to.size()), length, form,
          at<int>(flag), at<double>(unit), {}, {}};
  fill(p.totals, to, to.size());
  if (p.tops) fill(p.shifts, shifts, to.size());
  const py::gil_scoped_release release;
  vectors.merge(p, target);
}

void certify_totals(const Target& target, const Addresses& of, int64_t length, double least,
                    double widest, Address spans, const std::vector<bool>& may_be_empty,
                    Address flag) {
  Certificate p{{}, static_cast<int>(of.size()), length, least, widest, at<double>(spans), {},
                pointer<int>(flag)};
  fill(p.totals, of, of.size());
  require(may_be_empty.size() == of.size(), "may_be_empty: expected one of each reduction");
  std::copy(may_be_empty.begin(), may_be_empty.end(), p.may_be_empty);
  const py::gil_scoped_release release;
  vectors.certify(p, target);
}

void settle_totals(const Target& target, int64_t length, Address flag, const Addresses& fixed,
                   Address fixed_shifts, const Addresses& raised, const Addresses& raised_shifts,
                   Address bits, Address shifts, const Addresses& logs) {
  Settlement p{static_cast<int>(logs.size()), length, at<int>(flag), {}, at<float>(fixed_shifts),
               {}, {}, pointer<double>(bits), pointer<float>(shifts), {}};
  if (p.flag) fill(p.fixed, fixed, logs.size());
  fill(p.raised, raised, logs.size());
  fill(p.raised_shifts, raised_shifts, logs.size());
  fill(p.logs, logs, logs.size());
  const py::gil_scoped_release release;
  vectors.settle(p, target);
}

using UpstreamTuple = std::tuple<Address, int64_t, double, Address, Address, Address>;

void form_coefficients(const Target& target, const std::vector<UpstreamTuple>& upstream,
                       bool twice, Address parts, int parts_each, Address unit) {
  require(!upstream.empty() && upstream.size() <= kMaxUpstream, "upstream: too few or too many");
  require(parts_each > 0 && parts_each % (kVectorThreads / 32) == 0, "parts_each: expected whole thread blocks");
  Upstream p{static_cast<int>(upstream.size()), 0, {}, {}, {}, {}, {}, {},
             pointer<float>(parts), parts_each, twice, pointer<double>(unit)};
  for (size_t v = 0; v < upstream.size(); ++v) {
    const auto& [grad, length, factor, bits, shifts, out] = upstream[v];
    p.grad[v] = at<float>(grad);
    p.length[v] = length;
    p.factor[v] = factor;
    p.bits[v] = at<double>(bits);
    p.shifts[v] = at<float>(shifts);
    p.out[v] = pointer<float>(out);
    if (out) p.weighed = static_cast<int>(v) + 1;
  }
  const py::gil_scoped_release release;
  vectors.form(p, target);
}

void take(Element element, const Target& target, const OperandTuple& operands, Address columns,
          int64_t rows, Address out) {
  const TakePositives p{operands_of(operands), at<int64_t>(columns), rows, pointer<float>(out)};
  const py::gil_scoped_release release;
  vectors.take(element, p, target);
}

void put(Element element, const Target& target, Address strip,
         const std::pair<int64_t, int64_t>& strides, Address columns, int64_t rows,
         const std::pair<int64_t, int64_t>& cols, Address grad, Address dots, Address unit,
         Address products) {
  const PutPositives p{pointer<void>(strip), strides.first, strides.second, at<int64_t>(columns),
                       rows, cols.first, cols.second - cols.first, at<float>(grad),
                       at<float>(dots), at<double>(unit), pointer<double>(products)};
  const py::gil_scoped_release release;
  vectors.put(element, p, target);
}

}  // namespace

void bind_vectors(py::module_& m) {
  using namespace py::literals;
  m.def("merge", &merge_partials, "target"_a, "form"_a, "sums"_a, "tops"_a, "tiles"_a, "length"_a,
        "flag"_a, "unit"_a, "totals"_a, "shifts"_a, "Partial sums of a block's side, added up.");
  m.def("certify", &certify_totals, "target"_a, "totals"_a, "length"_a, "least"_a, "widest"_a,
        "spans"_a, "may_be_empty"_a, "flag"_a, "Sets the flag where fixed shifts cost precision.");
  m.def("settle", &settle_totals, "target"_a, "length"_a, "flag"_a, "fixed"_a, "fixed_shifts"_a,
        "raised"_a, "raised_shifts"_a, "bits"_a, "shifts"_a, "logs"_a,
        "Log-sum-exps of the form that holds.");
  m.def("form", &form_coefficients, "target"_a, "upstream"_a, "twice"_a, "parts"_a, "parts_each"_a,
        "unit"_a, "Coefficients of G from upstream gradients, and its unit.");
  m.def("take", &take, "element"_a, "target"_a, "operands"_a, "columns"_a, "rows"_a, "out"_a,
        "Dot products of the positives.");
  m.def("put", &put, "element"_a, "target"_a, "strip"_a, "strides"_a, "columns"_a, "rows"_a,
        "cols"_a, "grad"_a, "dots"_a, "unit"_a, "products"_a,
        "Gradients of positives, added to a block of G.");
}

}  // namespace contrastile::cuda
