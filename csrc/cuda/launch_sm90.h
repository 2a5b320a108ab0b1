// The launches of sm90.h for one kind of element.
#pragma once

#include "grid.h"
#include "sm90.h"

namespace contrastile::cuda::sm90 {

// As many stages as shared memory has room for.
template <class Shape, class Extra>
Layout layout_of(int d, const Target& target) {
  const int slabs = tiles_of(d, kSlabFeatures);
  const int queries = Shape::kHoldsQueries ? slabs * kQueryBytes : 0;
  const int stages = (target.shared_bytes - kOperandsAt<Extra> - queries) / Shape::kStageBytes;
  return {slabs, stages < kMaxStages ? stages : kMaxStages};
}

template <class Shape, class Extra>
int shared_bytes(const Layout& layout) {
  return kOperandsAt<Extra> + (Shape::kHoldsQueries ? layout.slabs * kQueryBytes : 0) +
         layout.stages * Shape::kStageBytes;
}

// Both kernels of a block have the same tiles, so both have to have room for them.
constexpr int kFewestStages = 3;
inline bool holds_queries(int d, const Target& target) {
  return layout_of<Shape<true>, WeighExtra>(d, target).stages >= kFewestStages;
}
inline int tile_cols(int d, const Target& target) {
  return holds_queries(d, target) ? Shape<true>::kTileCols : Shape<false>::kTileCols;
}

template <bool kValue>
struct HoldsQueries {
  static constexpr bool value = kValue;
};
template <class F>
void with_shape(int d, const Target& target, F&& f) {
  if (holds_queries(d, target)) f(HoldsQueries<true>{});
  else f(HoldsQueries<false>{});
}

template <class Shape>
Maps maps_of(const Operands& operands, const Block& block) {
  return {hw::matrix_of_halves(operands.query, block.row_end, operands.d, operands.query_stride,
                               kTileRows, kSlabFeatures, true),
          hw::matrix_of_halves(operands.key, block.col_end, operands.d, operands.key_stride,
                               Shape::kShareCols, kSlabFeatures, true)};
}

inline StripMaps strip_maps(const Weigh& p) {
  const int rows = p.block.row_end - p.block.first_row, cols = p.block.col_end - p.block.first_col;
  return {hw::matrix_of_halves(p.out, rows, cols, p.out_stride, kChunkRows, kChunkCols, true),
          hw::matrix_of_halves(p.out, rows, cols, p.out_stride, kChunkCols, kChunkRows, false)};
}

template <class T>
void launch_reduce(Form form, const Reduce& p, const Target& target) {
  const hw::OnDevice guard(target.device);
  with_shape(p.operands.d, target, [&](auto holds) {
    constexpr bool kHolds = decltype(holds)::value;
    using Shape = Shape<kHolds>;
    const Layout layout = layout_of<Shape, ReduceExtra>(p.operands.d, target);
    with_form(form, [&](auto is) {
      constexpr Form kForm = decltype(is)::value;
      const auto kernel = p.col_sums ? reduce<T, kHolds, kForm, true> : reduce<T, kHolds, kForm, false>;
      hw::launch(kernel, grid_of(p.block, Shape::kTileCols, kCluster, target), kThreads,
                 shared_bytes<Shape, ReduceExtra>(layout), target.stream, "sm_90 reduce", p,
                 maps_of<Shape>(p.operands, p.block), layout);
    });
  });
}

template <class T>
void launch_weigh(Form form, const Weigh& p, const Target& target) {
  const hw::OnDevice guard(target.device);
  with_shape(p.operands.d, target, [&](auto holds) {
    constexpr bool kHolds = decltype(holds)::value;
    using Shape = Shape<kHolds>;
    const Layout layout = layout_of<Shape, WeighExtra>(p.operands.d, target);
    with_form(form, [&](auto is) {
      hw::launch(weigh<T, kHolds, decltype(is)::value>,
                 grid_of(p.block, Shape::kTileCols, kCluster, target), kThreads,
                 shared_bytes<Shape, WeighExtra>(layout), target.stream, "sm_90 weigh", p,
                 maps_of<Shape>(p.operands, p.block), strip_maps(p), layout);
    });
  });
}

template <class T>
constexpr Launcher kLauncher = {tile_cols, launch_reduce<T>, launch_weigh<T>};

}  // namespace contrastile::cuda::sm90
