// Memory as Python names it.
#pragma once

#include <cstdint>

namespace contrastile {

using Address = uintptr_t;

template <class P>
P* pointer(Address address) {
  return reinterpret_cast<P*>(address);
}

inline Address address_of(const void* memory) { return reinterpret_cast<Address>(memory); }

}  // namespace contrastile
