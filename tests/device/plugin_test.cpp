// What is said of files that are no CUDA plugin of this build.
#include "device/plugin.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "support/temporary_directory.h"

using namespace fomoe;
using Catch::Matchers::Contains;

TEST_CASE("a plugin that is not there has no reason") {
    const LoadedPlugin none = load_cuda_plugin_at("/nowhere/libfomoe_cuda.so");
    CHECK(none.plugin == nullptr);
    CHECK(none.why_not == "");
}

TEST_CASE("a file that is no library, and a library that is no plugin") {
    TemporaryDirectory directory;
    const std::string file = directory / "libfomoe_cuda.so";
    std::ofstream(file) << "text";
    const LoadedPlugin text = load_cuda_plugin_at(file);
    CHECK(text.plugin == nullptr);
    CHECK_THAT(text.why_not, Contains("does not load") && Contains(file));

    const LoadedPlugin library = load_cuda_plugin_at(FOMOE_BINARY_DIR "/tests/libno_plugin.so");
    CHECK(library.plugin == nullptr);
    CHECK_THAT(library.why_not, Contains("libno_plugin.so is not a CUDA plugin"));
}

TEST_CASE("a plugin of another build is refused") {
    const LoadedPlugin other = load_cuda_plugin_at(FOMOE_BINARY_DIR "/tests/libother_plugin.so");
    CHECK(other.plugin == nullptr);
    CHECK_THAT(other.why_not,
               Contains("another build") && Contains(concat("version ", CudaPlugin::kVersion + 1)));
}
