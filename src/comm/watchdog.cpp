// Two threads: one counts seconds, the other writes; a disk that hangs stops only the latter.
#include "comm/watchdog.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <sstream>

#include "base/error.h"
#include "base/timer.h"

namespace fomoe {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr double kLastSeconds = 30;     // to say what is to be said
constexpr double kRetrySeconds = 0.01;  // behind a record that could not be written
constexpr const char* kBar = " | ";
constexpr const char* kNoCall = "no call";

std::string host_and_process() {
    char host[256] = "?";
    gethostname(host, sizeof host - 1);
    return concat(host, kBar, "process ", getpid());
}

std::string text_of_call(const Activity::Picture& p) {
    return concat(p.call, p.number > 0 ? concat(" ", p.number) : "", " of ",
                  text_of_ranks(p.ranks));
}

// A line of the file, as parts between bars.
struct Record {
    std::string host, process, pulse, stage, call;
};

// By rank; those that have not written are missing.
std::map<int, Record> read_records(const std::string& file, int size) {
    std::map<int, Record> all;
    const int descriptor = open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return all;
    for (int rank = 0; rank < size; ++rank) {
        char bytes[Watchdog::kRecord];
        if (pread(descriptor, bytes, sizeof bytes, int64_t{rank} * Watchdog::kRecord) !=
            sizeof bytes)
            break;
        std::istringstream line(std::string(bytes, sizeof bytes));
        std::vector<std::string> parts;
        for (std::string word, part; line >> word;)
            if (word == "|") {
                parts.push_back(part);
                part.clear();
            } else {
                part += (part.empty() ? "" : " ") + word;
            }
        if (parts.size() != 7) continue;
        all[rank] = {parts[1], parts[2], parts[3], parts[4], parts[5]};
    }
    close(descriptor);
    return all;
}

}  // namespace

Watchdog::Watchdog(Activity& activity, int rank, int size, GiveUp give_up)
    : activity_(activity),
      rank_(rank),
      size_(size),
      give_up_(std::move(give_up)),
      place_(host_and_process()),
      watcher_([this] { watch(); }),
      writer_([this] { write_records(); }) {}

Watchdog::~Watchdog() {
    {
        const std::lock_guard lock(mutex_);
        over_ = true;
    }
    wake_.notify_all();
    watcher_.join();
    writer_.join();
}

void Watchdog::record_in(const std::string& file, double limit) {
    {
        const std::lock_guard lock(mutex_);
        file_ = file;
        renewed_ = true;
        tick_ = std::clamp(limit / 10, 0.05, 1.0);
        pulse_ = std::clamp(limit / 4, 0.1, 5.0);
    }
    wake_.notify_all();
}

void Watchdog::watch() {
    Timer timer;
    for (;;) {
        std::unique_lock lock(mutex_);
        const double tick = tick_;
        if (wake_.wait_for(lock, Seconds(tick), [this] { return over_; })) return;
        // Seconds in which this process itself did not run do not count.
        const Activity::Picture picture = activity_.pass(std::min(timer.lap(), 2 * tick));
        lock.unlock();
        // Of the ranks that wait for the same, the first speaks and ends the job.
        const double turn = rank_ == 0 ? 0 : 2 + 0.25 * std::min(rank_, 40);
        if (picture.call.empty() || picture.limit == Activity::kNoLimit ||
            picture.seconds <= picture.limit + turn)
            continue;
        const std::string why = concat(
            picture.stage, ": ", text_of_call(picture), " has not come back for ",
            static_cast<int64_t>(picture.seconds), " s (train.collective_timeout sets the limit)");
        std::thread([why] {
            std::this_thread::sleep_for(Seconds(kLastSeconds));
            const std::string line = "error: " + why + "\n";
            [[maybe_unused]] const ssize_t said = write(STDERR_FILENO, line.data(), line.size());
            std::_Exit(static_cast<int>(Exit::communication));
        }).detach();
        give_up_(why + what_is_late(picture));
    }
}

