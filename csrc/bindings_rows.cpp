// The O(N) steps, for fp32 or (double=True) fp64 vectors.
#include "bindings.h"
#include "row_steps.h"

namespace py = pybind11;

namespace contrastile {
namespace {


template <class F>
auto with_real(bool is_double, F&& f) {
  return is_double ? f(double{}) : f(float{});
}

template <class T>
Block<T> block_at(Address data, int64_t ld, int64_t row0, int64_t rows, int64_t col0, int64_t cols,
                  bool triangle, bool mirrored) {
  return {pointer<T>(data), ld, row0, rows, col0, cols, triangle, mirrored};
}

}  // namespace

void bind_row_steps(py::module_& m) {
  m.def("take_positives",
        [](bool is_double, Address data, int64_t ld, int64_t row0, int64_t rows, int64_t col0,
           int64_t cols, bool triangle, bool mirrored, Address columns, Address out) {
          with_real(is_double, [&](auto zero) {
            using T = decltype(zero);
            const auto block = block_at<T>(data, ld, row0, rows, col0, cols, triangle, mirrored);
            take_positives(block, pointer<const int64_t>(columns), pointer<T>(out));
          });
        });
  m.def("put_positives",
        [](bool is_double, Address data, int64_t ld, int64_t row0, int64_t rows, int64_t col0,
           int64_t cols, bool triangle, bool mirrored, Address columns, Address grad, Address dots,
           Address product) {
          with_real(is_double, [&](auto zero) {
            using T = decltype(zero);
            const auto block = block_at<T>(data, ld, row0, rows, col0, cols, triangle, mirrored);
            put_positives(block, pointer<const int64_t>(columns), pointer<const T>(grad),
                          pointer<const T>(dots), pointer<double>(product));
          });
        });
  m.def("log_sums", [](bool is_double, Address shift, double same_shift, Address sum, Address bits,
                       Address out, int64_t n) {
    with_real(is_double, [&](auto zero) {
      using T = decltype(zero);
      log_sums(RowValue<T>{pointer<const T>(shift), static_cast<T>(same_shift)},
               pointer<const double>(sum), pointer<double>(bits), pointer<T>(out), n);
    });
  });
  m.def("channel_gradients", [](bool is_double, Address lse, Address grad, int64_t n, double factor,
                                bool bounded, double shift, Address lse_out, Address grad_out) {
    with_real(is_double, [&](auto zero) {
      using T = decltype(zero);
      channel_gradients(pointer<const double>(lse), pointer<const T>(grad), n, factor, bounded, shift,
                        pointer<T>(lse_out), pointer<T>(grad_out));
    });
  });
  m.def("advise_huge_pages", [](Address data, int64_t bytes) {
    advise_huge_pages(pointer<void>(data), bytes);
  });
  m.def("max_magnitude",
        [](bool is_double, Address data, int64_t ld, int64_t rows, int64_t cols) {
          return with_real(is_double, [&](auto zero) {
            using T = decltype(zero);
            return static_cast<double>(max_magnitude(pointer<const T>(data), ld, rows, cols));
          });
        });
}

}  // namespace contrastile
