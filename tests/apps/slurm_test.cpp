// The batch scripts on a real Slurm of one node: jobs that are asked to stop or preempted save, are
// queued again, and end as if they had never stopped.
#include "base/timer.h"
#include "support/tiny_run.h"

using namespace fomoe;

namespace {

const std::string kTests = std::string(FOMOE_SOURCE_DIR) + "/tests";
const std::string kScripts = std::string(FOMOE_SOURCE_DIR) + "/scripts/slurm/";

class Slurm {
public:
    explicit Slurm(const Workplace& place) : place_(place) {
        const Outcome up = place.run({kTests + "/support/slurm.sh", "up", directory_.path()});
        INFO(up.err);
        REQUIRE(up.exit == 0);
        env_["SLURM_CONF"] = up.out.substr(0, up.out.find('\n'));
        env_["FOMOE_TRAIN"] = program("fomoe-train");
    }
    ~Slurm() { place_.run({kTests + "/support/slurm.sh", "down", directory_.path()}); }

    std::string call(const Command& words) const {
        const Outcome result = place_.run(words, env_);
        INFO(words[0] << ": " << result.err);
        REQUIRE(result.exit == 0);
        return result.out.substr(0, result.out.find_last_not_of('\n') + 1);
    }
    // The id of the job; what it says goes to job-ID.log.
    std::string submit(Command options, const Command& script) const {
        options.insert(options.begin(), {"sbatch", "--parsable", "--output=job-%j.log"});
        options.insert(options.end(), script.begin(), script.end());
        return call(options);
    }
    std::string said(const std::string& job) const {
        return read_text(place_.path("job-" + job + ".log"));
    }
    std::string state(const std::string& job) const {
        const Outcome shown = place_.run({"scontrol", "show", "job", job, "--oneliner"}, env_);
        const size_t at = shown.out.find("JobState=");
        return at == std::string::npos ? ""
                                       : shown.out.substr(at + 9, shown.out.find(' ', at) - at - 9);
    }
    template <class Condition>
    void wait(const std::string& what, const std::string& job, const Condition& holds) const {
        const Timer timer;
        while (!holds()) {
            INFO(what << "; job " << job << " is " << state(job) << " and said:\n" << said(job));
            REQUIRE(timer.seconds() < 600);
            usleep(20000);
        }
    }
    void queued_again(const std::string& job) const {
        wait("queued again", job, [&] { return state(job) == "PENDING"; });
    }
    // A job that is queued again waits for two minutes unless it is told not to.
    void start_again(const std::string& job) const {
        // What the node has revoked stays so for jobs of the same second.
        sleep(3);
        const Command now{"scontrol", "update", "JobId=" + job, "StartTime=now"};
        wait("startable", job, [&] { return place_.run(now, env_).exit == 0; });
    }
    void wait_for_step(const std::string& job, const std::string& name, int step) const {
        wait("step " + std::to_string(step), job, [&] {
            const auto steps = place_.steps(name, "west");
            return !steps.empty() && steps.back() >= step;
        });
    }

private:
    const Workplace& place_;
    TemporaryDirectory directory_;
    std::map<std::string, std::string> env_;
};

// The length of all runs stands in a file, which a job that starts again reads again.
void set_steps(const Workplace& place, int steps) {
    write_text(place.path("length.yaml"), "train: {steps: " + std::to_string(steps) + "}\n");
}

// Of `fomoe-train`, without its name.
Command arguments(const Workplace& place, const std::string& name) {
    Command words =
        place.train(kPair, {"--set", "name=" + name, "--set", "train.optimizer.schedule=constant",
                            "--set", "federation.local_steps=50", "--set", "checkpoint.every=200"});
    words.erase(words.begin());
    words.insert(words.begin() + 2, "length.yaml");  // behind the other files
    return words;
}

Command with(const std::string& first, Command rest) {
    rest.insert(rest.begin(), first);
    return rest;
}

}  // namespace

