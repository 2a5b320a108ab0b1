#include "block_math.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace contrastile {
namespace {

// Below so many numbers a second thread costs more than it saves.
constexpr int64_t kNumbersPerThread = 32768;

// f(begin, end, col_sum) for a share of the rows of each thread, with column sums of its own that
// are added up in their order.
template <class F>
void share_rows(const BlockMath::Shape& shape, double* col_sum, F&& f) {
  const int64_t useful = shape.rows * shape.cols / kNumbersPerThread;
  const int64_t most = std::min<int64_t>(std::max(shape.threads, 1), std::max<int64_t>(shape.rows, 1));
  const int parts = static_cast<int>(std::clamp<int64_t>(useful, 1, most));
  if (parts == 1) return f(int64_t(0), shape.rows, col_sum);
  const int64_t stride = (shape.cols + 7) / 8 * 8;
  std::vector<double> partial(col_sum ? parts * stride : 0);
#pragma omp parallel for num_threads(parts) schedule(static, 1)
  for (int k = 0; k < parts; ++k)
    f(shape.rows * k / parts, shape.rows * (k + 1) / parts,
      col_sum ? partial.data() + k * stride : nullptr);
  if (!col_sum) return;
  for (int k = 0; k < parts; ++k)
    for (int64_t j = 0; j < shape.cols; ++j) col_sum[j] += partial[k * stride + j];
}

const BlockFunctions<float>& functions(const Level& level, float) { return level.block_float; }
const BlockFunctions<double>& functions(const Level& level, double) { return level.block_double; }

// f(T()) with the type of the numbers.
template <class F>
void with_type(bool is_double, F&& f) {
  if (is_double) f(double());
  else f(float());
}

template <class T>
BlockVectors<T> vectors_of(const BlockMath::Vectors& given) {
  return {pointer<const T>(given.row), pointer<const T>(given.col)};
}

template <class T>
Mapped<T> mapped(int map, int64_t cols, const std::vector<Address>& planes,
                 const BlockMath::Vectors& vectors) {
  if (map < 0 || map >= kMapCount)
    throw std::invalid_argument("map: unknown function " + std::to_string(map));
  const MapKind& kind = kMaps[map];
  const int count = static_cast<int>(planes.size());
  if (count < kind.least || count > kind.most)
    throw std::invalid_argument("map: does not read " + std::to_string(count) + " planes");
  Mapped<T> found{static_cast<Map>(map), cols, {}, count, vectors_of<T>(vectors)};
  for (int p = 0; p < count; ++p) found.planes[p] = pointer<const T>(planes[p]);
  return found;
}

}  // namespace

void BlockMath::fold(const Shape& shape, Address grad, Address value, const Vectors& factors,
                     const Target& target, const BlockSums& sums) const {
  with_type(is_double_, [&](auto type) {
    using T = decltype(type);
    const Fold<T> of{shape.cols,
                     pointer<const T>(grad),
                     pointer<const T>(value),
                     vectors_of<T>(factors),
                     pointer<T>(target.out),
                     target.add,
                     pointer<double>(sums.rows)};
    share_rows(shape, pointer<double>(sums.cols), [&](int64_t begin, int64_t end, double* own) {
      functions(level_, type).fold(of, begin, end, own);
    });
  });
}

void BlockMath::map(const Shape& shape, int map, const std::vector<Address>& planes,
                    const Vectors& vectors, Address out) const {
  with_type(is_double_, [&](auto type) {
    using T = decltype(type);
    const Mapped<T> of = mapped<T>(map, shape.cols, planes, vectors);
    share_rows(shape, nullptr, [&](int64_t begin, int64_t end, double*) {
      functions(level_, type).map(of, pointer<T>(out), begin, end);
    });
  });
}

void BlockMath::map_gradients(const Shape& shape, int map, const std::vector<Address>& planes,
                              const Vectors& vectors, Address grad,
                              const std::vector<Target>& targets, const BlockSums& sums) const {
  with_type(is_double_, [&](auto type) {
    using T = decltype(type);
    MapGradients<T> of{mapped<T>(map, shape.cols, planes, vectors), pointer<const T>(grad), {},
                       pointer<double>(sums.rows)};
    if (targets.size() != planes.size())
      throw std::invalid_argument("targets: expected one a plane");
    for (size_t p = 0; p < targets.size(); ++p)
      of.targets[p] = {pointer<T>(targets[p].out), targets[p].add};
    share_rows(shape, pointer<double>(sums.cols), [&](int64_t begin, int64_t end, double* own) {
      functions(level_, type).map_gradients(of, begin, end, own);
    });
  });
}

}  // namespace contrastile
