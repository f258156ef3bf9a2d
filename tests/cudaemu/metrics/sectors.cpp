// The sectors of device memory that a launch has touched.
#include "metrics/sectors.h"

namespace cudaemu {

SectorMap::Page& SectorMap::page(uint64_t number) {
    if (number != last_number_) {
        std::unique_ptr<Page>& found = pages_[number];
        if (!found) found = std::make_unique<Page>();
        last_ = found.get();
        last_number_ = number;
    }
    return *last_;
}

void SectorMap::touch(uint64_t sector, Access access) {
    Page& page = this->page(sector / kPageSectors);
    const uint64_t at = sector % kPageSectors;
    if (access != Access::write) page.read.set(at);
    if (access == Access::write || access == Access::atomic) page.written.set(at);
    if (access == Access::read) {
        uint32_t& filled = page.filled[at];
        if (filled > block_start_ && fills_ - filled < kCachedSectors) return;
        filled = ++fills_;
    }
    ++(access == Access::write || access == Access::atomic ? second_level_.written
                                                           : second_level_.read);
}

void SectorMap::add(const SectorMap& other) {
    for (const auto& [number, theirs] : other.pages_) {
        Page& ours = page(number);
        ours.read |= theirs->read;
        ours.written |= theirs->written;
    }
    second_level_.read += other.second_level_.read;
    second_level_.written += other.second_level_.written;
}

Traffic SectorMap::distinct() const {
    Traffic traffic;
    for (const auto& [number, page] : pages_) {
        traffic.read += page->read.count();
        traffic.written += page->written.count();
    }
    return traffic;
}

}  // namespace cudaemu
