// Ranks as processes of this machine, without mpirun, which would end all of them when one dies.
// The program runs itself again with the running test as the only one; the test asks is_rank().
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <new>
#include <sstream>
#include <string>
#include <vector>

#include "base/timer.h"
#include "comm/communicator.h"
#include "support/temporary_directory.h"

namespace fomoe {

inline bool is_rank() { return std::getenv("FOMOE_TEST_RANK") != nullptr; }

// Barrier, broadcast and all_gather of small host tensors through a mapped file, and one split of
// that; a rank that does not come within 10 minutes is an Error.
class FileCommunicator final : public Communicator {
public:
    static constexpr int64_t kSlot = 4096;
    struct Head {
        std::atomic<uint32_t> arrived, generation;
    };
    // A page of heads, one for each first rank of a part behind that of all, and two slots a rank.
    static int64_t file_bytes(int ranks) { return kSlot * (1 + 2 * ranks); }

    // From the environment that run_as_ranks makes.
    FileCommunicator()
        : rank_(std::atoi(std::getenv("FOMOE_TEST_RANK"))),
          size_(std::atoi(std::getenv("FOMOE_TEST_SIZE"))) {
        const int file = open(std::getenv("FOMOE_TEST_FILE"), O_RDWR);
        void* found = mmap(nullptr, file_bytes(size_), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        FOMOE_CHECK(file >= 0 && found != MAP_FAILED);
        close(file);
        memory_ = static_cast<char*>(found);
        for (int rank = 0; rank < size_; ++rank) slots_.push_back(memory_ + kSlot * (1 + rank));
    }

    int rank() const override { return rank_; }
    int size() const override { return size_; }
    void barrier() override {
        Head& head = reinterpret_cast<Head*>(memory_)[head_];
        const uint32_t generation = head.generation;
        if (++head.arrived == static_cast<uint32_t>(size_)) {
            head.arrived = 0;
            ++head.generation;
        }
        for (const Timer timer; head.generation == generation; usleep(200))
            if (timer.seconds() > 600) throw Error(Exit::communication, "a rank is missing");
    }
    void broadcast(Tensor x, int root, Queue) override {
        FOMOE_CHECK(x.bytes() <= kSlot);
        if (rank_ == root) std::memcpy(slots_[root], x.data, x.bytes());
        barrier();
        std::memcpy(x.data, slots_[root], x.bytes());
        barrier();
    }
    void all_gather(Tensor out, ConstTensor in, Queue) override {
        FOMOE_CHECK(in.bytes() <= kSlot);
        std::memcpy(slots_[rank_], in.data, in.bytes());
        barrier();
        for (int from = 0; from < size_; ++from)
            std::memcpy(static_cast<char*>(out.data) + from * in.bytes(), slots_[from], in.bytes());
        barrier();
    }
    void reduce_scatter_sum(Tensor, ConstTensor, Queue) override { missing(); }
    void all_reduce_sum(Tensor, Queue) override { missing(); }
    void all_reduce_max(Tensor, Queue) override { missing(); }
    void all_to_all_v(Tensor, std::span<const int64_t>, ConstTensor, std::span<const int64_t>,
                      Queue) override {
        missing();
    }
    void exchange(std::span<const Send>, std::span<const Receive>, double) override { missing(); }
    void post(int, uint64_t) override { missing(); }
    std::optional<Notice> poll() override { return {}; }
    std::unique_ptr<Communicator> split(int color) override {
        std::vector<int> colors(size_);
        all_gather(view(colors.data(), Shape(size_)), view(&color, Shape(1)), Queue::compute);
        std::unique_ptr<FileCommunicator> part(new FileCommunicator(*this));
        part->slots_.clear();
        for (int rank = 0; rank < size_; ++rank) {
            if (colors[rank] != color) continue;
            if (part->slots_.empty()) part->head_ = 1 + rank;
            if (rank == rank_) part->rank_ = static_cast<int>(part->slots_.size());
            part->slots_.push_back(slots_[rank] + size_ * kSlot);
        }
        part->size_ = static_cast<int>(part->slots_.size());
        return part;
    }

private:
    FileCommunicator(const FileCommunicator&) = default;
    [[noreturn]] static void missing() {
        throw Error(Exit::internal, "these ranks cannot do that");
    }

    int rank_, size_;
    char* memory_;
    int head_ = 0;
    std::vector<char*> slots_;
};

struct RankResult {
    int exit = -1;  // -1: a signal
    int signal = 0;
    std::string output;
};

// The running test on `n` ranks. Ranks that are not done after `seconds`, and the last `stay` that
// are left, are killed.
inline std::vector<RankResult> run_as_ranks(
    int n, const std::map<std::string, std::string>& environment = {}, double seconds = 600,
    int stay = 0) {
    const TemporaryDirectory folder;
    const std::string shared = folder / "shared";
    std::ofstream(shared) << std::string(FileCommunicator::file_bytes(n), '\0');
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    const std::string test = Catch::getResultCapture().getCurrentTestName();
    const auto log = [&](int rank) { return folder / concat("rank", rank); };
    std::vector<pid_t> processes;
    for (int rank = 0; rank < n; ++rank) {
        const pid_t process = fork();
        if (process == 0) {
            for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
            setenv("FOMOE_TEST_RANK", std::to_string(rank).c_str(), 1);
            setenv("FOMOE_TEST_SIZE", std::to_string(n).c_str(), 1);
            setenv("FOMOE_TEST_FILE", shared.c_str(), 1);
            const int file = open(log(rank).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
            dup2(file, 1);
            dup2(file, 2);
            execl(self.c_str(), self.c_str(), test.c_str(), static_cast<char*>(nullptr));
            _exit(127);
        }
        processes.push_back(process);
    }
    std::vector<RankResult> results(n);
    const Timer timer;
    for (int left = n; left > 0; usleep(2000)) {
        for (int rank = 0; rank < n; ++rank) {
            int status = 0;
            if (processes[rank] == 0 || waitpid(processes[rank], &status, WNOHANG) == 0) continue;
            results[rank].exit = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
            results[rank].signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
            processes[rank] = 0;
            --left;
        }
        if (timer.seconds() > seconds || left <= stay)
            for (const pid_t process : processes)
                if (process) kill(process, SIGKILL);
    }
    for (int rank = 0; rank < n; ++rank) {
        std::ostringstream text;
        text << std::ifstream(log(rank)).rdbuf();
        results[rank].output = text.str();
    }
    return results;
}

// All ranks end well.
inline void check_ranks(const std::vector<RankResult>& results) {
    for (size_t rank = 0; rank < results.size(); ++rank) {
        INFO("rank " << rank << ": " << results[rank].output);
        CHECK(results[rank].exit == 0);
    }
}

}  // namespace fomoe
