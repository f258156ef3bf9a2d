// What reaches the disk before what: calls of fsync and rename are noted on their way.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "checkpoint/save.h"
#include "checkpoint/small_run.h"
#include "checkpoint/support.h"

using namespace fomoe;
using namespace fomoe::test;
namespace fs = std::filesystem;

namespace {

struct Call {
    std::string name, path;
    bool operator==(const Call&) const = default;
};
std::mutex noting;
std::vector<Call>* noted = nullptr;

void note(const char* name, std::string path) {
    const std::lock_guard lock(noting);
    if (noted) noted->push_back({name, std::move(path)});
}

}  // namespace

// In the place of the C library's.
extern "C" int fsync(int descriptor) {
    std::error_code failed;
    const int result = static_cast<int>(syscall(SYS_fsync, descriptor));
    note("fsync", fs::read_symlink(concat("/proc/self/fd/", descriptor), failed).string());
    return result;
}
extern "C" int rename(const char* from, const char* to) noexcept {
    const int result = static_cast<int>(syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to));
    note("rename", to);
    return result;
}

TEST_CASE("everything is on the disk before the manifest, and the manifest before the name") {
    const TempDirectory run;
    const fs::path directory = fs::weakly_canonical(run / "checkpoints");
    std::vector<Call> calls;
    noted = &calls;
    const fs::path final = save_small(directory, 3, small_config(1));
    noted = nullptr;
    const fs::path unfinished = final.string() + ".tmp";

    // Where the call stands first, not before `from`.
    const auto first = [&](const char* name, const fs::path& path, int64_t from = 0) {
        const auto at = std::find(calls.begin() + from, calls.end(), Call{name, path});
        INFO(name << ' ' << path);
        REQUIRE(at != calls.end());
        return at - calls.begin();
    };
    const auto times = [&](const char* name, const fs::path& path, int64_t until) {
        return std::count(calls.begin(), calls.begin() + until, Call{name, path});
    };
    const int64_t manifest = first("rename", unfinished / Manifest::kFile);
    for (const FileRecord& file : read_manifest(final).files) {
        const fs::path path = unfinished / file.path;
        CAPTURE(path);
        if (path.extension() == ".safetensors")
            // By the rank that has made it, and by those that have written to it.
            CHECK(times("fsync", path, manifest) >= 2);
        else
            CHECK(first("rename", path) < manifest);
        CHECK(times("fsync", path, manifest) == times("fsync", path, std::ssize(calls)));
    }
    for (const fs::path& below : {fs::path("model"), fs::path("state"), fs::path("state/group"),
                                  fs::path("state/group/west"), fs::path("state/group/east")})
        CHECK(first("fsync", unfinished / below) < manifest);
    const int64_t named = first("rename", final);
    CHECK(first("fsync", unfinished, manifest) < named);
    CHECK(first("fsync", directory, named) < first("rename", directory / "latest"));
}
