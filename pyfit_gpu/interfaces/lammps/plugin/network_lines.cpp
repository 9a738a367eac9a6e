// Layer sizes and baseline by the rules of pyfit_gpu/formats/network_lines.py.
// SPDX-License-Identifier: GPL-2.0-only

#include "network_lines.h"

#include <algorithm>

namespace pyfit {

namespace {

const std::string layers_expected = "layer sizes: their number, then each";
const std::string none = "0";  // layers line of a bond-order potential without a network

std::string baseline_expected(int n_elements) {
  const int each = n_bond_order_parameters(n_elements);
  return "the baseline flag and " + std::to_string(n_elements * each) + " bond-order parameters" +
         (n_elements > 1 ? " (" + std::to_string(each) + " of each element of the atom)" : "");
}

// Whether these are layer sizes and not a baseline: their number, then so many whole numbers above 0.
bool are_layers(const Cells &cells) {
  const auto is_comment = [&](std::size_t place) { return place >= cells.size() || !parse_number(cells[place]); };
  if (cells[0] == none) return is_comment(1);
  const auto count = parse_number(cells[0]);
  if (!count || !all_whole({*count}) || *count < 2 || *count >= static_cast<double>(cells.size())) return false;
  const auto n = static_cast<std::size_t>(*count);
  for (std::size_t place = 1; place <= n; ++place) {
    const auto size = parse_number(cells[place]);
    if (!size || *size < 1 || *size != std::floor(*size)) return false;
  }
  return is_comment(n + 1);
}

// Layer sizes as they stand in the file; empty: there is no network.
std::vector<int> read_layer_sizes(HeaderLines &reader, const Line &line) {
  reader.back_to(line);
  if (reader.cells[0] == none && are_layers(reader.cells)) return {};
  const auto values = reader.counted(layers_expected);
  const bool valid = values.size() >= 2 && all_whole(values) && *std::min_element(values.begin(), values.end()) >= 1;
  if (!valid)
    throw reader.lines.error(layers_expected + ", at least two whole numbers above 0 (and below 10^9)");
  return {values.begin(), values.end()};
}

// Check the layers of one network per element.
void check_own(const HeaderLines &reader, const Descriptor &descriptor, const std::vector<int> &sizes) {
  const int n_elements = descriptor.n_elements(), n_features = descriptor.n_features();
  const int n_parameters = n_bond_order_parameters(n_elements);
  if (sizes.front() != n_features)
    throw reader.lines.error(std::to_string(n_features) + " inputs as the first layer, as the lines before say");
  if (sizes.back() != 1 && sizes.back() != n_parameters)
    throw reader.lines.error("1 output (energy) or " + std::to_string(n_parameters) + " (bond-order parameters" +
                             (n_elements > 1 ? " of an atom among " + std::to_string(n_elements) + " elements" : "") +
                             ") as the last layer");
}

// Check the layers of one network for several elements.
SharedNetwork read_shared(const HeaderLines &reader, const Descriptor &descriptor, const std::vector<int> &sizes) {
  const int n_elements = descriptor.n_elements(), n_features = descriptor.n_features();
  const int n_parameters = n_bond_order_parameters(n_elements), n_out = sizes.back();
  if (sizes.front() != n_features && sizes.front() != n_features * n_elements)
    throw reader.lines.error(std::to_string(n_features) + " inputs (Kind II) or " +
                             std::to_string(n_features * n_elements) +
                             " (Kind I) as the first layer, as the lines before say");
  if (n_out != 1 && n_out != n_elements && n_out != n_elements * n_parameters)
    throw reader.lines.error("1 or " + std::to_string(n_elements) + " outputs (energies), or " +
                             std::to_string(n_elements * n_parameters) + " (" + std::to_string(n_parameters) +
                             " bond-order parameters for each of " + std::to_string(n_elements) +
                             " elements of the atom) as the last layer");
  return {n_elements, sizes, sizes.front() / n_features, n_out == 1 ? 1 : n_elements, input_of_nothing(descriptor)};
}

// Baseline; empty: the flag says that there is none.
// n_elements: 0: of a straight network, for which the parameters have no meaning.
// may_be_short: whether a straight network may have fewer than the classic program writes.
std::vector<double> read_baseline(HeaderLines &reader, const Line &line, int n_elements, bool may_be_short) {
  reader.back_to(line);
  const std::string expected = baseline_expected(std::max(n_elements, 1));
  const int flag = reader.integer(0, expected);
  if (flag != 0 && flag != 1) throw reader.lines.error("baseline flag 0 or 1 (" + older_header + ")");
  std::vector<double> numbers;
  for (std::size_t place = 1; place < reader.cells.size(); ++place) {
    const auto value = parse_number(reader.cells[place]);
    if (!value) break;
    numbers.push_back(*value);
  }
  const int count = static_cast<int>(numbers.size());
  if (n_elements == 0) {
    if (count < n_bond_order_parameters(1) && !may_be_short) throw reader.lines.error(expected);
    return {};
  }
  if (count != n_elements * n_bond_order_parameters(n_elements))
    throw reader.lines.error(expected + ", not " + std::to_string(count) + " of them");
  return flag == 1 ? numbers : std::vector<double>{};
}

}  // namespace

NetworkLines read_network_lines(HeaderLines &reader, const Descriptor &descriptor, bool commented) {
  NetworkLines found;
  const int n_elements = descriptor.n_elements(), n_parameters = n_bond_order_parameters(n_elements);
  const std::string expected = baseline_expected(1);
  reader.next(expected);
  const Line first = reader.lines.present();
  const bool layers_first = commented || are_layers(reader.cells);
  // Two cells are a parameter of the network where the baseline should be.
  if (!layers_first && reader.cells.size() <= 2) throw reader.lines.error(expected + " (" + older_header + ")");
  reader.next(layers_first ? expected : layers_expected);
  const Line second = reader.lines.present();
  const Line &layers = layers_first ? first : second, &baseline = layers_first ? second : first;
  found.file_sizes = found.sizes = read_layer_sizes(reader, layers);
  if (found.file_sizes.empty()) {
    found.sizes = {0, n_parameters};
  } else if (layers_first && n_elements > 1) {
    found.shared = read_shared(reader, descriptor, found.file_sizes);
    found.sizes.front() = descriptor.n_features();
    found.sizes.back() /= found.shared->n_slices;
  } else {
    check_own(reader, descriptor, found.sizes);
  }
  const bool is_informed = found.sizes.back() == n_parameters;
  found.is_plain = layers_first && is_informed;
  found.baseline = read_baseline(reader, baseline, is_informed ? n_elements : 0, layers_first);
  if (found.file_sizes.empty() && found.baseline.empty())
    throw reader.lines.error("baseline flag 1: a bond-order potential without a network has its parameters here");
  reader.back_to(layers);  // which a later error is about
  return found;
}

}  // namespace pyfit
