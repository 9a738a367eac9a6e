// Lines of a text file, numbers in them by the rules of pyfit-gpu's formats, and errors that say where.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_TEXT_LINES_H
#define PYFIT_TEXT_LINES_H

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace pyfit {

using Cells = std::vector<std::string>;

// A finite decimal number in ASCII digits, as C and Python write it; none for any other text.
std::optional<double> parse_number(const std::string &cell);

// Whether the last number of a text without a final line end may have lost digits. It is whole where the others show
// it: one of them has as many digits after the decimal point and in the exponent, and none has more.
// others: cells that are written like it.
bool may_be_cut(const std::string &last, const Cells &others);

struct Line {
  int number;
  std::string text;
};

// Lines that are not blank, one after the other.
class TextLines {
 public:
  // name: of the file, for errors; kind: of file, for errors.
  // Throws std::runtime_error where the text is binary data.
  TextLines(const std::string &text, const std::string &name, const std::string &kind);

  bool advance();                                // to the next line; false: there is none
  void next(const std::string &expected);        // the same, but the end of the file is an error
  const std::string &text() const { return text_; }
  int number() const { return number_; }         // of the present line, from 1
  int lines_left() const;                        // that are not blank
  bool at_open_end() const { return open_end_; }  // whether this is the last line and lacks its end
  Cells cells() const;
  Line present() const { return {number_, text_}; }
  // Make an earlier line the present one again; the next one stays that after the last that was read.
  void back_to(const Line &line) {
    number_ = line.number;
    text_ = line.text;
  }

  double number_at(const Cells &cells, std::size_t place, const std::string &expected) const;
  long long integer_at(const Cells &cells, std::size_t place, const std::string &expected) const;

  // An error that names the present line and shows it.
  std::runtime_error error(const std::string &expected) const;
  // The same about another line, or (0) the whole file; `fault` says what was expected and what was found.
  std::runtime_error fault_at(int line, const std::string &fault) const;

 private:
  bool find_line(std::string &line);

  std::string content_, name_;
  std::size_t place_ = 0;  // in the content, of the line after the present one
  int n_read_ = 0, number_ = 0;  // lines so far; of the present one
  bool open_end_ = false;
  std::string text_;
};

}  // namespace pyfit

#endif
