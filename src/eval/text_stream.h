// Text that comes in pieces, as it may be shown: characters of UTF-8 whole, and nothing from a stop
// string on.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fomoe {

class TextStream {
public:
    explicit TextStream(std::vector<std::string> stops = {});  // none of them empty

    // What can be shown now. The rest of it waits: it may become a stop string or a character.
    std::string add(std::string_view bytes);
    // What has waited, when nothing more comes.
    std::string rest();
    bool stopped() const { return stopped_; }

private:
    std::vector<std::string> stops_;
    std::string held_;
    bool stopped_ = false;
};

}  // namespace fomoe
