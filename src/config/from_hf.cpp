#include "config/from_hf.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/error.h"
#include "config/hugging_face.h"
#include "config/schema.h"

namespace fomoe {
namespace {

// With a number where 0 means one.
Config resolved(Config config) {
    if (config.model.n_heads > 0) config.model.d_head = config.model.head_size();
    return config;
}

}  // namespace

bool take_shape(Config& config, Findings& findings) {
    const std::string path = "model.from_hf", directory = config.model.from_hf;
    if (directory.empty()) return true;
    const std::string file = (std::filesystem::path(directory) / "config.json").string();
    Config found = config;
    try {
        found.model = read_hugging_face(directory, config.model).model;
    } catch (const Error& why) {
        findings.error(findings.origin_of(path), path, why.what());
        return false;
    }
    if (config.model.vocab_size == 0) config.model.vocab_size = found.model.vocab_size;
    const Config asked = resolved(config), theirs = resolved(found);
    for (const Key& key : config_keys()) {
        if (!key.path.starts_with("model.") || findings.wrong(key.path)) continue;
        const std::string here = value_text(key, asked), there = value_text(key, theirs);
        if (here == there) continue;
        if (findings.is_given(key.path))
            findings.error(findings.origin_of(key.path), key.path,
                           fmt::format("{}, but {} has {}; leave the key out", here, file, there));
        else
            findings.given(key.path, file);
    }
    config.model = found.model;
    return true;
}

}  // namespace fomoe
