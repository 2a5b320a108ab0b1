// The Python face: descriptors hold addresses as integers, passes turn them into plain structs per
// tile.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <deque>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "dispatch.h"
#include "norms.h"
#if defined(CONTRASTILE_CUDA)
#include "cuda/bindings.h"
#endif

namespace py = pybind11;

namespace contrastile {
namespace {

// Lists stay Python lists, so that `descriptor.holes.append(...)` means what it says.
struct Descriptor {
  Address row_offset = 0, col_offset = 0, row_sum = 0, col_sum = 0, row_grad = 0, col_grad = 0;
  Address row_threshold = 0, row_count = 0, col_threshold = 0, col_count = 0;
  py::list holes, program, class_weights;
};

struct ChannelDescriptor : Descriptor {
  Address coef_hi = 0, coef_lo = 0, row_shift = 0, col_shift = 0, row_lse = 0, col_lse = 0;
  Address row_line = 0, col_line = 0;
  double same_coef_hi = 0, same_coef_lo = 0;  // for all rows, where there is no address
  bool bounded = false;
  double shift = 0;
};

struct TermDescriptor : Descriptor {
  Address coef = 0;
  double same_coef = 0;  // for all rows, where there is no address
  int phi = 0;
  double factor = 1;
};

using Step = std::tuple<int, Address, Address>;

std::vector<Instruction> read_program(const py::list& steps) {
  std::vector<Instruction> code;
  int depth = 0;
  for (const py::handle step : steps) {
    const auto [op, a, b] = step.cast<Step>();
    if (op < 0 || op > static_cast<int>(Op::logical_or))
      throw std::invalid_argument("program: unknown op " + std::to_string(op));
    const Op kind = static_cast<Op>(op);
    const int needs = kind == Op::logical_not ? 1 : kind >= Op::logical_and ? 2 : 0;
    if (depth < needs) throw std::invalid_argument("program: an operator lacks its operands");
    depth += kind == Op::logical_not ? 0 : kind >= Op::logical_and ? -1 : 1;
    if (depth > kMaxDepth)
      throw std::invalid_argument("program: needs more than " + std::to_string(kMaxDepth) +
                                  " operands at once");
    code.push_back({kind, pointer<const int64_t>(a), pointer<const int64_t>(b)});
  }
  if (depth > 1) throw std::invalid_argument("program: leaves more than one result");
  return code;
}

// Owns what the plain structs of one family point to.
template <class T, class Item>
class Resolved {
 public:
  explicit Resolved(const py::list& descriptors);
  const std::vector<Item>& items() const { return items_; }

 private:
  Program program(const py::list& steps) {
    const auto& code = programs_.emplace_back(read_program(steps));
    return {code.data(), static_cast<int>(code.size())};
  }

  Pairs<T> pairs(const Descriptor& d) {
    auto& holes = holes_.emplace_back();
    for (const py::handle hole : d.holes)
      holes.push_back(pointer<const int64_t>(hole.cast<Address>()));
    auto& weights = weights_.emplace_back();
    for (const py::handle entry : d.class_weights) {
      const auto [steps, weight] = entry.cast<std::tuple<py::list, double>>();
      weights.push_back({program(steps), static_cast<T>(weight)});
    }
    return {holes.data(),   static_cast<int>(holes.size()),   program(d.program),
            weights.data(), static_cast<int>(weights.size()), pointer<const T>(d.col_offset)};
  }

  static Counts<T> counts(const Descriptor& d) {
    return {pointer<const T>(d.row_threshold), pointer<int64_t>(d.row_count),
            pointer<const T>(d.col_threshold), pointer<int64_t>(d.col_count)};
  }

