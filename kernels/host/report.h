// What a run of the model found wrong, as text. Every part of the model reports here; a test reads it.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <source_location>
#include <string>

namespace model {

// Line of a kernel: the default argument of every function of the surface.
using Where = std::source_location;

class Report {
  public:
    // An error of a kind, which is the detector's name. Two of each kind are told, the others counted.
    __attribute__((format(printf, 4, 5))) void error(const char* kind, const Where& where, const char* format, ...) {
        count_++;
        if (++kinds_[kind] > 2) {
            return;
        }
        char text[512];
        va_list list;
        va_start(list, format);
        vsnprintf(text, sizeof text, format, list);
        va_end(list);
        const char* slash = strrchr(where.file_name(), '/');
        const char* file = slash ? slash + 1 : where.file_name();
        text_ += std::string(kind) + ": " + file + ":" + std::to_string(where.line()) + ": " + text + "\n";
    }
    unsigned count() const { return count_; }
    const std::string& text() const { return text_; }

  private:
    unsigned count_ = 0;
    std::map<std::string, unsigned> kinds_;
    std::string text_;
};

}  // namespace model