void Watchdog::write_records() {
    for (int64_t pulse = 1;; ++pulse) {
        const bool written = write_record(pulse);
        std::unique_lock lock(mutex_);
        const double pause = written ? pulse_ : std::min(pulse_, kRetrySeconds);
        wake_.wait_for(lock, Seconds(pause), [this] { return over_ || renewed_; });
        if (over_) return;
        renewed_ = false;
    }
}

// Opened anew each time, so that ranks on other hosts see it on a network file system. What cannot
// be written is not: the directory may be still to come.
bool Watchdog::write_record(int64_t pulse) {
    std::string file;
    {
        const std::lock_guard lock(mutex_);
        file = file_;
    }
    if (file.empty()) return true;
    const Activity::Picture now = activity_.pass(0);
    const int descriptor = open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor < 0) return false;
    std::string line = concat("rank ", rank_, kBar, place_, kBar, "pulse ", pulse, kBar, now.stage,
                              kBar, now.call.empty() ? kNoCall : text_of_call(now), kBar, "for ",
                              static_cast<int64_t>(now.seconds), " s", kBar);
    line.resize(kRecord - 1, ' ');
    line += '\n';
    const ssize_t written = pwrite(descriptor, line.data(), line.size(), int64_t{rank_} * kRecord);
    close(descriptor);
    return written == std::ssize(line);
}

// What every rank was at; of those that share a line, the numbers stand before it. A rank whose
// pulse stands still is silent. Takes a few pulses.
Watchdog::Sight Watchdog::look() {
    std::string file;
    double pulse;
    {
        const std::lock_guard lock(mutex_);
        file = file_;
        pulse = pulse_;
    }
    Sight sight;
    if (file.empty()) return sight;
    const std::map<int, Record> before = read_records(file, size_);
    std::this_thread::sleep_for(Seconds(2.5 * pulse));
    const std::map<int, Record> now = read_records(file, size_);
    std::map<std::string, std::vector<int>> said;
    for (int rank = 0; rank < size_; ++rank) {
        if (!now.contains(rank)) {
            sight.silent.insert(rank);
            said["has written nothing"].push_back(rank);
            continue;
        }
        const Record& record = now.at(rank);
        sight.calls[rank] = record.call;
        const bool silent = before.contains(rank) && before.at(rank).pulse == record.pulse;
        if (silent) sight.silent.insert(rank);
        said[concat(record.stage, ", ", record.call,
                    silent ? concat("; silent: ", record.process, " on ", record.host,
                                    " is stopped or gone")
                           : "")]
            .push_back(rank);
    }
    std::map<int, std::string> lines;  // by their first rank
    for (const auto& [what, ranks] : said)
        lines[ranks.front()] = concat("\n  ", text_of_ranks(ranks), ": ", what);
    for (const auto& [rank, line] : lines) sight.table += line;
    return sight;
}

bool Watchdog::records() {
    const std::lock_guard lock(mutex_);
    return !file_.empty();
}

std::string Watchdog::ranks_now() { return look().table; }

std::string Watchdog::what_is_late(const Activity::Picture& stuck) {
    const Sight sight = look();
    if (sight.table.empty()) return "";
    const std::string call = text_of_call(stuck);
    // Silent ones; else those that are in no call; else those in another.
    std::vector<int> late;
    for (int kind = 0; kind < 3 && late.empty(); ++kind)
        for (const int rank : stuck.ranks) {
            const bool silent = sight.silent.contains(rank);
            if (rank == rank_ || (kind == 0 ? !silent : silent)) continue;
            const std::string& other = kind == 0 ? call : sight.calls.at(rank);
            if (kind == 0 || (kind == 1 ? other == kNoCall : other != call)) late.push_back(rank);
        }
    return (late.empty() ? "; all of them are in it, so what connects them may have failed"
                         : concat("; waited for: ", text_of_ranks(late))) +
           sight.table;
}

}  // namespace fomoe
