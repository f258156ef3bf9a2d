// The table of keys for readers: help on a terminal, tables for README, a JSON schema for editors.
#pragma once

#include <string>

namespace fomoe {

// Every key below a section, or one key; "" is all. Throws Error(usage) when there is none.
std::string config_help(const std::string& section);
// Markdown: for each section a table between "<!-- keys SECTION -->" and "<!-- end of keys -->".
std::string config_tables();
// JSON schema (draft 7), as editors take it.
std::string config_schema();

}  // namespace fomoe
