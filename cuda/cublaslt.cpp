// Loads libcublasLt from where the loader would have found it for this plugin.
#include "cuda/cublaslt.h"

#include <dlfcn.h>

namespace fomoe {
namespace {

void* load() {
    const std::string file = concat("libcublasLt.so.", CUBLAS_VER_MAJOR);
    void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw Error(Exit::internal, concat("cuBLASLt does not load: ", dlerror()));
    return library;
}

template <class Function>
void find(Function*& function, void* library, const char* name) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    if (!function) throw Error(Exit::internal, concat("cuBLASLt lacks a function: ", dlerror()));
}

CublasLt find_all() {
    void* library = load();
    CublasLt found;
    find(found.create, library, "cublasLtCreate");
    find(found.destroy, library, "cublasLtDestroy");
    find(found.status_text, library, "cublasLtGetStatusString");
    find(found.matmul, library, "cublasLtMatmul");
    find(found.heuristic, library, "cublasLtMatmulAlgoGetHeuristic");
    find(found.description_create, library, "cublasLtMatmulDescCreate");
    find(found.description_destroy, library, "cublasLtMatmulDescDestroy");
    find(found.description_set, library, "cublasLtMatmulDescSetAttribute");
    find(found.layout_create, library, "cublasLtMatrixLayoutCreate");
    find(found.layout_destroy, library, "cublasLtMatrixLayoutDestroy");
    find(found.preference_create, library, "cublasLtMatmulPreferenceCreate");
    find(found.preference_destroy, library, "cublasLtMatmulPreferenceDestroy");
    find(found.preference_set, library, "cublasLtMatmulPreferenceSetAttribute");
    return found;
}

}  // namespace

const CublasLt& cublaslt() {
    static const CublasLt functions = find_all();
    return functions;
}

}  // namespace fomoe
