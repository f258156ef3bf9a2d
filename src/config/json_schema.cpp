// The JSON schema of a config file, from the table of keys.
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "config/help.h"
#include "config/schema.h"

namespace fomoe {
namespace {

using Json = nlohmann::ordered_json;

Json number(const Limits& limits, bool whole) {
    Json json{{"type", whole ? "integer" : "number"}};
    const auto bound = [&](double value) {
        return whole ? Json(static_cast<int64_t>(value)) : Json(value);
    };
    if (std::isfinite(limits.least))
        json[limits.above ? "exclusiveMinimum" : "minimum"] = bound(limits.least);
    if (limits.most == std::nextafter(1.0, 0.0))
        json["exclusiveMaximum"] = 1;
    else if (std::isfinite(limits.most))
        json["maximum"] = bound(limits.most);
    return json;
}

// A text with a unit, as config/units.h reads it.
const char* pattern(Unit unit) {
    switch (unit) {
        case Unit::count:
            return "^[0-9]+(\\.[0-9]*)?[kKMGBT]$";
        case Unit::steps:
            return "^[0-9]+(\\.[0-9]*)?([kKMGBT]|[kKMGBT]?t)$";
        case Unit::seconds:
            return "^[0-9]+(\\.[0-9]*)?(s|min|h|d)$";
        case Unit::steps_or_time:
            return "^[0-9]+(\\.[0-9]*)?([kKMGBT]|[kKMGBT]?t|s|min|h|d)$";
        case Unit::none:
            break;
    }
    return "";
}

Json with_unit(Json plain, Unit unit) {
    if (unit == Unit::none) return plain;
    return {{"anyOf", {std::move(plain), {{"type", "string"}, {"pattern", pattern(unit)}}}}};
}

Json ids() {
    const Json id{{"type", "integer"}, {"minimum", 0}};
    const Json range{{"type", "string"}, {"pattern", "^ *[0-9]+ *(- *[0-9]+ *)?$"}};
    const Json list{{"type", "array"}, {"items", {{"anyOf", {id, range}}}}};
    const Json text{{"type", "string"}, {"pattern", "^[0-9, -]+$"}};
    return {{"anyOf", {list, text, id}}};
}

struct TypeOf {
    const Key& key;

    Json operator()(bool*) const { return {{"type", "boolean"}}; }
    Json operator()(int*) const { return with_unit(number(key.limits, true), key.unit); }
    Json operator()(int64_t*) const { return with_unit(number(key.limits, true), key.unit); }
    Json operator()(uint64_t*) const { return number(key.limits, true); }
    Json operator()(double*) const { return with_unit(number(key.limits, false), key.unit); }
    Json operator()(Interval*) const { return with_unit(number(key.limits, true), key.unit); }
    Json operator()(const ChoiceField&) const { return {{"enum", key.values}}; }
    Json operator()(std::string*) const {
        if (!key.values.empty() && !key.is_path) return {{"enum", key.values}};
        return {{"type", "string"}};
    }
    Json operator()(std::map<std::string, std::string>*) const {
        return map_of({{"type", "string"}});
    }
    Json operator()(std::map<std::string, double>*) const {
        return map_of(number(key.limits, false));
    }
    Json operator()(std::map<std::string, std::vector<int>>*) const { return map_of(ids()); }
    Json operator()(std::map<int64_t, int>*) const {
        return {{"type", "object"},
                {"patternProperties", {{"^[1-9][0-9]*$", number(key.limits, true)}}},
                {"additionalProperties", false}};
    }

    static Json map_of(Json values) {
        return {{"type", "object"}, {"additionalProperties", std::move(values)}};
    }
};

Json section() {
    return {{"type", "object"}, {"properties", Json::object()}, {"additionalProperties", false}};
}

// The object that the section is in, made when it is new.
Json& below(Json& object, const std::string& name) {
    const bool list = name.ends_with("[]");
    const std::string plain = list ? name.substr(0, name.size() - 2) : name;
    Json& entry = object["properties"][plain];
    if (entry.is_null()) {
        entry = list ? Json{{"type", "array"}, {"minItems", 1}, {"items", section()}} : section();
        if (list) entry["items"]["required"] = {"name"};
    }
    return list ? entry["items"] : entry;
}

}  // namespace

std::string config_schema() {
    Json top = section();
    for (const Key& key : config_keys()) {
        Json* object = &top;
        size_t begin = 0;
        for (size_t dot; (dot = key.path.find('.', begin)) != std::string::npos; begin = dot + 1)
            object = &below(*object, key.path.substr(begin, dot - begin));
        Config config;
        Json entry{{"description", key.help}};
        entry.update(std::visit(TypeOf{key}, key.field(config, 0)));
        const std::string plain = value_text(key, config);
        if (key.inherits.empty() && key.otherwise.empty() && plain != "{}" &&
            key.path.find("[]") == std::string::npos)
            entry["default"] = Json::accept(plain) ? Json::parse(plain) : Json(plain);
        (*object)["properties"][key.path.substr(begin)] = std::move(entry);
    }
    Json schema{{"$schema", "http://json-schema.org/draft-07/schema#"},
                {"title", "A run of fomoe-train"}};
    schema.update(top);
    return schema.dump(2) + "\n";
}

}  // namespace fomoe
