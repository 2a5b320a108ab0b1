// Chooses the instruction set at run time and shares a tile among threads.
#pragma once

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

// Adds a tile's statistics to those of `items`, of which there may be none.
template <class T, class Item>
void reduce_tile(const Level& level, const Tile<T>& tile, const std::vector<Item>& items,
                 int threads);

// Writes G of a tile, if there are items.
template <class T, class Item>
void weigh_tile(const Level& level, const Tile<T>& tile, const std::vector<Item>& items,
                int threads);

}  // namespace contrastile
