// SPDX-License-Identifier: GPL-2.0-only
// Texts and numbers as JSON has them, for the programs of the tests.

#include <cmath>
#include <cstdio>
#include <sstream>
#include <string>

inline std::string quoted(const std::string &text) {
  std::string found = "\"";
  for (const char c : text) {
    char code[8];
    std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned char>(c));
    found += c == '"' || c == '\\' || static_cast<unsigned char>(c) < ' ' ? code : std::string(1, c);
  }
  return found + "\"";
}

template <class Numbers> std::string numbers(const Numbers &values) {
  std::ostringstream stream;
  stream.precision(17);
  for (const auto value : values) {
    stream << (stream.tellp() > 0 ? "," : "");
    if (std::isnan(static_cast<double>(value)))
      stream << "null";
    else
      stream << value;
  }
  return "[" + stream.str() + "]";
}
