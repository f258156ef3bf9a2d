// Keeps findings until a test takes them; prints them when the process ends and nobody did.
#include "check/findings.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>

namespace cudaemu {
namespace {

struct Findings {
    std::mutex mutex;
    std::vector<std::string> kept;
    std::set<std::string> keys;
    bool ended = false;  // the process is about to: nobody will take findings any more
};

void print(const std::string& finding) { std::fprintf(stderr, "cudaemu: %s\n", finding.c_str()); }

Findings& findings() {
    // Never destroyed: destructors of the program may still do something wrong.
    static Findings* instance = [] {
        std::atexit([] {
            Findings& all = findings();
            std::lock_guard lock(all.mutex);
            for (const std::string& finding : all.kept) print(finding);
            all.ended = true;
        });
        return new Findings;
    }();
    return *instance;
}

// Without what stands in parentheses: blocks and threads.
std::string key_of(const std::string& finding) {
    std::string key;
    int depth = 0;
    for (const char c : finding) {
        if (c == '(') ++depth;
        if (depth == 0) key += c;
        if (c == ')' && depth > 0) --depth;
    }
    return key;
}

}  // namespace

void report(std::string finding) {
    Findings& all = findings();
    std::lock_guard lock(all.mutex);
    if (!all.keys.insert(key_of(finding)).second) return;
    if (all.ended)
        print(finding);
    else
        all.kept.push_back(std::move(finding));
}

}  // namespace cudaemu

const char* cudaemu_take_findings() {
    static std::string taken;
    cudaemu::Findings& all = cudaemu::findings();
    std::lock_guard lock(all.mutex);
    taken.clear();
    for (const std::string& finding : all.kept) taken += finding + "\n";
    all.kept.clear();
    all.keys.clear();
    return taken.c_str();
}
