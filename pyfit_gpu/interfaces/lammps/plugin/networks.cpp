// Networks with a weight for all lanes of a vector, so a weight is read once for several atoms.
// SPDX-License-Identifier: GPL-2.0-only

#include "networks.h"

namespace pyfit {

namespace {

constexpr int n_vectors = Networks::n_vectors;
constexpr int at_once = 8 / n_vectors;  // sums that stay in registers

// out[o] = biases[o] + sum_k weights[k * stride + o] x[k] for `n` outputs.
template <int n>
inline void forward_block(const double *weights, int stride, const double *biases, const Lanes *x, int n_in, Lanes *out) {
  Lanes sum[n][n_vectors];
  for (int o = 0; o < n; o++) {
    for (int v = 0; v < n_vectors; v++) sum[o][v] = all(biases[o]);
  }
  for (int k = 0; k < n_in; k++, weights += stride, x += n_vectors) {
    for (int o = 0; o < n; o++) {
      for (int v = 0; v < n_vectors; v++) sum[o][v] += weights[o] * x[v];
    }
  }
  for (int o = 0; o < n; o++) {
    for (int v = 0; v < n_vectors; v++) out[o * n_vectors + v] = sum[o][v];
  }
}

void forward(const double *weights, int n_out, const double *biases, const Lanes *x, int n_in, Lanes *out) {
  int o = 0;
  for (; o + at_once <= n_out; o += at_once) {
    forward_block<at_once>(weights + o, n_out, biases + o, x, n_in, out + o * n_vectors);
  }
  for (; o < n_out; o++) forward_block<1>(weights + o, n_out, biases + o, x, n_in, out + o * n_vectors);
}

// grad_x[k] = sum_o weights[k * stride + o] grad[o] for `n` inputs.
template <int n>
inline void backward_block(const double *weights, int stride, const Lanes *grad, int n_out, Lanes *grad_x) {
  Lanes sum[n][n_vectors] = {};
  for (int o = 0; o < n_out; o++, weights++, grad += n_vectors) {
    for (int k = 0; k < n; k++) {
      for (int v = 0; v < n_vectors; v++) sum[k][v] += weights[k * stride] * grad[v];
    }
  }
  for (int k = 0; k < n; k++) {
    for (int v = 0; v < n_vectors; v++) grad_x[k * n_vectors + v] = sum[k][v];
  }
}

void backward(const double *weights, int stride, const Lanes *grad, int n_in, int n_out, Lanes *grad_x) {
  int k = 0;
  for (; k + at_once <= n_in; k += at_once) {
    backward_block<at_once>(weights + k * stride, stride, grad, n_out, grad_x + k * n_vectors);
  }
  for (; k < n_in; k++) backward_block<1>(weights + k * stride, stride, grad, n_out, grad_x + k * n_vectors);
}

}  // namespace

Networks::Networks(const std::vector<Potential> &members, int element)
    : n_members_(static_cast<int>(members.size())), offset_(members[0].activation == 1 ? 0.5 : 0.0) {
  const auto &first = members[0].networks[element];
  for (std::size_t number = 0; number < first.size(); number++) {
    Stack stack;
    stack.n_in = first[number].n_in;
    stack.n_out = first[number].n_out;
    for (const Potential &member : members) {
      const auto &biases = member.networks[element][number].biases;
      stack.biases.insert(stack.biases.end(), biases.begin(), biases.end());
    }
    if (number == 0) {
      for (int k = 0; k < stack.n_in; k++) {
        for (const Potential &member : members) {
          const double *row = member.networks[element][number].weights.data() + k * stack.n_out;
          stack.weights.insert(stack.weights.end(), row, row + stack.n_out);
        }
      }
    } else {
      for (const Potential &member : members) {
        const auto &weights = member.networks[element][number].weights;
        stack.weights.insert(stack.weights.end(), weights.begin(), weights.end());
      }
    }
    stack.outputs.resize(n_members_ * stack.n_out * n_vectors);
    stack.grad.resize(stack.outputs.size());
    layers_.push_back(std::move(stack));
  }
}

void Networks::activate(Stack &layer) const {
  for (Lanes &x : layer.outputs) x = 1.0 / (1.0 + exponential(choose(x < -700.0, all(700.0), -x))) - offset_;
}

void Networks::evaluate(const Lanes *inputs, Lanes *energies) {
  const std::size_t last = layers_.size() - 1;
  for (std::size_t number = 0; number <= last; number++) {
    Stack &layer = layers_[number];
    Lanes *out = number == last ? energies : layer.outputs.data();
    if (number == 0) {
      forward(layer.weights.data(), n_members_ * layer.n_out, layer.biases.data(), inputs, layer.n_in, out);
    } else {
      const Stack &before = layers_[number - 1];
      for (int member = 0; member < n_members_; member++) {
        forward(&layer.weights[member * layer.n_in * layer.n_out], layer.n_out, &layer.biases[member * layer.n_out],
                &before.outputs[member * layer.n_in * n_vectors], layer.n_in, out + member * layer.n_out * n_vectors);
      }
    }
    if (number < last) activate(layer);
  }
}

void Networks::gradient(int first, int last, Lanes *grad_inputs) {
  const double share = 1.0 / (last - first);
  Stack &top = layers_.back();
  for (int k = first * n_vectors; k < last * n_vectors; k++) top.grad[k] = all(share);
  for (std::size_t number = layers_.size() - 1; number > 0; number--) {
    Stack &layer = layers_[number], &before = layers_[number - 1];
    const int size = layer.n_in * n_vectors;
    for (int member = first; member < last; member++) {
      Lanes *grad = &before.grad[member * size];
      backward(&layer.weights[member * layer.n_in * layer.n_out], layer.n_out,
               &layer.grad[member * layer.n_out * n_vectors], layer.n_in, layer.n_out, grad);
      const Lanes *outputs = &before.outputs[member * size];
      for (int k = 0; k < size; k++) {
        const Lanes logistic = outputs[k] + offset_;
        grad[k] *= logistic * (1.0 - logistic);
      }
    }
  }
  Stack &bottom = layers_.front();
  const int columns = n_members_ * bottom.n_out;
  backward(bottom.weights.data() + first * bottom.n_out, columns, &bottom.grad[first * bottom.n_out * n_vectors],
           bottom.n_in, (last - first) * bottom.n_out, grad_inputs);
}

}  // namespace pyfit
