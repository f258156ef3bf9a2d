#include "base/file.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "base/error.h"
#include "support/temporary_directory.h"

using namespace fomoe;
namespace fs = std::filesystem;

TEST_CASE("a mapped file shows the bytes of the file") {
    const TemporaryDirectory directory;
    std::ofstream(directory / "a") << "some text";
    std::ofstream(directory / "empty");
    MappedFile file(directory / "a");
    CHECK(file.text() == "some text");
    const MappedFile moved = std::move(file);
    CHECK(moved.text() == "some text");
    CHECK(file.size() == 0);
    CHECK(MappedFile(directory / "empty").size() == 0);
    CHECK(read_file(directory / "a") == "some text");
}

TEST_CASE("errors name the file") {
    const TemporaryDirectory directory;
    const auto exits_with_data = [](const auto& call, const std::string& name) {
        try {
            call();
        } catch (const Error& error) {
            CHECK(error.exit == Exit::data);
            CHECK_THAT(error.what(), Catch::StartsWith(name + ": "));
            return;
        }
        FAIL("no error");
    };
    const std::string absent = directory / "absent";
    exits_with_data([&] { MappedFile{absent}; }, absent);
    exits_with_data([&] { read_file(absent); }, absent);
    exits_with_data([&] { MappedFile{directory.path()}; }, directory.path());
    exits_with_data([&] { read_file(directory.path()); }, directory.path());
    CHECK_THROWS_AS(atomic_write_file(directory / "no/such/place", "x"), Error);
}

TEST_CASE("a file is written whole or not at all") {
    const TemporaryDirectory directory;
    const std::string path = directory / "file";
    atomic_write_file(path, "old");
    {
        AtomicFile file(path);
        file.write("new", 3);
        CHECK(read_file(path) == "old");
    }
    CHECK(read_file(path) == "old");

    const std::string large(5 << 20, 'x');
    AtomicFile file(path);
    file.write("new ", 4);
    file.write(large.data(), large.size());
    file.write("end", 3);
    file.commit();
    CHECK(read_file(path) == "new " + large + "end");
    size_t files = 0;
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator(directory.path())) ++files;
    CHECK(files == 1);
}

TEST_CASE("hashes are xxh3") {
    const TemporaryDirectory directory;
    CHECK(hash_bytes("", 0) == 0x2d06800538d394c2ull);
    atomic_write_file(directory / "a", "abc");
    CHECK(hash_file(directory / "a") == hash_bytes("abc", 3));
    CHECK(hash_bytes("abc", 3) != hash_bytes("abd", 3));
}
