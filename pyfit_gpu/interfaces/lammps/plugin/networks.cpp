// Networks with a weight for all lanes of a vector, so a weight is read once for several atoms.
// SPDX-License-Identifier: GPL-2.0-only

#include "networks.h"

#include <algorithm>
#include <utility>

namespace pyfit {

namespace {

constexpr int at_once = 8 / n_vectors;  // columns of a block

// Sums for the `n` columns of a block.
template <int n>
inline void multiply_block(const double *weights, const Lanes *x, int n_in, const double *start, Lanes *out) {
  Lanes sum[n][n_vectors];
  for (int o = 0; o < n; o++) {
    for (int v = 0; v < n_vectors; v++) sum[o][v] = all(start ? start[o] : 0.0);
  }
  for (int k = 0; k < n_in; k++, weights += n, x += n_vectors) {
    for (int o = 0; o < n; o++) {
      for (int v = 0; v < n_vectors; v++) sum[o][v] += weights[o] * x[v];
    }
  }
  for (int o = 0; o < n; o++) {
    for (int v = 0; v < n_vectors; v++) out[o * n_vectors + v] = sum[o][v];
  }
}

}  // namespace

Weights::Weights(const double *weights, int n_in, int n_out, int by_in, int by_out) : n_in_(n_in), n_out_(n_out) {
  blocks_.reserve(static_cast<std::size_t>(n_in) * n_out);
  for (int start = 0; start < n_out;) {
    const int end = start + at_once <= n_out ? start + at_once : start + 1;
    for (int k = 0; k < n_in; k++) {
      for (int o = start; o < end; o++) blocks_.push_back(weights[k * by_in + o * by_out]);
    }
    start = end;
  }
}

void Weights::multiply(const Lanes *x, int first, int last, const double *start, Lanes *out) const {
  const double *block = blocks_.data();
  int o = 0;
  for (; o + at_once <= n_out_; o += at_once, block += n_in_ * at_once) {
    multiply_block<at_once>(block + first * at_once, x, last - first, start ? start + o : nullptr, out + o * n_vectors);
  }
  for (; o < n_out_; o++, block += n_in_) {
    multiply_block<1>(block + first, x, last - first, start ? start + o : nullptr, out + o * n_vectors);
  }
}

Networks::Networks(const std::vector<Potential> &members, int element)
    : n_members_(static_cast<int>(members.size())) {
  const bool is_tanh = members[0].activation == 2;
  steepness_ = height_ = is_tanh ? 2.0 : 1.0;
  offset_ = is_tanh ? 1.0 : members[0].activation == 1 ? 0.5 : 0.0;
  for (std::size_t number = 0; number < members[0].networks[element].size(); number++) {
    Stack stack;
    stack.n_in = members[0].networks[element][number].n_in;
    stack.n_out = members[0].networks[element][number].n_out;
    const int n_in = stack.n_in, n_out = stack.n_out, columns = n_members_ * n_out;
    std::vector<double> beside(number == 0 ? n_in * columns : 0);
    for (int member = 0; member < n_members_; member++) {
      const Layer &layer = members[member].networks[element][number];
      stack.biases.insert(stack.biases.end(), layer.biases.begin(), layer.biases.end());
      if (number > 0) {
        stack.forth.emplace_back(layer.weights.data(), n_in, n_out, n_out, 1);
        stack.back.emplace_back(layer.weights.data(), n_out, n_in, 1, n_out);
        continue;
      }
      for (int k = 0; k < n_in; k++) {
        std::copy_n(layer.weights.begin() + k * n_out, n_out, beside.begin() + k * columns + member * n_out);
      }
    }
    if (number == 0) {
      stack.forth.emplace_back(beside.data(), n_in, columns, columns, 1);
      stack.back.emplace_back(beside.data(), columns, n_in, 1, columns);
    }
    stack.outputs.resize(columns * n_vectors);
    stack.grad.resize(stack.outputs.size());
    layers_.push_back(std::move(stack));
  }
}

void Networks::activate(Stack &layer) const {
  for (Lanes &x : layer.outputs) {
    const Lanes falling = -steepness_ * x;
    x = height_ / (1.0 + exponential(choose(falling > 700.0, all(700.0), falling))) - offset_;
  }
}

void Networks::evaluate(const Lanes *inputs, Lanes *outputs) {
  const std::size_t last = layers_.size() - 1;
  for (std::size_t number = 0; number <= last; number++) {
    Stack &layer = layers_[number];
    Lanes *out = number == last ? outputs : layer.outputs.data();
    if (number == 0) {
      layer.forth[0].multiply(inputs, 0, layer.n_in, layer.biases.data(), out);
    } else {
      const Stack &before = layers_[number - 1];
      for (int member = 0; member < n_members_; member++) {
        layer.forth[member].multiply(&before.outputs[member * layer.n_in * n_vectors], 0, layer.n_in,
                                     &layer.biases[member * layer.n_out], out + member * layer.n_out * n_vectors);
      }
    }
    if (number < last) activate(layer);
  }
}

void Networks::gradient(int first, int last, const Lanes *grad_outputs, Lanes *grad_inputs) {
  Stack &top = layers_.back();
  const int block = top.n_out * n_vectors;
  std::copy(grad_outputs + first * block, grad_outputs + last * block, top.grad.begin() + first * block);
  const double slope = height_ * steepness_, inverse_height = 1.0 / height_;
  for (std::size_t number = layers_.size() - 1; number > 0; number--) {
    Stack &layer = layers_[number], &before = layers_[number - 1];
    const int size = layer.n_in * n_vectors;
    for (int member = first; member < last; member++) {
      Lanes *grad = &before.grad[member * size];
      layer.back[member].multiply(&layer.grad[member * layer.n_out * n_vectors], 0, layer.n_out, nullptr, grad);
      const Lanes *outputs = &before.outputs[member * size];
      for (int k = 0; k < size; k++) {
        const Lanes logistic = (outputs[k] + offset_) * inverse_height;
        grad[k] *= slope * logistic * (1.0 - logistic);
      }
    }
  }
  Stack &bottom = layers_.front();
  bottom.back[0].multiply(&bottom.grad[first * bottom.n_out * n_vectors], first * bottom.n_out, last * bottom.n_out,
                          nullptr, grad_inputs);
}

}  // namespace pyfit
