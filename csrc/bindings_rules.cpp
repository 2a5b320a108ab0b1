// The Python face of the losses of rows.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings.h"
#include "row_rules.h"

namespace py = pybind11;

namespace contrastile {
namespace {

template <class T>
std::vector<T*> pointers(const std::vector<Address>& addresses) {
  std::vector<T*> found;
  for (const Address address : addresses) found.push_back(pointer<T>(address));
  return found;
}

template <class T>
void run(int rule, int reduction, bool skip, double share, int64_t n,
         const std::vector<Address>& stats, Address positive, Address omega, Address columns,
         Address weights, Address loss, const std::vector<Address>& slopes,
         Address positive_slope) {
  const RowLoss<T> given{static_cast<RowRule>(rule),
                         static_cast<RowReduction>(reduction),
                         skip,
                         share,
                         n,
                         pointers<const T>(stats),
                         pointer<const T>(positive),
                         pointer<const T>(omega),
                         pointer<const int64_t>(columns),
                         pointer<const T>(weights)};
  row_loss(given, pointer<T>(loss), pointers<T>(slopes), pointer<T>(positive_slope));
}

void row_loss_at(bool is_double, int rule, int reduction, bool skip, double share, int64_t n,
                 const std::vector<Address>& stats, Address positive, Address omega,
                 Address columns, Address weights, Address loss,
                 const std::vector<Address>& slopes, Address positive_slope) {
  const py::gil_scoped_release release;
  const auto run_as = is_double ? &run<double> : &run<float>;
  run_as(rule, reduction, skip, share, n, stats, positive, omega, columns, weights, loss, slopes,
         positive_slope);
}

}  // namespace

void bind_rules(py::module_& m) {
  m.attr("row_rules") = std::vector<std::string>{"softmax", "decoupled", "sigmoid"};
  m.attr("row_reductions") = std::vector<std::string>{"mean", "sum", "none"};
  m.def("row_loss", &row_loss_at,
        "The loss of rows from their stats, and its slopes; by position, as engine/rules.py.");
}

}  // namespace contrastile
