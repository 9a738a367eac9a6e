// SPDX-License-Identifier: GPL-2.0-only
// Read the uncertainty files that standard input names, and print all numbers of each as a line of JSON.

#include <fstream>
#include <iostream>
#include <sstream>

#include "json_text.h"
#include "uncertainty.h"

namespace {

std::string described(const pyfit::Uncertainty &uncertainty) {
  std::string elements, clusters;
  for (const auto &symbol : uncertainty.elements) elements += (elements.empty() ? "" : ",") + quoted(symbol);
  for (const auto &element : uncertainty.clusters) {
    std::string own = numbers(element.scale);
    for (const auto &cluster : element.clusters)
      own += "," + numbers(std::vector<double>{cluster.weight}) + "," + numbers(cluster.center) + "," +
             numbers(cluster.directions);
    clusters += (clusters.empty() ? "[" : ",[") + own + "]";
  }
  return "{\"head\":" + numbers(std::vector<double>{double(uncertainty.checksum), double(uncertainty.n_inputs)}) +
         ",\"elements\":[" + elements + "],\"clusters\":[" + clusters + "]}";
}

}  // namespace

int main() {
  for (std::string name; std::getline(std::cin, name);) {
    std::ifstream file(name, std::ios::binary);
    std::ostringstream content;
    content << file.rdbuf();
    try {
      std::cout << described(pyfit::parse_uncertainty(content.str(), name)) << "\n";
    } catch (const std::runtime_error &fault) {
      std::cout << "{\"refused\":" << quoted(fault.what()) << "}\n";
    }
  }
}
