#include "config/help.h"

#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "config/config_files.h"
#include "config/schema.h"

using namespace fomoe;

namespace {

// Paths of the keys in the tables of the documentation.
std::set<std::string> documented() {
    std::set<std::string> paths;
    std::istringstream lines(config_tables());
    std::string section;
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with("<!-- keys ")) section = line.substr(10, line.find(" -->") - 10);
        if (!line.starts_with("| `")) continue;
        const std::string name = line.substr(3, line.find('`', 3) - 3);
        paths.insert(section == "top" ? name : section + "." + name);
    }
    return paths;
}

// The schema of a key.
const nlohmann::json* schema_of(const nlohmann::json& schema, const std::string& path) {
    const nlohmann::json* at = &schema;
    std::istringstream names(path);
    for (std::string name; std::getline(names, name, '.');) {
        const bool list = name.ends_with("[]");
        if (list) name.resize(name.size() - 2);
        if (!at->contains("properties") || !at->at("properties").contains(name)) return nullptr;
        at = &at->at("properties").at(name);
        if (list) at = &at->at("items");
    }
    return at;
}

}  // namespace

TEST_CASE("every key is documented, and every documented key is read") {
    const std::set<std::string> paths = documented();
    const auto schema = nlohmann::json::parse(config_schema());
    for (const Key& key : config_keys()) {
        INFO(key.path);
        CHECK(paths.contains(key.path));
        CHECK(config_help(key.path).find(key.path.substr(key.path.rfind('.') + 1)) !=
              std::string::npos);
        const nlohmann::json* found = schema_of(schema, key.path);
        REQUIRE(found);
        CHECK(found->at("description") == key.help);
    }
    CHECK(paths.size() == config_keys().size());
    for (std::string path : paths) {
        INFO(path);
        if (const size_t list = path.find("[]"); list != path.npos) path.insert(list + 1, "0");
        const Key* key = find_key(path);
        REQUIRE(key);
        const std::string said =
            errors(kSources, {path + "=" + (is_map(*key) ? "{}" : value_text(*key, Config{}))});
        CHECK(said.find("unknown key") == std::string::npos);
        // Defaults that mean "as another key" cannot be given; all others are read.
        const bool read = said == "no error" || said.find("has no effect") != std::string::npos;
        CHECK((read || !key->otherwise.empty()));
    }
}

TEST_CASE("help is of a section or a key, in lines that fit") {
    std::istringstream lines(config_help(""));
    for (std::string line; std::getline(lines, line);) {
        INFO(line);
        CHECK(line.size() <= 100);
    }
    CHECK(config_help("federation.outer") ==
          "federation.outer\n"
          "  optimizer  one of average, nesterov; default nesterov\n"
          "             how a round's results become the new weights\n"
          "  lr         a number above 0; default 0.7\n"
          "             outer learning rate of nesterov\n"
          "  momentum   a number from 0 to below 1; default 0.9\n"
          "             outer momentum of nesterov\n");
    CHECK(config_help("topology.groups").find("expert_parallel") != std::string::npos);
    CHECK(config_help("federation").find("federation.expert.outer\n") != std::string::npos);
    try {
        config_help("model.mo");
        FAIL("no error");
    } catch (const Error& error) {
        CHECK(error.exit == Exit::usage);
        CHECK(std::string(error.what()) ==
              "--help-config: there is no section or key 'model.mo' (did you mean 'moe'?)");
    }
}

TEST_CASE("the schema has types, limits, choices and defaults, and refuses what is unknown") {
    const auto schema = nlohmann::json::parse(config_schema());
    CHECK(schema.at("additionalProperties") == false);
    const nlohmann::json& top_k = *schema_of(schema, "model.moe.top_k");
    CHECK(top_k.at("type") == "integer");
    CHECK(top_k.at("minimum") == 1);
    CHECK(top_k.at("default") == 2);
    CHECK(schema_of(schema, "model.moe.router")->at("enum") ==
          nlohmann::json({"softmax", "sigmoid"}));
    CHECK(schema_of(schema, "model.init_std")->at("exclusiveMinimum") == 0.0);
    CHECK(schema_of(schema, "train.optimizer.beta2")->at("exclusiveMaximum") == 1);
    CHECK(schema_of(schema, "train.steps")->at("anyOf").size() == 2);
    CHECK(schema_of(schema, "topology.groups[]")->at("required") == nlohmann::json({"name"}));
    CHECK(schema_of(schema, "federation.outer")->at("additionalProperties") == false);
}
