// libFuzzer: any bytes as the index of a token file, behind two that say how long the tokens are.
// Nothing but Error(data) with a message, or an index whose every document can be found and read,
// comes out.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "data/token_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 2) return 0;
    static const std::string prefix = "/dev/shm/fomoe-fuzz-" + std::to_string(getpid());
    const size_t n_bytes = data[0] + 256 * data[1];
    std::ofstream(prefix + ".idx", std::ios::binary)
        .write(reinterpret_cast<const char*>(data + 2), size - 2);
    std::ofstream(prefix + ".bin", std::ios::binary) << std::string(n_bytes, '\1');
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
