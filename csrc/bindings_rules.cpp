// The Python face of the losses of rows.
#include <string>
#include <vector>

#include "arguments.h"
#include "bindings.h"
#include "row_rules.h"
#include "several.h"

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

template <class T>
double run_several(const SeveralReduction& reduction, int64_t n, Data negatives, Data positives,
                   Data count, Data bits, Data scores, Data weights, Data losses,
                   Data negatives_slope, Data positives_slope, Data line) {
  const Several<T> given{n,
                         pointer<const T>(negatives),
                         pointer<const T>(positives),
                         pointer<const int64_t>(count),
                         pointer<const double>(bits),
                         pointer<const double>(scores),
                         pointer<const T>(weights)};
  const SeveralSlopes<T> slopes{pointer<T>(negatives_slope), pointer<T>(positives_slope),
                                pointer<T>(line)};
  const py::gil_scoped_release release;
  return several_loss(given, reduction, pointer<T>(losses), slopes);
}

double several_loss_at(bool is_double, bool mean, bool skip, double share, int64_t n,
                       Data negatives, Data positives, Data count, Data bits, Data scores,
                       Data weights, Data losses, Data negatives_slope, Data positives_slope,
                       Data line) {
  const auto run_as = is_double ? &run_several<double> : &run_several<float>;
  return run_as({mean, skip, share}, n, negatives, positives, count, bits, scores, weights, losses,
                negatives_slope, positives_slope, line);
}

}  // namespace

void bind_rules(py::module_& m) {
  m.attr("row_rules") = std::vector<std::string>{"softmax", "decoupled", "sigmoid", "several"};
  m.attr("row_reductions") = std::vector<std::string>{"mean", "sum", "none"};
  m.def("row_loss", &row_loss_at,
        "The loss of rows from their stats, and its slopes; by position, as engine/rules.py.");
  m.def("several_loss", &several_loss_at,
        "The sum of losses with several positives, and its slopes; by position, as "
        "engine/several.py.");
}

}  // namespace contrastile
