// Chooses the instruction set at run time and shares a tile among threads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "pass_api.h"

namespace contrastile {

// Levels this processor can run, best first.
std::vector<const Level*> usable_levels();

// Throws std::invalid_argument for a name that is not usable here.
const Level& level_named(const std::string& name);

// The functions of a level for one family and one scalar type.
inline const auto& pass_functions(const Level& level, const Channel<float>*) {
  return level.softmax_float;
}
inline const auto& pass_functions(const Level& level, const Channel<double>*) {
  return level.softmax_double;
}
inline const auto& pass_functions(const Level& level, const Term<float>*) {
  return level.pair_float;
}
inline const auto& pass_functions(const Level& level, const Term<double>*) {
  return level.pair_double;
}

// Column partials and chunk buffers of every thread; kept between the tiles of a call.
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

// Adds a tile's statistics to those of `items`.
template <class T, class Item>
void reduce_tile(const Level& level, const Tile<T>& tile, const std::vector<Item>& items,
                 int threads, Workspace<T>& workspace);

// Writes G of a tile.
template <class T, class Item>
void weigh_tile(const Level& level, const Tile<T>& tile, const std::vector<Item>& items,
                int threads, Workspace<T>& workspace);

}  // namespace contrastile
