// The launches of sm80.h for one kind of element.
#pragma once

#include "grid.h"
#include "sm80.h"

namespace contrastile::cuda::sm80 {

inline int tile_cols(int, const Target&) { return kTileCols; }

template <class T>
void launch_reduce(Form form, const Reduce& p, const Target& target) {
  const hw::OnDevice guard(target.device);
  const hw::Grid grid = grid_of(p.block, kTileCols, 1, target);
  with_form(form, [&](auto is) {
    constexpr Form kForm = decltype(is)::value;
    const auto kernel = p.col_sums ? reduce<T, kForm, true> : reduce<T, kForm, false>;
    hw::launch(kernel, grid, kThreads, sizeof(Memory), target.stream, "sm_80 reduce", p);
  });
}

template <class T>
void launch_weigh(Form form, const Weigh& p, const Target& target) {
  const hw::OnDevice guard(target.device);
  const hw::Grid grid = grid_of(p.block, kTileCols, 1, target);
  with_form(form, [&](auto is) {
    hw::launch(weigh<T, decltype(is)::value>, grid, kThreads, sizeof(WeighMemory), target.stream,
               "sm_80 weigh", p);
  });
}

template <class T>
constexpr Launcher kLauncher = {tile_cols, launch_reduce<T>, launch_weigh<T>};

}  // namespace contrastile::cuda::sm80
