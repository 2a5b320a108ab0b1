// The Python face of losses of a single block.
#include "arguments.h"
#include "bindings.h"
#include "block_loss.h"

namespace py = pybind11;

namespace contrastile {
namespace {

using Arguments = std::vector<ArgumentTuple>;

std::unique_ptr<BlockLoss> make(const std::shared_ptr<Lowered>& lowered, int rule, int reduction,
                                double share, bool skip, bool some_without, int positives,
                                int weights, int omega, int row_count, int col_count) {
  const RuleCode code{static_cast<RowRule>(rule),
                      static_cast<RowReduction>(reduction),
                      share,
                      skip,
                      some_without,
                      positives,
                      weights,
                      omega,
                      row_count,
                      col_count};
  return std::make_unique<BlockLoss>(lowered, code);
}

void reduce(const BlockLoss& loss, const Vectors& tensors, const Arguments& arguments, int64_t n,
            int64_t m, int threads, Number scale, Data row_bias, Data col_bias, Data dots, Data out,
            Data arena) {
  const Call call = call_of(tensors, arguments, n, m, threads);
  const Affine scores{{pointer<const double>(scale.each), scale.same},
                      pointer<const double>(row_bias),
                      pointer<const double>(col_bias)};
  const py::gil_scoped_release release;
  loss.reduce(call, scores, dots, out, arena);
}

void weigh(const BlockLoss& loss, const Vectors& tensors, const Arguments& arguments, int64_t n,
           int64_t m, int threads, Data arena, Number grad, Data dots, Data out, Data products,
           bool each) {
  const Call call = call_of(tensors, arguments, n, m, threads);
  const py::gil_scoped_release release;
  loss.weigh(call, arena, {grad.same, grad.each}, dots, out, products, each);
}

}  // namespace

void bind_block(py::module_& m) {
  using namespace py::literals;
  py::class_<BlockLoss>(m, "BlockLoss", "A loss of rows of a single block, one call a pass.")
      .def(py::init(&make), "lowered"_a, "rule"_a, "reduction"_a, "share"_a, "skip"_a,
           "some_without"_a, "positives"_a, "weights"_a, "omega"_a,
           "row_count"_a, "col_count"_a)
      .def("arena_size", &BlockLoss::arena_size, "n"_a, "m"_a)
      .def("reduce", &reduce,
           "By position: tensors, arguments, n, m, threads, scale, row_bias, col_bias, dots, loss, "
           "arena.")
      .def("weigh", &weigh,
           "By position: tensors, arguments, n, m, threads, arena, grad, dots, out, products, "
           "each.");
}

}  // namespace contrastile
