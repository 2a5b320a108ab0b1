// A sweep's work on a block, shared among threads.
#pragma once

#include <vector>

#include "address.h"
#include "codes.h"
#include "dispatch.h"

namespace contrastile {

// fp64 sums to be added to; 0 for one that nobody wants.
struct BlockSums {
  Address rows, cols;
};

// Addresses of blocks and of numbers of rows and columns, in the compute dtype; 0 for a vector that
// is not there. See engine.sweep.block_math.BlockMath.
class BlockMath {
 public:
  BlockMath(bool is_double, const Level& level) : is_double_(is_double), level_(level) {}

  struct Shape {
    int64_t rows, cols;
    int threads;
  };
  struct Vectors {
    Address row, col;
  };
  struct Target {
    Address out;
    bool add;
  };

  void fold(const Shape& shape, Address grad, Address value, const Vectors& factors,
            const Target& target, const BlockSums& sums) const;
  // Both throw std::invalid_argument for a map that is not known, or planes that it does not read.
  void map(const Shape& shape, int map, const std::vector<Address>& planes, const Vectors& vectors,
           Address out) const;
  void map_gradients(const Shape& shape, int map, const std::vector<Address>& planes,
                     const Vectors& vectors, Address grad, const std::vector<Target>& targets,
                     const BlockSums& sums) const;

 private:
  const bool is_double_;
  const Level& level_;
};

}  // namespace contrastile
