// Reader of uncertainty files, and the check that one belongs to the potential at hand.
// SPDX-License-Identifier: GPL-2.0-only

#include "uncertainty.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <set>
#include <stdexcept>

#include "text_lines.h"

namespace pyfit {

namespace {

const std::string format = "pyfit-gpu-uncertainty", version = "1";
constexpr int max_inputs = 10'000'000, max_clusters = 1'000'000;  // beyond any file, and a typing error
constexpr char hexadecimal[] = "0123456789abcdef";

// A parser's place in the file. A line has a keyword, then words or numbers; those with # are skipped.
struct Reader {
  TextLines lines;
  Cells cells;   // of the present line
  int last = 0;  // number of the present line

  bool advance() {
    while (lines.advance()) {
      const Cells found = lines.cells();
      if (found[0][0] == '#') continue;
      cells = found;
      last = lines.number();
      return true;
    }
    return false;
  }
  void next(const std::string &expected) {
    if (advance()) return;
    const std::string fault = cells.empty() ? "empty" : "cut off after line " + std::to_string(last);
    throw lines.fault_at(0, fault + ": expected " + expected + ", found the end of the file");
  }
  // A line that begins with a keyword and has so many words after it.
  void next(const std::string &keyword, std::size_t count, const std::string &expected) {
    const std::string whole = "'" + keyword + "' and " + expected;
    next(whole);
    if (cells[0] != keyword || cells.size() != count + 1) throw lines.error(whole);
  }
  // A checksum among the cells, of digits that are all there.
  std::uint32_t checksum(std::size_t place, const std::string &expected) const {
    const std::string &digits = cells[place];
    if (digits.size() != 8 || digits.find_first_not_of(hexadecimal) != std::string::npos) throw lines.error(expected);
    return static_cast<std::uint32_t>(std::stoul(digits, nullptr, 16));
  }
  // A count, of digits alone.
  int count(std::size_t place, int least, int most, const std::string &expected) const {
    const bool digits = cells[place].find_first_not_of("0123456789") == std::string::npos;
    const double value = digits ? lines.number_at(cells, place, expected) : -1.0;
    if (value < least || value > most) throw lines.error(expected);
    return static_cast<int>(value);
  }
  std::vector<double> numbers(const std::string &keyword, int count) {
    const std::string expected = std::to_string(count) + " numbers";
    next(keyword, count, expected);
    std::vector<double> values;
    for (int k = 1; k <= count; ++k) values.push_back(lines.number_at(cells, k, "'" + keyword + "' and " + expected));
    return values;
  }
};

void read_head(Reader &reader, Uncertainty &uncertainty) {
  reader.next("'" + format + " " + version + "'");
  if (reader.cells[0] != format)
    throw reader.lines.error("an uncertainty file, which begins with '" + format + " " + version + "'");
  if (reader.cells != Cells{format, version}) throw reader.lines.error("version " + version + " of the format");
  const std::string expected = "a checksum of 8 hexadecimal digits";
  reader.next("potential", 1, expected);
  uncertainty.checksum = reader.checksum(1, "'potential' and " + expected);
  reader.next("'elements' and different chemical symbols");
  uncertainty.elements.assign(reader.cells.begin() + 1, reader.cells.end());
  const std::set<std::string> different(uncertainty.elements.begin(), uncertainty.elements.end());
  if (reader.cells[0] != "elements" || different.empty() || different.size() != uncertainty.elements.size())
    throw reader.lines.error("'elements' and different chemical symbols");
  reader.next("inputs", 1, "their number");
  uncertainty.n_inputs = reader.count(1, 1, max_inputs, "'inputs' and their number");
}

Clusters::Cluster read_cluster(Reader &reader, int n_inputs) {
  Clusters::Cluster cluster;
  const std::string words = "numbers of atoms and of directions, and a weight above 0";
  const std::string expected = "'cluster' and " + words + ", at most " + std::to_string(n_inputs) + " directions";
  reader.next("cluster", 3, words);
  reader.count(1, 0, 2'147'483'647, expected);
  const int n_directions = reader.count(2, 0, n_inputs, expected);
  cluster.weight = reader.lines.number_at(reader.cells, 3, expected);
  if (!(cluster.weight > 0.0)) throw reader.lines.error(expected);
  cluster.center = reader.numbers("center", n_inputs);
  for (int row = 0; row < n_directions; ++row) {
    const auto direction = reader.numbers("direction", n_inputs);
    cluster.directions.insert(cluster.directions.end(), direction.begin(), direction.end());
  }
  return cluster;
}

void read_grade(Reader &reader, Uncertainty &uncertainty) {
  bool any = false;
  for (const auto &symbol : uncertainty.elements) {
    const std::string expected = "the symbol " + symbol + " and its number of clusters";
    reader.next("element", 2, expected);
    if (reader.cells[1] != symbol) throw reader.lines.error("'element' and " + expected);
    const int n_clusters = reader.count(2, 0, max_clusters, "'element' and " + expected);
    Clusters found;
    found.scale = reader.numbers("scale", uncertainty.n_inputs);
    for (const double value : found.scale)
      if (!(value > 0.0)) throw reader.lines.error("'scale' and numbers above 0");
    for (int k = 0; k < n_clusters; ++k) found.clusters.push_back(read_cluster(reader, uncertainty.n_inputs));
    any = any || n_clusters > 0;
    uncertainty.clusters.push_back(std::move(found));
  }
  reader.next("'end grade'");
  if (reader.cells != Cells{"end", "grade"}) throw reader.lines.error("'end grade'");
  if (!any) throw reader.lines.error("a cluster of one of the elements before this line");
}

std::string in_digits(std::uint32_t value) {
  char text[9];
  std::snprintf(text, sizeof text, "%08lx", static_cast<unsigned long>(value));
  return text;
}

std::string listed(const std::vector<std::string> &words) {
  std::string text;
  for (const auto &word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

// A table of the CRC-32 of single bytes.
std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = value & 1 ? 0xedb88320u ^ (value >> 1) : value >> 1;
    table[byte] = value;
  }
  return table;
}

// CRC-32 (zlib's) of bytes, one after the other.
class Crc {
 public:
  void add(unsigned char byte) { sum_ = table()[(sum_ ^ byte) & 0xff] ^ (sum_ >> 8); }
  std::uint32_t value() const { return ~sum_; }

 private:
  static const std::array<std::uint32_t, 256> &table() {
    static const auto made = make_table();
    return made;
  }
  std::uint32_t sum_ = 0xffffffffu;
};

// Checksum of the first lines of a text, each with one line feed, whatever its end, and without a byte order mark.
std::uint32_t checksum_of_lines(const std::string &text, int count) {
  Crc sum;
  std::size_t place = text.compare(0, 3, "\xef\xbb\xbf") == 0 ? 3 : 0;
  for (int line = 0; line < count && place < text.size();) {
    char byte = text[place++];
    if (byte == '\r') {
      if (place < text.size() && text[place] == '\n') ++place;
      byte = '\n';
    }
    sum.add(static_cast<unsigned char>(byte));
    line += byte == '\n';
  }
  return sum.value();
}

}  // namespace

std::uint32_t checksum(const std::vector<Potential> &members) {
  Crc sum;
  const auto add = [&](const std::vector<double> &values) {
    for (const double value : values) {
      std::uint64_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      for (int byte = 0; byte < 8; ++byte, bits >>= 8) sum.add(bits & 0xff);
    }
  };
  add(members[0].baseline);
  for (const auto &member : members)
    for (const auto &network : member.networks)
      for (const auto &layer : network) {
        add(layer.weights);
        add(layer.biases);
      }
  return sum.value();
}

std::string Uncertainty::difference(const std::vector<Potential> &members) const {
  const Descriptor &descriptor = members[0].descriptor;
  if (elements != descriptor.elements)
    return "expected the elements " + listed(descriptor.elements) + " of the potential, found " + listed(elements);
  if (n_inputs != descriptor.n_features())
    return "expected " + std::to_string(descriptor.n_features()) + " inputs as the potential has, found " +
           std::to_string(n_inputs);
  if (checksum == pyfit::checksum(members)) return "";
  for (const auto &member : members)
    if (checksum == pyfit::checksum({member})) return "";
  return "belongs to another potential: expected the checksum " + in_digits(pyfit::checksum(members)) +
         " of this one's parameters, found " + in_digits(checksum);
}

Uncertainty parse_uncertainty(const std::string &text, const std::string &name) {
  Reader reader{TextLines(text, name, "an uncertainty file"), {}};
  Uncertainty uncertainty;
  read_head(reader, uncertainty);
  const std::string expected = "'begin' and the name of a section, or 'end' and a checksum of 8 hexadecimal digits";
  std::set<std::string> sections;
  for (;;) {
    reader.next(expected);
    const bool is_end = reader.cells[0] == "end";
    if (reader.cells.size() != 2 || (!is_end && reader.cells[0] != "begin")) throw reader.lines.error(expected);
    if (is_end) break;
    const std::string section = reader.cells[1];
    if (!sections.insert(section).second) throw reader.lines.error("one section of this name");
    if (section == "grade")
      read_grade(reader, uncertainty);
    else  // such as error bars, which are not computed here
      do reader.next("'end " + section + "'");
      while (reader.cells != Cells{"end", section});
  }
  if (reader.checksum(1, expected) != checksum_of_lines(text, reader.last - 1))
    throw reader.lines.fault_at(0, "damaged: its content does not have the checksum that was written with it");
  if (uncertainty.clusters.empty()) throw reader.lines.error("a section 'grade' before the end");
  if (reader.advance()) throw reader.lines.error("the end of the file after 'end'");
  return uncertainty;
}

}  // namespace pyfit
