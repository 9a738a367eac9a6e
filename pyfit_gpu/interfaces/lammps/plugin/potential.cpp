// Reader of potential files, .nn.dat and .pinn. What is refused here is refused by pyfit_gpu/formats/nn_dat.py too, and
// more: what cannot be evaluated.
// SPDX-License-Identifier: GPL-2.0-only

#include "potential.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <utility>

#include "descriptor.h"
#include "header_lines.h"
#include "network_lines.h"

namespace pyfit {

namespace {

constexpr double max_parameters = 1e12;  // beyond any memory, and a typing error
constexpr std::size_t witnesses = 100;   // lines that may vouch for a last number without a line end
const std::string no_line_end =
    "a line end after the last number, which may be cut without one (add it if the number is whole)";

std::string without_quotes(std::string symbol) {
  const std::size_t start = symbol.find_first_not_of("'\"");
  if (start == std::string::npos) return "";
  return symbol.substr(start, symbol.find_last_not_of("'\"") + 1 - start);
}

void read_elements(HeaderLines &reader, Potential &potential) {
  reader.next("the number of elements");
  const int n_elements = reader.integer(0, "the number of elements");
  if (n_elements < 1) throw reader.lines.error("a number of elements above 0");
  for (int k = 0; k < n_elements; ++k) {
    const std::string expected = "an element symbol and its mass";
    reader.next(expected, {"elements"});
    const std::string symbol = without_quotes(reader.cells[0]);
    if (!is_element(symbol)) throw reader.lines.error(expected);
    potential.descriptor.elements.push_back(symbol);
    potential.masses.push_back(reader.number(1, expected));
    double shift = std::numeric_limits<double>::quiet_NaN();
    for (std::size_t place = 0; place < reader.cells.size(); ++place) {
      if (reader.cells[place] != "e_shift") continue;
      shift = reader.number(place + 1, "a number after e_shift");
      break;
    }
    potential.energy_shift.push_back(shift);
    for (std::size_t place = 1; place < reader.cells.size(); ++place)
      if (reader.cells[place - 1] == "-" && reader.cells[place] == "untrained") potential.untrained.push_back(symbol);
  }
}

void read_lengths(HeaderLines &reader, Descriptor &descriptor) {
  const std::string expected = "randomize, max_random, rc, d and sigma";
  reader.next(expected, {"cutoff", "cutoff_width", "gaussian_width"});
  const int randomize = reader.integer(0, expected);
  const double max_random = reader.number(1, expected);
  descriptor.cutoff = reader.number(2, expected);
  descriptor.cutoff_width = reader.number(3, expected);
  descriptor.gaussian_width = reader.number(4, expected);
  if (randomize != 0 && randomize != 1) throw reader.lines.error("randomize 0 or 1");
  if (max_random < 0) throw reader.lines.error("max_random: a number >= 0");
  if (randomize == 1)
    throw reader.lines.error("randomize 0, the parameters of a trained network (1 asks for random ones)");
}

void read_angular_terms(HeaderLines &reader, Descriptor &descriptor) {
  std::string expected = "Legendre orders: their number, then each";
  reader.next(expected, {"legendre_orders", "cross_terms", "triples"});
  const auto orders = reader.counted(expected);
  // The older header has the Gaussian centres here, in Å.
  if (!all_whole(orders)) throw reader.lines.error("Legendre orders, whole numbers (" + older_header + ")");
  descriptor.legendre_orders.assign(orders.begin(), orders.end());
  if (!has_more_terms(descriptor.gi_mode)) return;
  const std::size_t start = 1 + orders.size();
  descriptor.cross_terms = reader.integer(start, expected + ", then c, the greatest distance of two Gaussians");
  expected = "after c the number of triples, then three Legendre orders of each, whole numbers";
  const int count = reader.integer(start + 1, expected);
  const std::size_t first = start + 2, n = reader.cells.size();
  const std::size_t end = first + 3 * static_cast<std::size_t>(std::max(count, 0));
  if (count < 0 || end > n || (end < n && parse_number(reader.cells[end])))
    throw reader.lines.error(expected + ": " + std::to_string(end - first) + " for " + std::to_string(count) +
                             " triples");
  for (std::size_t place = first; place < end; place += 3)
    descriptor.triples.push_back(
        {reader.integer(place, expected), reader.integer(place + 1, expected), reader.integer(place + 2, expected)});
}

Potential read_header(HeaderLines &reader, NetworkLines &networks) {
  Potential potential;
  Descriptor &descriptor = potential.descriptor;
  const std::string mode_line = "gi_mode, shift and activation";
  bool commented = false;
  for (;; commented = true) {
    reader.next(mode_line, {"gi_mode", "shift", "activation"});
    if (reader.cells[0][0] != '#') break;
  }
  descriptor.gi_mode = reader.integer(0, mode_line);
  descriptor.shift = reader.number(1, mode_line);
  potential.activation = reader.integer(2, mode_line);
  read_elements(reader, potential);
  read_lengths(reader, descriptor);
  read_angular_terms(reader, descriptor);
  const std::string centers = "Gaussian centres r0: their number, then each";
  reader.next(centers, {"gaussian_centers"});
  descriptor.gaussian_centers = reader.counted(centers);
  const SettingFault fault = find_fault(descriptor);
  if (!fault.text.empty()) throw reader.lines.fault_at(reader.line_of.at(fault.setting), fault.text);
  networks = read_network_lines(reader, descriptor, commented);
  potential.layer_sizes = networks.sizes;
  potential.baseline = networks.baseline;
  potential.is_plain = networks.is_plain;
  if (potential.activation < 0 || potential.activation > 2)
    throw reader.lines.fault_at(reader.line_of.at("activation"),
                                "activation: expected 0, 1 or 2, got " + std::to_string(potential.activation));
  return potential;
}

// Refuse a last line, without a line end, that has fewer cells than those before, or other digits.
void check_end(const HeaderLines &reader, const std::deque<Cells> &before) {
  const Cells &cells = reader.cells;
  Cells alike;
  bool more = false;
  for (const auto &line : before) {
    if (line.size() == cells.size()) alike.push_back(line.back());
    more = more || line.size() > cells.size();
  }
  const bool ends_blank = reader.lines.text().find_last_not_of(" \t\v\f") + 1 < reader.lines.text().size();
  if (!ends_blank && may_be_cut(cells.back(), alike))
    throw reader.lines.error(no_line_end);
  if (more) throw reader.lines.error("as many cells as on the lines before, and a line end");
}

double read_value(HeaderLines &reader, std::deque<Cells> &before) {
  reader.cells = reader.lines.cells();
  const double value = reader.number(0, "a weight or bias, one number");
  if (reader.cells.size() > 1) reader.number(1, "a number, the reserved second cell");
  if (reader.cells.size() > 2) throw reader.lines.error("a weight or bias and one reserved cell");
  if (reader.lines.at_open_end()) check_end(reader, before);
  before.push_back(reader.cells);
  if (before.size() > witnesses) before.pop_front();
  return value;
}

// Values of the layers of so many networks.
std::vector<double> read_values(HeaderLines &reader, const std::vector<int> &sizes, int n_networks) {
  double count = 0.0;  // as a number that cannot overflow
  for (std::size_t k = 0; k + 1 < sizes.size(); ++k) count += (sizes[k] + 1.0) * sizes[k + 1];
  count *= n_networks;
  const std::string expected = (count > max_parameters ? text_of(count)
                                                       : std::to_string(static_cast<long long>(count))) +
                               " weights and biases for the layers " + join(sizes);
  std::vector<double> values;
  std::deque<Cells> before;
  while (static_cast<double>(values.size()) < count && count <= max_parameters && reader.lines.advance())
    values.push_back(read_value(reader, before));
  if (static_cast<double>(values.size()) < count) {
    const std::size_t found = values.size() + reader.lines.lines_left();
    throw reader.lines.fault_at(0, "expected " + expected + ", found " + std::to_string(found));
  }
  if (reader.lines.advance()) throw reader.lines.error(expected + " and no more");
  return values;
}

// Layers, whose values begin at `next`, which is moved behind them.
std::vector<Layer> take_layers(const std::vector<int> &sizes, std::vector<double>::const_iterator &next) {
  std::vector<Layer> layers;
  const auto take = [&](std::size_t count) {
    next += static_cast<std::ptrdiff_t>(count);
    return std::vector<double>(next - static_cast<std::ptrdiff_t>(count), next);
  };
  for (std::size_t k = 0; k + 1 < sizes.size(); ++k) {
    Layer layer{sizes[k], sizes[k + 1], {}, {}};
    layer.weights = take(static_cast<std::size_t>(layer.n_in) * layer.n_out);
    layer.biases = take(layer.n_out);
    layers.push_back(std::move(layer));
  }
  return layers;
}

}  // namespace

std::string Potential::kind() const {
  if (!is_informed()) return "a straight network";
  const std::string form = is_plain ? " (plain form)" : " (squared form)";
  return (layer_sizes[0] == 0 ? "a bare bond-order potential" : "a physically informed network") + form;
}

double Potential::neighbor_cutoff() const {
  const double reach = descriptor.neighbor_cutoff();
  return is_informed() ? std::max(reach, 1.5 * descriptor.cutoff) : reach;
}

Potential parse_potential(const std::string &text, const std::string &name) {
  HeaderLines reader{TextLines(text, name, "a potential (.nn.dat, .pinn)"), {}, {}};
  NetworkLines found;
  Potential potential = read_header(reader, found);
  const int n_elements = potential.descriptor.n_elements();
  const auto values = read_values(reader, found.file_sizes, found.shared ? 1 : n_elements);
  auto next = values.cbegin();
  if (found.shared) {
    potential.networks = found.shared->split(take_layers(found.file_sizes, next));
  } else if (found.file_sizes.empty()) {
    if (reader.lines.at_open_end()) throw reader.lines.error(no_line_end);
    // The members of a committee may differ in biases, not in baselines.
    const int n_out = potential.layer_sizes.back();
    for (auto first = potential.baseline.begin(); first != potential.baseline.end(); first += n_out)
      potential.networks.push_back({Layer{0, n_out, {}, std::vector<double>(first, first + n_out)}});
    potential.baseline.clear();
  } else {
    for (int k = 0; k < n_elements; ++k) potential.networks.push_back(take_layers(found.file_sizes, next));
  }
  return potential;
}

}  // namespace pyfit
