// The kernels' Python face; addresses are integers.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <tuple>

#include "../bindings.h"
#include "params.h"

namespace contrastile::cuda {

void bind(pybind11::module_& module);
// What vectors.cu has; called by bind().
void bind_vectors(pybind11::module_& module);

template <class T>
const T* at(Address address) {
  return pointer<const T>(address);
}

using OperandTuple = std::tuple<Address, Address, int64_t, int64_t, int>;

inline Operands operands_of(const OperandTuple& x) {
  const auto& [query, key, query_stride, key_stride, d] = x;
  return {at<void>(query), at<void>(key), query_stride, key_stride, d};
}

inline void require(bool right, const std::string& what) {
  if (!right) throw std::invalid_argument(what);
}

}  // namespace contrastile::cuda