TEST_CASE("asked to stop, preempted or out of time, a job under srun is queued again", "[slurm]") {
    const Workplace place;
    const Slurm slurm(place);
    set_steps(place, 1000000);
    const std::string job = slurm.submit(
        {"--ntasks=4"}, with(kScripts + "federation.sbatch", arguments(place, "queued")));
    // By hand.
    slurm.wait_for_step(job, "queued", 30);
    slurm.call({"scancel", "--signal=USR1", job});
    slurm.queued_again(job);
    CHECK(count(slurm.said(job), "stopped at step") == 1);
    slurm.start_again(job);
    // By a job that goes first.
    const int stopped = place.steps("queued", "west").back();
    slurm.wait_for_step(job, "queued", stopped + 30);
    const std::string urgent =
        slurm.submit({"--partition=urgent", "--ntasks=4"}, {kTests + "/support/nothing.sbatch"});
    slurm.wait("done", urgent, [&] { return slurm.state(urgent) == "COMPLETED"; });
    slurm.queued_again(job);
    CHECK(count(slurm.said(job), "stopped at step") == 2);
    const int steps = steps_behind(place, "queued", {"west", "east"});
    set_steps(place, steps);
    slurm.start_again(job);
    // Beside it a job that would take longer than its minute.
    const Command endless =
        place.train("{name: solo}", {"--set", "name=endless", "--set", "train.steps=1000000",
                                     "--set", "train.log_every=1000", "--set",
                                     "federation.local_steps=1000", "--set", "checkpoint.every=0"});
    const std::string limited =
        slurm.submit({"--ntasks=1", "--time=1"},
                     with(kScripts + "federation.sbatch", {endless.begin() + 1, endless.end()}));
    slurm.wait("done", job, [&] { return slurm.state(job) == "COMPLETED"; });
    CHECK(count(slurm.said(job), "start 3") == 1);
    CHECK(count(slurm.said(job), "run again to go on") == 2);
    place.trained(with(program("fomoe-train"), arguments(place, "kept")));
    check_same_run(place, "queued", "kept", steps, {"west", "east"});
    slurm.queued_again(limited);
    CHECK(count(slurm.said(limited), "the time of SLURM_JOB_END_TIME is over in") == 1);
    CHECK(count(slurm.said(limited), "stopped at step") == 1);
    slurm.call({"scancel", limited});
}

TEST_CASE("a job under mpirun that is asked to stop is queued again and ends the same", "[slurm]") {
    const Workplace place;
    const Slurm slurm(place);
    set_steps(place, 1000000);
    const std::string job = slurm.submit(
        {"--ntasks=4"}, with(kScripts + "federation_mpirun.sbatch", arguments(place, "queued")));
    slurm.wait_for_step(job, "queued", 30);
    slurm.call({"scancel", "--batch", "--signal=USR1", job});
    slurm.queued_again(job);
    const int steps = steps_behind(place, "queued", {"west", "east"});
    set_steps(place, steps);
    slurm.start_again(job);
    slurm.wait("done", job, [&] { return slurm.state(job) == "COMPLETED"; });
    CHECK(count(slurm.said(job), "start 2") == 1);
    CHECK(count(slurm.said(job), "run again to go on") == 1);
    place.trained(with(program("fomoe-train"), arguments(place, "kept")));
    check_same_run(place, "queued", "kept", steps, {"west", "east"});
}

TEST_CASE("every task of a job array trains a federation of its own", "[slurm]") {
    const Workplace place;
    const Slurm slurm(place);
    Command configs;
    for (const char* name : {"first", "second"}) {
        Command words = place.train(kPair, {"--set", std::string("name=") + name, "--dump-config"});
        configs.push_back(std::string(name) + ".yaml");
        write_text(place.path(configs.back()), place.run(words).out);
    }
    const std::string array =
        slurm.submit({"--ntasks=4", "--array=1-3"}, with(kScripts + "federations.sbatch", configs));
    const auto ends = [&](int task, const std::string& how) {
        const std::string job = array + "_" + std::to_string(task);
        slurm.wait(how, job, [&] { return slurm.state(job) == how; });
    };
    ends(1, "COMPLETED");
    ends(2, "COMPLETED");
    ends(3, "FAILED");  // there is no third config
    for (const char* name : {"first", "second"}) CHECK(place.steps(name, "east") == one_to(12));
}
