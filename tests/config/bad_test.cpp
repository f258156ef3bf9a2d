// Every file of bad/ through the loader. What it says stands at the top of the file, "#= " before
// each line, and what comes behind it on the command line as "#--set "; files that have no room for
// comments have NAME.txt beside them.
#include <fstream>

#include "config/config_files.h"

using namespace fomoe;
namespace fs = std::filesystem;

namespace {

const std::string kBad = FOMOE_SOURCE_DIR "/tests/config/bad/";

struct Expected {
    std::vector<std::string> sets;
    std::string lines;
    int errors = 0;
};

void add_line(Expected& expected, const std::string& line) {
    expected.lines += line + "\n";
    ++expected.errors;
}

Expected expected_of(const fs::path& path) {
    Expected expected;
    std::string line;
    std::ifstream file(path);
    while (std::getline(file, line) && line.starts_with("#")) {
        if (line.starts_with("#--set ")) expected.sets.push_back(line.substr(7));
        if (line.starts_with("#= ")) add_line(expected, line.substr(3));
    }
    std::ifstream beside(fs::path(path).replace_extension(".txt"));
    while (std::getline(beside, line)) add_line(expected, line);
    return expected;
}

}  // namespace

TEST_CASE("every bad config ends in the messages that stand in it") {
    int count = 0;
    for (const auto& entry : fs::directory_iterator(kBad)) {
        if (entry.path().extension() != ".yaml") continue;
        INFO(entry.path());
        ++count;
        const Expected expected = expected_of(entry.path());
        CHECK(expected.errors > 0);
        const std::string end =
            std::to_string(expected.errors) + (expected.errors == 1 ? " error" : " errors");
        try {
            load_config({entry.path()}, expected.sets);
            FAIL_CHECK("no error");
        } catch (const Error& error) {
            CHECK(error.exit == Exit::usage);
            std::string said = error.what();
            for (size_t at; (at = said.find(kBad)) != said.npos;) said.erase(at, kBad.size());
            CHECK(said == expected.lines + end + "; nothing was started.");
        }
    }
    CHECK(count >= 60);
}

TEST_CASE("what is too large to be a config is refused before it is read") {
    Files files;
    files.add("large.yaml", std::string((1 << 20) + 1, '#'));
    CHECK(files.errors() ==
          one_error("large.yaml: error: has more than 1024 KiB; this is no config"));
    Files folder;
    try {
        load_config({folder.path()});
        FAIL("no error");
    } catch (const Error& error) {
        CHECK_THAT(error.what(), Catch::Contains(": error: is a directory; a file is expected"));
    }
}

TEST_CASE("errors without end are cut") {
    std::string text = kSources;
    for (int i = 0; i < 500; ++i) text += "key" + std::to_string(i) + ": 1\n";
    const std::string said = errors(text);
    CHECK(std::ranges::count(said, '\n') == 100);
    CHECK_THAT(said, Catch::EndsWith("\n100 errors, and maybe more; nothing was started."));
}
