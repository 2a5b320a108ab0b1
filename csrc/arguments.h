// Memory as Python gives it: a tensor, an address, or None.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>
#include <vector>

#include "call.h"

namespace contrastile {

struct Data {
  Address address = 0;
  operator Address() const { return address; }
};

// One number for all rows, a Python float; else a vector of one for each.
struct Number {
  double same = 0;
  Data each;
};

}  // namespace contrastile

namespace pybind11::detail {

template <>
struct type_caster<contrastile::Data> {
  PYBIND11_TYPE_CASTER(contrastile::Data, const_name("torch.Tensor | int | None"));

  bool load(handle source, bool) {
    if (source.is_none()) return true;
    if (PyLong_Check(source.ptr())) return read(source.ptr());
    static PyObject* const name = PyUnicode_InternFromString("data_ptr");
    const auto found = reinterpret_steal<object>(PyObject_CallMethodNoArgs(source.ptr(), name));
    if (found) return read(found.ptr());
    PyErr_Clear();
    return false;
  }

 private:
  bool read(PyObject* number) {
    value.address = PyLong_AsSize_t(number);
    if (!PyErr_Occurred()) return true;
    PyErr_Clear();
    return false;
  }
};

template <>
struct type_caster<contrastile::Number> {
  PYBIND11_TYPE_CASTER(contrastile::Number, const_name("float | torch.Tensor | int"));

  bool load(handle source, bool convert) {
    if (PyFloat_Check(source.ptr())) {
      value.same = PyFloat_AS_DOUBLE(source.ptr());
      return true;
    }
    type_caster<contrastile::Data> each;
    if (source.is_none() || !each.load(source, convert)) return false;
    value.each = each;
    return true;
  }
};

}  // namespace pybind11::detail

namespace contrastile {

// engine.arguments.Argument, whose unit is not read here.
using ArgumentTuple = std::tuple<double, Number, Number, Data, Data>;
using Vectors = std::vector<Data>;

inline std::vector<Address> addresses_of(const Vectors& vectors) {
  return {vectors.begin(), vectors.end()};
}

inline Call call_of(const Vectors& tensors, const std::vector<ArgumentTuple>& arguments, int64_t n,
             int64_t m, int threads, const Vectors& planes = {}) {
  std::vector<Coefficients> coefficients;
  for (const auto& [unit, high, low, row_offset, col_offset] : arguments)
    coefficients.push_back({high.same, low.same, high.each, low.each, row_offset, col_offset});
  return {addresses_of(tensors), std::move(coefficients), n, m, threads,
          addresses_of(planes)};
}

}  // namespace contrastile
