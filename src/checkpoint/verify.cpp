#include "checkpoint/verify.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "config/load.h"

namespace fomoe {
namespace {

namespace fs = std::filesystem;

// Throws unless the file has its size.
void check_size(const fs::path& path, const FileRecord& record) {
    const int64_t bytes = RangeFile::for_reading(path.string()).bytes();
    if (bytes == record.bytes) return;
    throw Error(Exit::data,
                fmt::format("{} is {}: {} bytes, the manifest says {}; {}", path.string(),
                            bytes < record.bytes ? "truncated" : "too long", bytes, record.bytes,
                            kDamageAdvice));
}

void check_hash(const fs::path& path, const FileRecord& record) {
    const uint64_t hash = hash_file(path.string());
    if (hash == record.xxh3) return;
    throw Error(Exit::data,
                fmt::format("{} is damaged: its hash is {:016x}, the manifest says {:016x}; {}",
                            path.string(), hash, record.xxh3, kDamageAdvice));
}

void check_file(const fs::path& checkpoint, const FileRecord& record) {
    const fs::path path = checkpoint / record.path;
    check_size(path, record);
    check_hash(path, record);
    if (path.extension() == ".safetensors") SafetensorsFile{path};
    if (record.path == "config.yaml") load_saved_config(path.string());
}

}  // namespace

void verify_files(const fs::path& checkpoint, const Manifest& manifest, Verify verify) {
    for (const FileRecord& record : manifest.files) {
        check_size(checkpoint / record.path, record);
        if (verify == Verify::hashes) check_hash(checkpoint / record.path, record);
    }
}

std::vector<std::string> damages(const fs::path& checkpoint, int parts, int part) {
    std::vector<std::string> found;
    try {
        const Manifest manifest = read_manifest(checkpoint);
        for (size_t i = part; i < manifest.files.size(); i += parts) try {
                check_file(checkpoint, manifest.files[i]);
            } catch (const Error& error) {
                found.push_back(error.what());
            }
    } catch (const Error& error) {
        found.push_back(error.what());
    }
    return found;
}

std::string damage_found(Communicator& ranks, const fs::path& checkpoint) {
    const std::vector<std::string> mine = damages(checkpoint, ranks.size(), ranks.rank());
    const int64_t n = mine.empty() ? 0 : std::ssize(mine[0]);
    std::vector<int64_t> lengths(ranks.size());
    ranks.all_gather(view(lengths.data(), Shape(ranks.size())), view(&n, Shape(1)));
    const auto first = std::ranges::find_if(lengths, [](int64_t length) { return length > 0; });
    if (first == lengths.end()) return "";
    // A letter a number: rare and short.
    std::vector<int32_t> letters(*first);
    const int speaker = static_cast<int>(first - lengths.begin());
    if (ranks.rank() == speaker) std::ranges::copy(mine[0], letters.begin());
    ranks.broadcast(view(letters.data(), Shape(*first)), speaker);
    return {letters.begin(), letters.end()};
}

}  // namespace fomoe