  Channel<T> item(const ChannelDescriptor& d) {
    Channel<T> c{};
    c.coef_hi = {pointer<const T>(d.coef_hi), static_cast<T>(d.same_coef_hi)};
    c.coef_lo = {pointer<const T>(d.coef_lo), static_cast<T>(d.same_coef_lo)};
    c.row_offset = {pointer<const T>(d.row_offset), T(0)};
    c.pairs = pairs(d);
    c.bounded = d.bounded;
    c.shift = static_cast<T>(d.shift);
    c.row_shift = pointer<T>(d.row_shift);
    c.row_sum = pointer<double>(d.row_sum);
    c.col_shift = pointer<T>(d.col_shift);
    c.col_sum = pointer<double>(d.col_sum);
    c.counts = counts(d);
    c.row_lse = pointer<const T>(d.row_lse);
    c.row_grad = pointer<const T>(d.row_grad);
    c.col_lse = pointer<const T>(d.col_lse);
    c.col_grad = pointer<const T>(d.col_grad);
    c.row_line = pointer<const T>(d.row_line);
    c.col_line = pointer<const T>(d.col_line);
    return c;
  }

  Term<T> item(const TermDescriptor& d) {
    if (d.phi < 0 || d.phi > static_cast<int>(Phi::square))
      throw std::invalid_argument("phi: expected 0 to 3, got " + std::to_string(d.phi));
    Term<T> t{};
    t.coef = {pointer<const T>(d.coef), static_cast<T>(d.same_coef)};
    t.row_offset = {pointer<const T>(d.row_offset), T(0)};
    t.pairs = pairs(d);
    t.phi = static_cast<Phi>(d.phi);
    t.row_sum = pointer<double>(d.row_sum);
    t.col_sum = pointer<double>(d.col_sum);
    t.counts = counts(d);
    t.row_grad = pointer<const T>(d.row_grad);
    t.col_grad = pointer<const T>(d.col_grad);
    t.factor = static_cast<T>(d.factor);
    return t;
  }

  std::vector<Item> items_;
  std::deque<std::vector<Instruction>> programs_;
  std::deque<std::vector<const int64_t*>> holes_;
  std::deque<std::vector<ClassWeight<T>>> weights_;
};

template <class Item>
struct DescriptorOf;
template <class T>
struct DescriptorOf<Channel<T>> {
  using type = ChannelDescriptor;
};
template <class T>
struct DescriptorOf<Term<T>> {
  using type = TermDescriptor;
};

template <class T, class Item>
Resolved<T, Item>::Resolved(const py::list& descriptors) {
  for (const py::handle d : descriptors)
    items_.push_back(item(d.cast<const typename DescriptorOf<Item>::type&>()));
}

// SoftmaxPass (Item = Channel) and PairPass (Item = Term).
template <template <class> class Item>
class Pass {
 public:
  py::list items;

  Pass(bool is_double, const std::string& level)
      : is_double_(is_double), level_(level_named(level)) {}

  void reduce(Address s, int64_t ld, int64_t row0, int64_t rows, int64_t col0, int64_t cols,
              bool want_rows, bool want_cols, int threads) {
    visit([&](auto zero, auto& workspace) {
      using T = decltype(zero);
      const Resolved<T, Item<T>> resolved(items);
      const Tile<T> tile{pointer<const T>(s), ld,       nullptr, 0, row0, rows, col0, cols,
                         want_rows,           want_cols};
      const py::gil_scoped_release release;
      reduce_tile(level_, tile, resolved.items(), threads, workspace);
    });
  }

  void weights(Address s, int64_t ld, Address out, int64_t out_ld, int64_t row0, int64_t rows,
               int64_t col0, int64_t cols, bool want_rows, bool want_cols, int threads,
               Address row_product, double share) {
    visit([&](auto zero, auto& workspace) {
      using T = decltype(zero);
      const Resolved<T, Item<T>> resolved(items);
      const Tile<T> tile{pointer<const T>(s),
                         ld,
                         pointer<T>(out),
                         out_ld,
                         row0,
                         rows,
                         col0,
                         cols,
                         want_rows,
                         want_cols,
                         pointer<double>(row_product),
                         share};
      const py::gil_scoped_release release;
      weigh_tile(level_, tile, resolved.items(), threads, workspace);
    });
  }

 private:
  template <class F>
  void visit(F&& f) {
    if (is_double_) f(double{}, double_workspace_);
    else f(float{}, float_workspace_);
  }

