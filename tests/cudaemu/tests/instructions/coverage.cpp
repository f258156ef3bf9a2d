// Runs the instruction tests and fails unless they ran every form of instruction that the PTX files
// of the command line have.
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>

#include "forms.h"
#include "harness.h"

int main(int count, char** arguments) {
    using namespace cudaemu;
    if (count < 2) {
        std::cerr << "usage: " << arguments[0] << " FILE.ptx...\n";
        return 2;
    }
    std::map<std::string, std::string> needed;  // form -> a file that has it
    for (int i = 1; i < count; ++i) {
        std::ifstream file(arguments[i]);
        const std::string text{std::istreambuf_iterator<char>(file), {}};
        const auto forms = forms_of(text);
        if (!file || forms.empty()) {
            std::cerr << arguments[i] << ": no PTX\n";
            return 2;
        }
        for (const std::string& form : forms) needed.emplace(form, arguments[i]);
    }

    Catch::Session session;
    if (const int failed = session.run()) return failed;
    std::set<std::string> tested;
    for (const std::string& text : texts_run()) tested.merge(forms_of(text));
    int missing = 0;
    for (const auto& [form, file] : needed) {
        if (tested.count(form)) continue;
        std::cerr << "no test: " << form << " (" << file << ")\n";
        ++missing;
    }
    std::cout << needed.size() << " forms needed, " << tested.size() << " tested, " << missing
              << " missing\n";
    return missing ? 1 : 0;
}
