// Compiles every pass for one instruction set. The including file defines CONTRASTILE_LEVEL, its
// name.
#pragma once

#include "block_pass.h"
#include "pair_pass.h"
#include "softmax_weights.h"
#include "weights_walk.h"

namespace contrastile::CONTRASTILE_LEVEL {

template <class T>
constexpr PassFunctions<T, Channel<T>> kSoftmax = {softmax_reduce<T>, softmax_merge<T>,
                                                   weights_walk<ChannelWeights, T, Channel<T>>};
template <class T>
constexpr PassFunctions<T, Term<T>> kPair = {pair_reduce<T>, pair_merge<T>,
                                             weights_walk<TermWeights, T, Term<T>>};

template <class T>
constexpr BlockFunctions<T> kBlock = {fold<T>, map_block<T>, map_gradients<T>};

#define CONTRASTILE_TEXT(name) #name
#define CONTRASTILE_NAME(name) CONTRASTILE_TEXT(name)

extern const Level level;
const Level level = {CONTRASTILE_NAME(CONTRASTILE_LEVEL), kSoftmax<float>, kSoftmax<double>,
                     kPair<float>, kPair<double>, kBlock<float>, kBlock<double>};

}  // namespace contrastile::CONTRASTILE_LEVEL
