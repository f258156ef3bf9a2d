// Tests that run under mpirun.
#pragma once

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/error.h"

namespace fomoe {

// A test about MPI runs this program again, with itself as the only test: these are its ranks.
inline bool is_rank() { return std::getenv("FOMOE_TEST_RANK") != nullptr; }

inline int run_again(const std::string& launcher) {
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    const std::string test = Catch::getResultCapture().getCurrentTestName();
    const std::string command = concat("FOMOE_TEST_RANK=1 timeout 600 ", launcher, " '", self,
                                       "' '", test, "' >/dev/null 2>&1");
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

inline int mpirun(int n) {
    return run_again(concat("mpirun -n ", n, " --oversubscribe --bind-to none"));
}

}  // namespace fomoe
