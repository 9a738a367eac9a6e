// What a descriptor's settings mean for its inputs, and checks of them.
// SPDX-License-Identifier: GPL-2.0-only

#include "descriptor.h"

#include <algorithm>
#include <locale>
#include <set>
#include <sstream>

#include "modes.h"
#include "text_lines.h"

namespace pyfit {

namespace {

constexpr int max_legendre_order = 60;  // tested up to here

std::string list_modes(bool several_elements) {
  std::string text;
  for (const auto &mode : modes)
    if (!several_elements || mode.several_elements()) text += (text.empty() ? "" : ", ") + std::to_string(mode.number);
  return text;
}

template <class Number> std::string join_texts(const std::vector<Number> &values, std::string (*text)(Number)) {
  std::string joined;
  for (const Number value : values) joined += (joined.empty() ? "" : " ") + text(value);
  return joined;
}

SettingFault mode_and_elements_fault(const Descriptor &d) {
  const Mode *mode = find_mode(d.gi_mode);
  if (!mode) return {"gi_mode", "gi_mode: expected one of " + list_modes(false) + ", got " + std::to_string(d.gi_mode)};
  if (std::set<std::string>(d.elements.begin(), d.elements.end()).size() != d.elements.size())
    return {"elements", "elements: expected different chemical symbols, got one twice"};
  if (d.n_elements() > 1 && !mode->several_elements())
    return {"gi_mode", "gi_mode: expected one that takes " + std::to_string(d.n_elements()) + " elements (" +
                           list_modes(true) + "), got " + std::to_string(d.gi_mode) +
                           ": blocks of two elements can be negative, and this mode does not take such numbers"};
  return {};
}

SettingFault length_fault(const Descriptor &d) {
  const std::pair<const char *, double> lengths[] = {
      {"cutoff", d.cutoff}, {"cutoff_width", d.cutoff_width}, {"gaussian_width", d.gaussian_width}};
  for (const auto &[name, length] : lengths)
    if (!(length > 0.0)) return {name, std::string(name) + ": expected a length above 0 Å, got " + text_of(length)};
  return {};
}

SettingFault orders_and_centers_fault(const Descriptor &d) {
  for (const int order : d.legendre_orders)
    if (order < 0 || order > max_legendre_order)
      return {"legendre_orders", "legendre_orders: expected whole numbers from 0 to " +
                                     std::to_string(max_legendre_order) + ", got " + join(d.legendre_orders)};
  for (const double center : d.gaussian_centers)
    if (find_mode(d.gi_mode)->center_is_norm && !(center > 0.0))
      return {"gaussian_centers", "gaussian_centers: expected lengths above 0 Å, got " + join(d.gaussian_centers)};
  return {};
}

// Why three orders make no four-body term; empty: they do.
std::string triple_fault(const std::array<int, 3> &triple, const std::vector<int> &orders) {
  for (const int order : triple)
    if (std::find(orders.begin(), orders.end(), order) == orders.end())
      return "order " + std::to_string(order) + " is not one of the Legendre orders " + join(orders);
  if (!std::is_sorted(triple.begin(), triple.end())) return "expected ascending orders";
  const int sum = triple[0] + triple[1] + triple[2];
  if (sum % 2) return "the sum of the orders, " + std::to_string(sum) + ", is odd, and such a term is zero";
  if (triple[2] > triple[0] + triple[1])
    return std::to_string(triple[2]) + " is above " + std::to_string(triple[0]) + " + " + std::to_string(triple[1]) +
           ", and such a term is zero";
  return "";
}

SettingFault more_terms_fault(const Descriptor &d) {
  const int n_centers = static_cast<int>(d.gaussian_centers.size());
  if (d.cross_terms < 0 || d.cross_terms >= n_centers)
    return {"cross_terms", "cross_terms: expected a whole number from 0 to " + std::to_string(n_centers - 1) +
                               " (there are " + std::to_string(n_centers) + " Gaussian centres), got " +
                               std::to_string(d.cross_terms)};
  std::set<std::array<int, 3>> earlier;
  for (std::size_t k = 0; k < d.triples.size(); ++k) {
    const auto &triple = d.triples[k];
    std::string fault = triple_fault(triple, d.legendre_orders);
    if (fault.empty() && !earlier.insert(triple).second) fault = "it is there twice";
    if (!fault.empty())
      return {"triples", "triples: triple " + std::to_string(k + 1) + ", " +
                             join(std::vector<int>(triple.begin(), triple.end())) + ": " + fault};
  }
  return {};
}

}  // namespace

std::string join(const std::vector<double> &values) { return join_texts(values, text_of); }
std::string join(const std::vector<int> &values) { return join_texts<int>(values, std::to_string); }

std::string text_of(double value) {
  for (int digits = 15;; ++digits) {
    std::ostringstream stream;
    stream.imbue(std::locale::classic());
    stream.precision(digits);
    stream << value;
    if (digits == 17 || parse_number(stream.str()) == value) return stream.str();
  }
}

bool has_more_terms(int gi_mode) {
  const Mode *mode = find_mode(gi_mode);
  return mode && mode->more_terms;
}

bool is_element(const std::string &symbol) {
  static const std::set<std::string> symbols = [] {
    std::istringstream names(
        "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
        "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir "
        "Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl "
        "Mc Lv Ts Og");
    std::set<std::string> found;
    for (std::string name; names >> name;) found.insert(name);
    return found;
  }();
  return symbols.count(symbol) > 0;
}

SettingFault find_fault(const Descriptor &descriptor) {
  for (const auto &check : {mode_and_elements_fault, length_fault, orders_and_centers_fault, more_terms_fault}) {
    const SettingFault fault = check(descriptor);
    if (!fault.text.empty()) return fault;
  }
  return {};
}

int Descriptor::n_features() const {
  const int n = n_elements(), c = cross_terms, n_centers = static_cast<int>(gaussian_centers.size());
  const int n_radial = (c + 1) * n_centers - c * (c + 1) / 2;
  const int pairs = n * (n + 1) / 2 * static_cast<int>(legendre_orders.size()) * n_radial;
  return pairs + n * (n + 1) * (n + 2) / 6 * static_cast<int>(triples.size()) * n_centers;
}

std::string Descriptor::input_name(int number) const {
  const int n = n_elements(), n_centers = static_cast<int>(gaussian_centers.size());
  const auto center = [&](int place) {  // as Python writes it
    const std::string text = text_of(gaussian_centers[place]);
    return text.find_first_not_of("0123456789") == std::string::npos ? text + ".0" : text;
  };
  const auto named = [&](const std::string &symbols, const std::string &orders, const std::string &centers) {
    return "input " + std::to_string(number + 1) + ", " + symbols + " l=" + orders + " r0=" + centers + " Å";
  };
  int left = number;
  for (int a = 0; a < n; ++a)
    for (int b = a; b < n; ++b)
      for (const int order : legendre_orders)
        for (int k = 0; k <= cross_terms; left -= n_centers - k, ++k) {
          if (left >= n_centers - k) continue;
          return named(elements[a] + "-" + elements[b], std::to_string(order),
                       k == 0 ? center(left) : center(left) + "," + center(left + k));
        }
  for (int a = 0; a < n; ++a)
    for (int b = a; b < n; ++b)
      for (int c = b; c < n; ++c)
        for (const auto &[l1, l2, l3] : triples) {
          const std::string orders = std::to_string(l1) + "," + std::to_string(l2) + "," + std::to_string(l3);
          if (left < n_centers) return named(elements[a] + "-" + elements[b] + "-" + elements[c], orders, center(left));
          left -= n_centers;
        }
  return "input " + std::to_string(number + 1);
}

double Descriptor::neighbor_cutoff() const { return find_mode(gi_mode)->reach * cutoff; }

std::string Descriptor::difference(const Descriptor &other) const {
  const auto settings = [](const Descriptor &d) {
    std::string symbols, orders;
    for (const auto &symbol : d.elements) symbols += (symbols.empty() ? "" : " ") + symbol;
    for (const auto &t : d.triples) orders += (orders.empty() ? "" : ", ") + join(std::vector<int>(t.begin(), t.end()));
    const Mode *mode = find_mode(d.gi_mode);
    return std::vector<std::pair<std::string, std::string>>{
        {"elements", symbols},
        {"gi_mode", std::to_string(d.gi_mode)},
        {"shift", mode && mode->uses_shift ? text_of(d.shift) : "none"},
        {"cutoff", text_of(d.cutoff)},
        {"cutoff_width", text_of(d.cutoff_width)},
        {"gaussian_width", text_of(d.gaussian_width)},
        {"legendre_orders", join(d.legendre_orders)},
        {"gaussian_centers", join(d.gaussian_centers)},
        {"cross_terms", std::to_string(d.cross_terms)},
        {"triples", orders.empty() ? "none" : orders},
    };
  };
  const auto ours = settings(*this), theirs = settings(other);
  for (std::size_t k = 0; k < ours.size(); ++k)
    if (ours[k] != theirs[k]) return ours[k].first + ": expected " + ours[k].second + ", found " + theirs[k].second;
  return "";
}

}  // namespace pyfit
