// The O(N) steps around the passes: what plain torch does in a dozen small operations each.
#pragma once

#include <cstdint>

#include "pass_api.h"

namespace contrastile {

// A block of scores (or of their weights) and where it lies in the whole matrix. `mirrored`: it also
// stands for its transpose; `triangle`: only blocks on and above the diagonal are visited.
template <class T>
struct Block {
  T* data;
  int64_t ld, row0, rows, col0, cols;
  bool triangle, mirrored;
};

// out[i] = the block's entry at (i, columns[i]), for every row whose column lies in the block.
template <class T>
void take_positives(const Block<const T>& block, const int64_t* columns, T* out);

// Adds grad[i] at (i, columns[i]); on the diagonal of a triangle at its mirror image too. And, unless
// `product` is null, grad[i] dots[i] to product[i].
template <class T>
void put_positives(const Block<T>& block, const int64_t* columns, const T* grad, const T* dots,
                   double* product);

// bits = log2(2^shift sum) and out = the same in nats: -inf where the sum is 0.
template <class T>
void log_sums(RowValue<T> shift, const double* sum, double* bits, T* out, int64_t n);

// The coefficients of G that an upstream gradient of an lse (bits) asks for: a shift for the exponents
// (the lse rounded to T, or the fixed one) and a factor that makes up for the difference. Rounding
// alone would change the sum of a row's weights, which the positive's weight must cancel. An empty
// row has no coefficient.
template <class T>
void channel_gradients(const double* lse, const T* grad, int64_t n, double factor, bool bounded,
                       double shift, T* lse_out, T* grad_out);

// Asks the system for huge pages under a large buffer: touching it costs far fewer page faults then.
// Does nothing where the system has no such call.
void advise_huge_pages(void* data, int64_t bytes);

// The largest magnitude of a block; NaN if it holds one, else infinity if it holds one.
template <class T>
T max_magnitude(const T* data, int64_t ld, int64_t rows, int64_t cols);

}  // namespace contrastile
