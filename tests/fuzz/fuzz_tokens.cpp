// libFuzzer: any bytes as the index of a token file, behind two that say how long the tokens are.
// Nothing but Error(data) with a message, or an index whose every document can be found and read,
// comes out.
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "data/token_file.h"
#include "scratch.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 2) return 0;
    static const Scratch index(".idx"), tokens(".bin");
    const std::string ids(data[0] + 256 * data[1], '\1');
    tokens.with(ids.data(), ids.size());
    const std::string path = index.with(data + 2, size - 2);
    const std::string prefix = path.substr(0, path.size() - std::string(".idx").size());
    try {
        const fomoe::TokenFile file(prefix);
        int64_t before = 0;
        for (int64_t d = 0; d < file.n_documents(); ++d) {
            const int64_t begin = file.document_begin(d), end = file.document_begin(d + 1);
            if (begin < before || end < begin || end > file.n_tokens()) std::abort();
            if (end > begin && file.document_of(begin) != d) std::abort();
            before = begin;
        }
        file.count_document_ends(0, file.n_tokens());
        file.check_tokens(1 << 30);
    } catch (const fomoe::Error& error) {
        if (error.exit != fomoe::Exit::data || !std::strstr(error.what(), prefix.c_str()))
            std::abort();
    }
    return 0;
}
