// Matrix products of small matrices whose entries are lanes: where the time of an evaluation goes.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_PRODUCTS_H
#define PYFIT_PRODUCTS_H

#include <cstddef>

#include "lanes.h"

namespace pyfit {

// A matrix in memory: entry (row, column) is at [row * by_row + column * by_column].
struct Matrix {
  const Lanes *start;
  std::ptrdiff_t by_row, by_column;
};

// Block of `rows` x `columns` results that stays in registers.
template <int rows, int columns>
inline void multiply_block(Matrix a, Matrix b, int n, Lanes *out, std::ptrdiff_t by_row, std::ptrdiff_t by_column) {
  Lanes sum[rows][columns] = {};
  const Lanes *left = a.start, *right = b.start;
  for (int k = 0; k < n; k++, left += a.by_column, right += b.by_row) {
    for (int i = 0; i < rows; i++) {
      for (int j = 0; j < columns; j++) sum[i][j] += left[i * a.by_row] * right[j * b.by_column];
    }
  }
  for (int i = 0; i < rows; i++) {
    for (int j = 0; j < columns; j++) out[i * by_row + j * by_column] = sum[i][j];
  }
}

// What fits beside the operands into 32 or into 16 registers.
constexpr int block_rows = 4;
constexpr int block_columns = n_lanes == 8 ? 4 : 2;

template <int rows>
inline void multiply_rows(Matrix a, Matrix b, int n_columns, int n, Lanes *out, std::ptrdiff_t by_row,
                          std::ptrdiff_t by_column) {
  int j = 0;
  for (; j + block_columns <= n_columns; j += block_columns) {
    multiply_block<rows, block_columns>(a, {b.start + j * b.by_column, b.by_row, b.by_column}, n, out + j * by_column,
                                        by_row, by_column);
  }
  for (; j < n_columns; j++) {
    multiply_block<rows, 1>(a, {b.start + j * b.by_column, b.by_row, b.by_column}, n, out + j * by_column, by_row,
                            by_column);
  }
}

// out (n_rows, n_columns) = a (n_rows, n) b (n, n_columns), lane by lane.
inline void multiply(Matrix a, Matrix b, int n_rows, int n_columns, int n, Lanes *out, std::ptrdiff_t by_row,
                     std::ptrdiff_t by_column) {
  int i = 0;
  const auto rest = [&](int row) { return Matrix{a.start + row * a.by_row, a.by_row, a.by_column}; };
  for (; i + block_rows <= n_rows; i += block_rows) {
    multiply_rows<block_rows>(rest(i), b, n_columns, n, out + i * by_row, by_row, by_column);
  }
  if (n_rows - i == 3) multiply_rows<3>(rest(i), b, n_columns, n, out + i * by_row, by_row, by_column);
  if (n_rows - i == 2) multiply_rows<2>(rest(i), b, n_columns, n, out + i * by_row, by_row, by_column);
  if (n_rows - i == 1) multiply_rows<1>(rest(i), b, n_columns, n, out + i * by_row, by_row, by_column);
}

}  // namespace pyfit

#endif
