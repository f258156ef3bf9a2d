// Runs the instruction tests and fails unless they ran every form of instruction in the PTX of a
// program or library, whose PTX must not be compressed.
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#include <fstream>
#include <iostream>
#include <iterator>

#include "forms.h"
#include "harness.h"

namespace {

// The PTX texts in a file's bytes: each begins with its version and ends with a zero.
std::vector<std::string> ptx_in(const std::string& bytes) {
    std::vector<std::string> texts;
    for (size_t at = 0; (at = bytes.find("\n.version ", at)) != std::string::npos;) {
        const size_t end = std::min(bytes.find('\0', at), bytes.size());
        texts.push_back(bytes.substr(at, end - at));
        at = end;
    }
    return texts;
}

}  // namespace

int main(int count, char** arguments) {
    using namespace cudaemu;
    if (count != 2) {
        std::cerr << "usage: " << arguments[0] << " FILE\n";
        return 2;
    }
    std::ifstream file(arguments[1], std::ios::binary);
    const std::vector<std::string> texts =
        ptx_in({std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()});
    std::set<std::string> needed;
    for (const std::string& text : texts) needed.merge(forms_of(text));
    if (needed.empty()) {
        std::cerr << arguments[1] << ": no PTX\n";
        return 2;
    }

    Catch::Session session;
    if (const int failed = session.run()) return failed;
    std::set<std::string> tested;
    for (const std::string& text : texts_run()) tested.merge(forms_of(text));
    int missing = 0;
    for (const std::string& form : needed) {
        if (tested.count(form)) continue;
        std::cerr << "no test: " << form << "\n";
        ++missing;
    }
    std::cout << texts.size() << " PTX files, " << needed.size() << " forms needed, "
              << tested.size() << " tested, " << missing << " missing\n";
    return missing ? 1 : 0;
}
