// For tests of a program's ways out, found with dlsym(RTLD_DEFAULT, ...), so that a test binary
// runs on the real library too.
#pragma once

extern "C" {

// The next `calls` of cublasLtMatmulAlgoGetHeuristic and cublasLtMatmul find nothing supported.
void cudaemu_refuse_matmuls(int calls);

}  // extern "C"
