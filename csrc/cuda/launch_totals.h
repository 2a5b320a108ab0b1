// The launches of totals.h.
#pragma once

#include "totals.h"

namespace contrastile::cuda {

template <class P>
void launch_totals(void (*kernel)(P), const char* name, const std::decay_t<P>& p,
                   const Target& target) {
  if (p.length == 0) return;
  const hw::OnDevice guard(target.device);
  hw::launch(kernel, hw::Grid{tiles_of(p.length, kTotalsThreads), p.count, 1}, kTotalsThreads, 0,
             target.stream, name, p);
}

inline void launch_merge(const Merge& p, const Target& target) {
  launch_totals(p.tops ? raise_partials : add_partials, "merge", p, target);
}
inline void launch_certify(const Certificate& p, const Target& target) {
  launch_totals(certify, "certify", p, target);
}
inline void launch_settle(const Settlement& p, const Target& target) {
  launch_totals(settle, "settle", p, target);
}

constexpr TotalsLauncher kTotals = {launch_merge, launch_certify, launch_settle};

}  // namespace contrastile::cuda
