// The Python module.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings.h"
#include "block_steps.h"
#include "dispatch.h"
#include "norms.h"
#include "row_steps.h"
#if defined(CONTRASTILE_CUDA)
#include "cuda/bindings.h"
#endif

namespace py = pybind11;

namespace contrastile {
namespace {

std::vector<std::string> level_names() {
  std::vector<std::string> names;
  for (const Level* level : usable_levels()) names.emplace_back(level->name);
  return names;
}

double max_norm_at(Address data, int dtype, int64_t rows, int64_t cols, int64_t stride0,
                   int64_t stride1, int threads) {
  const py::gil_scoped_release release;
  return max_norm(pointer<const void>(data), static_cast<Dtype>(dtype), rows, cols, stride0,
                  stride1, threads);
}

void mirror_at(Address square, int element_size, int64_t n, int threads) {
  const py::gil_scoped_release release;
  mirror(pointer<void>(square), element_size, n, threads);
}

void add_sums_at(bool is_double, Address block, int64_t rows, int64_t cols, Address of_rows,
                 Address of_cols, int threads) {
  const py::gil_scoped_release release;
  double *const own = pointer<double>(of_rows), *const other = pointer<double>(of_cols);
  if (is_double) add_sums(pointer<const double>(block), rows, cols, own, other, threads);
  else add_sums(pointer<const float>(block), rows, cols, own, other, threads);
}

}  // namespace
}  // namespace contrastile

PYBIND11_MODULE(_C, m) {
  using namespace py::literals;
  using namespace contrastile;
  m.doc() = "Fused passes over tiles of scores. Addresses are integers; nothing here checks them.";
  m.def("levels", &level_names, "Instruction-set levels usable on this processor, best first.");
  m.def("max_norm", &max_norm_at, "ptr"_a, "dtype"_a, "rows"_a, "cols"_a, "stride0"_a, "stride1"_a,
        "threads"_a);
  m.def("mirror", &mirror_at, "square"_a, "element_size"_a, "n"_a, "threads"_a);
  m.def("add_sums", &add_sums_at, "double"_a, "block"_a, "rows"_a, "cols"_a, "of_rows"_a,
        "of_cols"_a, "threads"_a);
  m.def(
      "advise_huge_pages",
      [](Address data, int64_t bytes) { advise_huge_pages(pointer<void>(data), bytes); }, "ptr"_a,
      "bytes"_a);
  bind_passes(m);
  bind_rules(m);
  bind_block(m);
  bind_block_math(m);
  bind_unit_length(m);
  bind_select(m);
#if defined(CONTRASTILE_CUDA)
  py::module_ kernels = m.def_submodule("cuda", "Kernels for NVIDIA GPUs.");
  cuda::bind(kernels);
  m.attr("cuda_archs") = CONTRASTILE_CUDA;
#else
  m.attr("no_cuda") = CONTRASTILE_NO_CUDA;
#endif
}
