#include "dispatch.h"

#include <algorithm>
#include <stdexcept>

namespace contrastile {

namespace baseline {
extern const Level level;
}
#if defined(CONTRASTILE_X86_LEVELS)
namespace avx2 {
extern const Level level;
}
namespace avx512 {
extern const Level level;
}
#endif

std::vector<const Level*> usable_levels() {
  std::vector<const Level*> levels;
#if defined(CONTRASTILE_X86_LEVELS)
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    levels.push_back(&avx512::level);
  if (has_avx2) levels.push_back(&avx2::level);
#endif
  levels.push_back(&baseline::level);
  return levels;
}

const Level& level_named(const std::string& name) {
  std::string known;
  for (const Level* level : usable_levels()) {
    if (name == level->name) return *level;
    known += known.empty() ? level->name : std::string(", ") + level->name;
  }
  throw std::invalid_argument("level: expected one of " + known + ", got " + name);
}

namespace {

// Column partials and chunk buffers of every thread.
template <class T>
class Workspace {
 public:
  void reserve(int threads, int64_t cols);
  Scratch<T>& scratch(int thread) { return scratch_[thread]; }
  const ColumnPartial<T>* partials() const { return partials_.data(); }

 private:
  std::vector<Scratch<T>> scratch_;
  std::vector<ColumnPartial<T>> partials_;
  std::vector<double> sum_;
  std::vector<T> shift_;
  std::vector<int64_t> count_;
};

template <class T>
void Workspace<T>::reserve(int threads, int64_t cols) {
  // Whole cache lines for every thread.
  const int64_t stride = (cols + 15) / 16 * 16;
  const size_t total = static_cast<size_t>(threads * stride);
  if (scratch_.size() < static_cast<size_t>(threads)) scratch_.resize(threads);
  if (sum_.size() < total) {
    sum_.resize(total);
    shift_.resize(total);
    count_.resize(total);
  }
  partials_.clear();
  for (int k = 0; k < threads; ++k)
    partials_.push_back({&sum_[k * stride], &shift_[k * stride], &count_[k * stride]});
}

// The workspace of the thread that calls, kept for its next tile: to allot one, and to touch it for
// the first time, costs more than a small tile.
template <class T>
Workspace<T>& workspace_of(int threads, int64_t cols) {
  thread_local Workspace<T> workspace;
  workspace.reserve(threads, cols);
  return workspace;
}

// Below this many scores a second thread costs more than it saves.
constexpr int64_t kScoresPerThread = 32768;

template <class T>
int useful_threads(const Tile<T>& tile, int threads) {
  const int64_t most = std::max<int64_t>(1, tile.rows * tile.cols / kScoresPerThread);
  return static_cast<int>(
      std::min<int64_t>({most, std::max(threads, 1), std::max<int64_t>(tile.rows, 1)}));
}

int64_t share(int64_t size, int part, int parts) { return size * part / parts; }

}  // namespace

template <class T, class Item>
void reduce_tile(const Level& level, const Tile<T>& tile, const std::vector<Item>& items,
                 int threads) {
  if (items.empty() || tile.rows == 0 || tile.cols == 0) return;
  const auto& functions = pass_functions(level, items.data());
  const int parts = useful_threads(tile, threads);
  Workspace<T>& workspace = workspace_of<T>(parts, tile.cols);
  // A fixed part per iteration: the result depends on `parts`, not on how many threads showed up.
#pragma omp parallel num_threads(parts)
  for (const Item& item : items) {
#pragma omp for schedule(static, 1)
    for (int k = 0; k < parts; ++k)
      functions.reduce(tile, item, share(tile.rows, k, parts), share(tile.rows, k + 1, parts),
                       workspace.partials()[k], workspace.scratch(k));
#pragma omp for schedule(static, 1)
    for (int k = 0; k < parts; ++k)
      functions.merge(tile, item, share(tile.cols, k, parts), share(tile.cols, k + 1, parts),
                      workspace.partials(), parts);
  }
}

template <class T, class Item>
void weigh_tile(const Level& level, const Tile<T>& tile, const std::vector<Item>& items,
                int threads) {
  if (items.empty() || tile.rows == 0 || tile.cols == 0) return;
  const auto& functions = pass_functions(level, items.data());
  const int parts = useful_threads(tile, threads);
  Workspace<T>& workspace = workspace_of<T>(parts, tile.cols);
#pragma omp parallel for num_threads(parts) schedule(static, 1)
  for (int k = 0; k < parts; ++k)
    functions.weights(tile, items.data(), static_cast<int>(items.size()),
                      share(tile.rows, k, parts), share(tile.rows, k + 1, parts),
                      workspace.scratch(k));
}

#define CONTRASTILE_INSTANTIATE(T, Item)                                                     \
  template void reduce_tile(const Level&, const Tile<T>&, const std::vector<Item<T>>&, int); \
  template void weigh_tile(const Level&, const Tile<T>&, const std::vector<Item<T>>&, int);

CONTRASTILE_INSTANTIATE(float, Channel)
CONTRASTILE_INSTANTIATE(double, Channel)
CONTRASTILE_INSTANTIATE(float, Term)
CONTRASTILE_INSTANTIATE(double, Term)

}  // namespace contrastile
