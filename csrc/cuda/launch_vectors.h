// The launches of totals.h, upstream.h and positives.h.
#pragma once

#include <algorithm>

#include "positives.h"
#include "totals.h"
#include "upstream.h"

namespace contrastile::cuda {

// `lines` times that many threads; nothing where there are none.
template <class P>
void launch_vectors(void (*kernel)(P), const char* name, const std::decay_t<P>& p, int64_t threads,
                    int lines, const Target& target, int shared_bytes = 0) {
  if (threads == 0) return;
  const hw::OnDevice guard(target.device);
  hw::launch(kernel, hw::Grid{tiles_of(threads, kVectorThreads), lines, 1}, kVectorThreads, shared_bytes,
             target.stream, name, p);
}

inline void launch_merge(const Merge& p, const Target& target) {
  const auto kernel = p.tops ? raise_partials : add_partials;
  launch_vectors(kernel, "merge", p, kSlices * p.length, p.count, target, sizeof(Slices));
}
inline void launch_certify(const Certificate& p, const Target& target) {
  launch_vectors(certify, "certify", p, p.length, p.count, target);
}
inline void launch_settle(const Settlement& p, const Target& target) {
  launch_vectors(settle, "settle", p, p.length, p.count, target);
}

inline void launch_form(const Upstream& p, const Target& target) {
  const int64_t longest = *std::max_element(p.length, p.length + p.count);
  launch_vectors(largest_gradients, "upstream gradients", p, int64_t{32} * p.parts_each, p.count,
                 target);
  launch_vectors(coefficients, "coefficients", p, longest, std::max(p.weighed, 1), target);
}

template <class F>
void with_element(Element element, F&& f) {
  switch (element) {
    case Element::bf16: return f(Bf16{});
    case Element::fp16: return f(Fp16{});
    case Element::tf32: return f(Tf32{});
  }
}
inline void launch_take(Element element, const TakePositives& p, const Target& target) {
  with_element(element, [&](auto is) {
    launch_vectors(take_positives<decltype(is)>, "positives' products", p, 32 * p.rows, 1, target);
  });
}
inline void launch_put(Element element, const PutPositives& p, const Target& target) {
  with_element(element, [&](auto is) {
    launch_vectors(put_positives<decltype(is)>, "positives' gradients", p, p.rows, 1, target);
  });
}

constexpr VectorLauncher kVectors = {launch_merge, launch_certify, launch_settle,
                                     launch_form,  launch_take,    launch_put};

}  // namespace contrastile::cuda