  bool is_double_;
  const Level& level_;
  Workspace<float> float_workspace_;
  Workspace<double> double_workspace_;
};

template <class D>
py::class_<D> bind_descriptor(py::module_& m, const char* name, const char* doc) {
  return py::class_<D>(m, name, doc)
      .def(py::init<>())
      .def_readwrite("row_offset", &D::row_offset)
      .def_readwrite("col_offset", &D::col_offset)
      .def_readwrite("holes", &D::holes)
      .def_readwrite("program", &D::program)
      .def_readwrite("row_sum", &D::row_sum)
      .def_readwrite("col_sum", &D::col_sum)
      .def_readwrite("row_threshold", &D::row_threshold)
      .def_readwrite("row_count", &D::row_count)
      .def_readwrite("col_threshold", &D::col_threshold)
      .def_readwrite("col_count", &D::col_count)
      .def_readwrite("row_grad", &D::row_grad)
      .def_readwrite("col_grad", &D::col_grad);
}

template <template <class> class Item>
void bind_pass(py::module_& m, const char* name, const char* items, const char* doc) {
  using namespace py::literals;
  py::class_<Pass<Item>>(m, name, doc)
      .def(py::init<bool, const std::string&>(), "double"_a, "level"_a)
      .def_readwrite(items, &Pass<Item>::items)
      .def("reduce", &Pass<Item>::reduce, "s"_a, "ld"_a, "row0"_a, "rows"_a, "col0"_a, "cols"_a,
           "want_rows"_a, "want_cols"_a, "threads"_a)
      .def("weights", &Pass<Item>::weights, "s"_a, "ld"_a, "out"_a, "out_ld"_a, "row0"_a, "rows"_a,
           "col0"_a, "cols"_a, "want_rows"_a, "want_cols"_a, "threads"_a,
           "row_product"_a = 0, "share"_a = 1.0);
}

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

}  // namespace
}  // namespace contrastile

PYBIND11_MODULE(_C, m) {
  using namespace py::literals;
  using namespace contrastile;
  m.doc() = "Fused passes over tiles of scores. Addresses are integers; nothing here checks them.";
  m.def("levels", &level_names, "Instruction-set levels usable on this processor, best first.");
  m.def("max_norm", &max_norm_at, "ptr"_a, "dtype"_a, "rows"_a, "cols"_a, "stride0"_a, "stride1"_a,
        "threads"_a);
  bind_descriptor<ChannelDescriptor>(m, "Channel", "One log-sum-exp over the kept pairs.")
      .def_readwrite("class_weights", &ChannelDescriptor::class_weights)
      .def_readwrite("coef_hi", &ChannelDescriptor::coef_hi)
      .def_readwrite("coef_lo", &ChannelDescriptor::coef_lo)
      .def_readwrite("same_coef_hi", &ChannelDescriptor::same_coef_hi)
      .def_readwrite("same_coef_lo", &ChannelDescriptor::same_coef_lo)
      .def_readwrite("bounded", &ChannelDescriptor::bounded)
      .def_readwrite("shift", &ChannelDescriptor::shift)
      .def_readwrite("row_shift", &ChannelDescriptor::row_shift)
      .def_readwrite("col_shift", &ChannelDescriptor::col_shift)
      .def_readwrite("row_lse", &ChannelDescriptor::row_lse)
      .def_readwrite("row_line", &ChannelDescriptor::row_line)
      .def_readwrite("col_line", &ChannelDescriptor::col_line)
      .def_readwrite("col_lse", &ChannelDescriptor::col_lse);
  bind_descriptor<TermDescriptor>(m, "Term", "One sum of phi over the kept pairs.")
      .def_readwrite("coef", &TermDescriptor::coef)
      .def_readwrite("same_coef", &TermDescriptor::same_coef)
      .def_readwrite("phi", &TermDescriptor::phi)
      .def_readwrite("factor", &TermDescriptor::factor);
  bind_pass<Channel>(m, "SoftmaxPass", "channels",
                     "Up to three log-sum-exps in one pass over a tile.");
  bind_pass<Term>(m, "PairPass", "terms", "Up to three pair sums in one pass over a tile.");
  bind_row_steps(m);
#if defined(CONTRASTILE_CUDA)
  py::module_ kernels = m.def_submodule("cuda", "Kernels for NVIDIA GPUs.");
  cuda::bind(kernels);
  m.attr("cuda_archs") = CONTRASTILE_CUDA;
#else
  m.attr("no_cuda") = CONTRASTILE_NO_CUDA;
#endif
}
