// Lines of a text file, numbers in them by the rules of pyfit-gpu's formats, and errors that say where.
// SPDX-License-Identifier: GPL-2.0-only

#include "text_lines.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <locale>
#include <sstream>

namespace pyfit {

namespace {

const char *const white = " \t\v\f\r\x1c\x1d\x1e\x1f";  // ASCII that separates cells
const std::string byte_order_mark = "\xef\xbb\xbf";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// How a number is written: points, decimals, digits of the exponent, and digits where there is no point.
using Form = std::array<std::size_t, 4>;

std::size_t count_digits(const std::string &cell, std::size_t &place) {
  const std::size_t start = place;
  while (place < cell.size() && is_digit(cell[place])) ++place;
  return place - start;
}

// The form of [sign] digits [. digits] [e [sign] digits]; none: it is written in another way.
std::optional<Form> form_of(const std::string &cell, bool needs_digits) {
  std::size_t place = !cell.empty() && (cell[0] == '-' || cell[0] == '+');
  const std::size_t whole = count_digits(cell, place);
  const bool point = place < cell.size() && cell[place] == '.';
  place += point;
  const std::size_t decimals = point ? count_digits(cell, place) : 0;
  if (needs_digits && whole + decimals == 0) return std::nullopt;
  std::size_t exponent = 0;
  if (place < cell.size() && (cell[place] == 'e' || cell[place] == 'E')) {
    ++place;
    place += place < cell.size() && (cell[place] == '-' || cell[place] == '+');
    exponent = count_digits(cell, place);
    if (exponent == 0) return std::nullopt;
  }
  if (place != cell.size()) return std::nullopt;
  return Form{point, decimals, exponent, point ? 0 : whole};
}

// Bytes of the UTF-8 character that begins here; 0: none does.
std::size_t character_size(const std::string &text, std::size_t place) {
  const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(text[place + k]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || place + size > text.size()) return 0;
  for (std::size_t k = 1; k < size; ++k)
    if ((byte(k) & 0xc0) != 0x80) return 0;
  // Longer than it need be, half of a UTF-16 pair, or beyond the last character.
  const unsigned char second = byte(1);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f)) return 0;
  if ((first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) return 0;
  return size;
}

bool is_text(const std::string &content) {
  if (content.find('\0') != std::string::npos) return false;
  for (std::size_t place = 0, size = 0; place < content.size(); place += size) {
    size = character_size(content, place);
    if (size == 0) return false;
  }
  return true;
}

}  // namespace

std::optional<double> parse_number(const std::string &cell) {
  if (!form_of(cell, true)) return std::nullopt;
  std::istringstream stream(cell);
  stream.imbue(std::locale::classic());  // a decimal point, whatever the program around has set
  double value = 0.0;
  if (!(stream >> value) || !std::isfinite(value)) return std::nullopt;
  return value;
}

bool may_be_cut(const std::string &last, const Cells &others) {
  const auto form = form_of(last, false);
  if (!form) return std::find(others.begin(), others.end(), last) == others.end();
  bool known = false, longer = false;
  for (const auto &other : others) {
    const auto found = form_of(other, false);
    if (!found) continue;
    known = known || *found == *form;
    bool more = false;
    for (std::size_t k = 0; k < form->size(); ++k) more = more || (*found)[k] > (*form)[k];
    longer = longer || (more && (*found)[0] >= (*form)[0]);  // a point says more than the lack of one
  }
  return !known || longer;
}

TextLines::TextLines(const std::string &text, const std::string &name, const std::string &kind)
    : content_(text), name_(name) {
  if (!is_text(content_)) {
    const bool wide = content_.compare(0, 2, "\xff\xfe") == 0 || content_.compare(0, 2, "\xfe\xff") == 0;
    throw fault_at(0, "expected " + kind + ", found " + (wide ? "UTF-16: save it as UTF-8" : "binary data"));
  }
  if (content_.compare(0, byte_order_mark.size(), byte_order_mark) == 0) place_ = byte_order_mark.size();
}

// Take the next line, blank or not, with its number; lines end as on Unix, Windows or the first Macs.
bool TextLines::find_line(std::string &line) {
  if (place_ >= content_.size()) return false;
  const std::size_t end = content_.find_first_of("\r\n", place_);
  open_end_ = end == std::string::npos;
  line = content_.substr(place_, open_end_ ? std::string::npos : end - place_);
  place_ = open_end_ ? content_.size() : end + 1;
  if (!open_end_ && content_[end] == '\r' && place_ < content_.size() && content_[place_] == '\n') ++place_;
  number_ = ++n_read_;
  return true;
}

bool TextLines::advance() {
  std::string line;
  while (find_line(line)) {
    if (line.find_first_not_of(white) == std::string::npos) continue;
    text_ = line;
    return true;
  }
  return false;
}

void TextLines::next(const std::string &expected) {
  if (!advance()) throw fault_at(0, "expected " + expected + ", found the end of the file");
}

int TextLines::lines_left() const {
  TextLines rest = *this;
  int count = 0;
  while (rest.advance()) ++count;
  return count;
}

Cells TextLines::cells() const {
  Cells found;
  for (std::size_t end = 0;;) {
    const std::size_t start = text_.find_first_not_of(white, end);
    if (start == std::string::npos) return found;
    end = std::min(text_.find_first_of(white, start), text_.size());
    found.push_back(text_.substr(start, end - start));
  }
}

double TextLines::number_at(const Cells &cells, std::size_t place, const std::string &expected) const {
  const auto value = place < cells.size() ? parse_number(cells[place]) : std::nullopt;
  if (!value) throw error(expected);
  return *value;
}

long long TextLines::integer_at(const Cells &cells, std::size_t place, const std::string &expected) const {
  const double value = number_at(cells, place, expected);
  if (value != std::floor(value) || std::fabs(value) > 1e15) throw error(expected);  // more counts nothing that exists
  return static_cast<long long>(value);
}

std::runtime_error TextLines::error(const std::string &expected) const {
  const std::size_t start = std::min(text_.find_first_not_of(white), text_.size());
  const std::string shown = text_.substr(start, text_.find_last_not_of(white) + 1 - start);
  return fault_at(number_, "expected " + expected + ", found '" + shown.substr(0, 80) + "'");
}

std::runtime_error TextLines::fault_at(int line, const std::string &fault) const {
  const std::string where = line > 0 ? name_ + ", line " + std::to_string(line) : name_;
  return std::runtime_error(where + ": " + fault);
}

}  // namespace pyfit
